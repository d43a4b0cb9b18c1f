// The `pre_tokenizer` section of a tokenizer.json: how normalized text is cut into the pieces that
// the model encodes one by one. Called by the tokenizer and the BPE trainer.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "base/json.h"
#include "text/regex.h"
#include "text/scanner.h"

namespace vertebra {

class Pretokenizer {
 public:
  // ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, BertPreTokenizer, Punctuation,
  // CharDelimiterSplit, FixedLength and Sequence of these; null cuts nothing. Throws unimplemented for other
  // types, invalid_argument for malformed ones, naming `source`.
  static Pretokenizer from_json(const Json& section, std::string_view source);
  // The section for a pattern by name ("gpt2", "cl100k", "llama3", "qwen2", "qwen3", "smollm") or a
  // regular expression.
  static Json section_for_pattern(const std::string& pattern);

  // The scanner that does all of this section's work, where there is one: pieces follow each other
  // without gaps and are bytes of the text itself.
  std::optional<ScannerKind> only_scanner() const { return only_scanner_; }

  // True where the last step, and only that, is ByteLevel: a byte-level model then takes bytes as they are.
  bool byte_level() const;
  // Makes ByteLevel steps spell bytes as characters, for models over characters.
  void spell_byte_level() { spells_bytes_ = true; }

  // Calls piece(bytes) for every piece, left to right; the view lives until the call returns. `at_start`:
  // the text is the beginning of what is encoded, not what follows an added token.
  void split(std::string_view text, FunctionRef<void(std::string_view piece)> piece,
             bool at_start = true) const;

 private:
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    enum class Kind { kPattern, kCharacters, kWords, kByteLevel, kMetaspace, kFixedLength };
    enum class Prepend { kNever, kFirst, kAlways };
    Kind kind = Kind::kPattern;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
    bool individual_digits = false;
    bool add_prefix_space = false;
    bool (*is_match)(char32_t) = nullptr;  // kCharacters
    Prepend prepend = Prepend::kNever;     // kMetaspace
    bool split = true;
    size_t length = 0;  // kFixedLength
    std::optional<ScannerKind> scan;
    std::optional<Regex> regex;
    std::string literal;  // of kMetaspace what a space becomes
  };
  struct Span {
    size_t begin, end;
    bool match;
  };

  void parse_into(const Json& section, const std::string& source, int depth);
  void add_characters(bool (*is_match)(char32_t), Behavior behavior);
  void parse_metaspace(const Json& section, const std::string& source);
  std::string_view rewrite(const Step& step, std::string_view part, bool first,
                           std::deque<std::string>& owned) const;
  static Behavior parse_behavior(const Json& section, const std::string& source, const std::string& fallback);
  static Step parse_split(const Json& section, const std::string& source);
  void choose_scanner();
  static void find_spans(const Step& step, std::string_view text, std::vector<Span>& spans);
  static void apply_behavior(Behavior behavior, std::vector<Span>& spans);

  std::vector<Step> steps_;
  std::optional<ScannerKind> only_scanner_;
  bool spells_bytes_ = false;
};

}  // namespace vertebra
