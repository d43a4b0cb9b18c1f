// The `pre_tokenizer` section of a tokenizer.json: how normalized text is cut into the pieces that
// the model encodes one by one. Called by the tokenizer and the BPE trainer.
#pragma once

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
  // ByteLevel, Split, Digits and Sequence of these, ending in ByteLevel. Throws unimplemented for
  // other types, invalid_argument for malformed ones, naming `source`.
  static Pretokenizer from_json(const Json& section, std::string_view source);
  // The section for a pattern by name ("gpt2", "cl100k", "llama3", "qwen2", "qwen3", "smollm") or a
  // regular expression.
  static Json section_for_pattern(const std::string& pattern);

  // The scanner that does all of this section's work, where there is one: pieces follow each other
  // without gaps and are bytes of the text itself.
  std::optional<ScannerKind> only_scanner() const { return only_scanner_; }

  // Calls piece(bytes) for every piece, left to right; the view lives until the call returns.
  void split(std::string_view text, FunctionRef<void(std::string_view piece)> piece) const;

 private:
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    enum class Kind { kPattern, kDigits, kByteLevel } kind = Kind::kPattern;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
    bool individual_digits = false;
    bool add_prefix_space = false;
    std::optional<ScannerKind> scan;
    std::optional<Regex> regex;
    std::string literal;
  };
  struct Span {
    size_t begin, end;
    bool match;
  };

  void parse_into(const Json& section, const std::string& source, int depth);
  static Step parse_split(const Json& section, const std::string& source);
  void choose_scanner();
  static void find_spans(const Step& step, std::string_view text, std::vector<Span>& spans);
  static void apply_behavior(Behavior behavior, std::vector<Span>& spans);

  std::vector<Step> steps_;
  std::optional<ScannerKind> only_scanner_;
};

}  // namespace vertebra
