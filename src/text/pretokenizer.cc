// Steps run one after the other, each over the pieces of the one before; see pretokenizer.h.
#include "text/pretokenizer.h"

#include "base/error.h"
#include "text/byte_level.h"
#include "text/unicode.h"
#include "text/unicode_reference.h"

namespace vertebra {
namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxSteps = 64;

constexpr size_t kMaxReplacementBytes = 64;
constexpr size_t kMaxPatternBytes = 1 << 12;

bool is_number(char32_t c) { return char_class(c) == CharClass::kNumber; }
bool is_space(char32_t c) { return char_class(c) == CharClass::kSpace; }

bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
           (c >= 0x7B && c <= 0x7E);
  return reference_has(c, ReferenceKind::kPunctuation);
}

Json byte_level_section(bool use_regex) {
  return Json{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json split_section(std::string_view pattern) {
  return Json{{"type", "Sequence"},
              {"pretokenizers", Json::array({Json{{"type", "Split"},
                                                  {"pattern", Json{{"Regex", std::string(pattern)}}},
                                                  {"behavior", "Isolated"},
                                                  {"invert", false}},
                                             byte_level_section(false)})}};
}

}  // namespace

Json Pretokenizer::section_for_pattern(const std::string& pattern) {
  require(!pattern.empty(),
          "the pre-tokenizer pattern is empty; give a name such as 'gpt2' or a regular expression");
  if (pattern == "gpt2") return byte_level_section(true);
  if (pattern == "cl100k" || pattern == "llama3") return split_section(scanner_pattern(ScannerKind::kLlama3));
  if (pattern == "qwen2" || pattern == "qwen3") return split_section(scanner_pattern(ScannerKind::kQwen2));
  if (pattern == "smollm") {
    return Json{{"type", "Sequence"},
                {"pretokenizers", Json::array({Json{{"type", "Digits"}, {"individual_digits", true}},
                                               byte_level_section(true)})}};
  }
  return split_section(pattern);
}

Pretokenizer Pretokenizer::from_json(const Json& section, std::string_view source) {
  Pretokenizer result;
  const std::string where = std::string(source) + ": pre_tokenizer";
  if (section.is_null()) return result;
  result.parse_into(section, where, 0);
  result.choose_scanner();
  return result;
}

bool Pretokenizer::byte_level() const {
  for (size_t i = 0; i < steps_.size(); ++i) {
    if ((steps_[i].kind == Step::Kind::kByteLevel) != (i + 1 == steps_.size())) return false;
  }
  return !steps_.empty();
}

Pretokenizer::Step Pretokenizer::parse_split(const Json& section, const std::string& source) {
  Step step;
  const Json pattern = json_get<Json>(section, "pattern", source);
  if (pattern.is_object() && pattern.contains("Regex")) {
    const auto regex = json_get<std::string>(pattern, "Regex", source);
    step.scan = scanner_for_pattern(regex);
    step.regex.emplace(regex, source);
  } else {
    step.literal = json_get<std::string>(pattern, "String", source);
    require(!step.literal.empty() && step.literal.size() <= kMaxPatternBytes,
            "{}: Split has a pattern of {} bytes; 1 to {} were wanted", source, step.literal.size(),
            kMaxPatternBytes);
  }
  step.invert = json_get<bool>(section, "invert", source, false);
  step.behavior = parse_behavior(section, source, "");
  return step;
}

// `fallback`: where the section may leave it out.
Pretokenizer::Behavior Pretokenizer::parse_behavior(const Json& section, const std::string& source,
                                                    const std::string& fallback) {
  const auto behavior = fallback.empty() ? json_get<std::string>(section, "behavior", source)
                                         : json_get<std::string>(section, "behavior", source, fallback);
  if (behavior == "Isolated") return Behavior::kIsolated;
  if (behavior == "Removed") return Behavior::kRemoved;
  if (behavior == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (behavior == "MergedWithNext") return Behavior::kMergedWithNext;
  if (behavior == "Contiguous") return Behavior::kContiguous;
  fail(
      Code::kInvalidArgument,
      "{}: behavior '{}' is unknown; Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous was "
      "wanted",
      source, behavior);
}

void Pretokenizer::add_characters(bool (*is_match)(char32_t), Behavior behavior) {
  Step step;
  step.kind = Step::Kind::kCharacters;
  step.is_match = is_match;
  step.behavior = behavior;
  steps_.push_back(std::move(step));
}

void Pretokenizer::parse_metaspace(const Json& section, const std::string& source) {
  Step step;
  step.kind = Step::Kind::kMetaspace;
  step.behavior = Behavior::kMergedWithNext;
  step.literal = json_get<std::string>(section, "replacement", source);
  require(!step.literal.empty() && step.literal.size() <= kMaxReplacementBytes,
          "{}: the replacement of Metaspace has {} bytes; 1 to {} were wanted", source, step.literal.size(),
          kMaxReplacementBytes);
  step.split = json_get<bool>(section, "split", source, true);
  const bool legacy = json_get<bool>(section, "add_prefix_space", source, true);
  const auto scheme = json_get<std::string>(section, "prepend_scheme", source, legacy ? "always" : "never");
  require(scheme == "always" || scheme == "first" || scheme == "never",
          "{}: prepend_scheme '{}' is unknown; always, first or never was wanted", source, scheme);
  step.prepend = scheme == "always"  ? Step::Prepend::kAlways
                 : scheme == "first" ? Step::Prepend::kFirst
                                     : Step::Prepend::kNever;
  steps_.push_back(std::move(step));
}

void Pretokenizer::parse_into(const Json& section, const std::string& source, int depth) {
  require(depth <= kMaxDepth && steps_.size() < kMaxSteps, "{}: pre-tokenizers nested too deep or too many",
          source);
  const auto type = json_get<std::string>(section, "type", source);
  if (type == "Sequence") {
    const Json list = json_get<Json>(section, "pretokenizers", source);
    require(list.is_array(), "{}: 'pretokenizers' of a Sequence must be a list", source);
    for (const Json& inner : list) parse_into(inner, source, depth + 1);
  } else if (type == "Split") {
    steps_.push_back(parse_split(section, source));
  } else if (type == "Digits") {
    const bool individual = json_get<bool>(section, "individual_digits", source);
    add_characters(is_number, individual ? Behavior::kIsolated : Behavior::kContiguous);
    steps_.back().individual_digits = individual;
  } else if (type == "Metaspace") {
    parse_metaspace(section, source);
  } else if (type == "Whitespace") {
    Step step;
    step.kind = Step::Kind::kWords;
    step.behavior = Behavior::kRemoved;
    steps_.push_back(std::move(step));
  } else if (type == "WhitespaceSplit") {
    add_characters(is_space, Behavior::kRemoved);
  } else if (type == "BertPreTokenizer") {
    add_characters(is_space, Behavior::kRemoved);
    add_characters(is_punctuation, Behavior::kIsolated);
  } else if (type == "Punctuation") {
    add_characters(is_punctuation, parse_behavior(section, source, "Isolated"));
  } else if (type == "CharDelimiterSplit") {
    Step step;
    step.behavior = Behavior::kRemoved;
    step.literal = json_get<std::string>(section, "delimiter", source);
    require(!step.literal.empty() && step.literal.size() <= kMaxReplacementBytes,
            "{}: the delimiter of CharDelimiterSplit has {} bytes; 1 to {} were wanted", source,
            step.literal.size(), kMaxReplacementBytes);
    steps_.push_back(std::move(step));
  } else if (type == "FixedLength") {
    Step step;
    step.kind = Step::Kind::kFixedLength;
    const auto length = json_get<int64_t>(section, "length", source);
    require(length > 0, "{}: the length of FixedLength is {}; 1 or more was wanted", source, length);
    step.length = static_cast<size_t>(length);
    steps_.push_back(std::move(step));
  } else if (type == "ByteLevel") {
    Step step;
    step.kind = Step::Kind::kByteLevel;
    step.add_prefix_space = json_get<bool>(section, "add_prefix_space", source);
    if (json_get<bool>(section, "use_regex", source, true)) step.scan = ScannerKind::kGpt2;
    steps_.push_back(std::move(step));
  } else {
    fail(Code::kUnimplemented,
         "{}: type '{}' is not supported; ByteLevel, Split, Digits, Metaspace, Whitespace, WhitespaceSplit, "
         "BertPreTokenizer, Punctuation, CharDelimiterSplit, FixedLength and Sequence are",
         source, type);
  }
}

void Pretokenizer::choose_scanner() {
  if (!byte_level()) return;
  const Step& last = steps_.back();
  if (last.add_prefix_space) return;
  if (steps_.size() == 1) {
    only_scanner_ = last.scan;
  } else if (steps_.size() == 2) {
    const Step& first = steps_.front();
    if (first.individual_digits && last.scan == ScannerKind::kGpt2) {
      only_scanner_ = ScannerKind::kSmolLm;
    } else if (first.kind == Step::Kind::kPattern && !last.scan && first.behavior == Behavior::kIsolated) {
      only_scanner_ = first.scan;  // inverting changes which spans are matches, not where they end
    }
  }
}

void Pretokenizer::find_spans(const Step& step, std::string_view text, std::vector<Span>& spans) {
  size_t from = 0;
  const auto found = [&](size_t begin, size_t end) {
    if (begin > from) spans.push_back({from, begin, false});
    spans.push_back({begin, end, true});
    from = end;
  };
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  if (step.kind == Step::Kind::kCharacters) {
    for (const char* p = begin; p < end;) {
      const Utf8Char c = decode_utf8(p, end);
      if (c.valid && step.is_match(c.code_point)) found(p - begin, p - begin + c.length);
      p += c.length;
    }
  } else if (step.kind == Step::Kind::kWords) {
    // Words and runs of what is neither word nor space stay; found() reports the spaces between them, and
    // where a word meets such a run an empty one.
    int previous = -1;
    for (const char* p = begin; p < end;) {
      const Utf8Char c = decode_utf8(p, end);
      const int kind = !c.valid ? 2 : is_word_char(c.code_point) ? 1 : is_space(c.code_point) ? 0 : 2;
      const size_t at = static_cast<size_t>(p - begin);
      if (kind == 0) {
        found(at, at + static_cast<size_t>(c.length));
      } else if (previous > 0 && kind != previous) {
        found(at, at);
      }
      previous = kind;
      p += c.length;
    }
  } else if (step.kind == Step::Kind::kFixedLength) {
    size_t count = 0;
    for (const char* p = begin; p < end; p += decode_utf8(p, end).length) {
      if (count++ % step.length == 0 && p > begin) found(from, static_cast<size_t>(p - begin));
    }
  } else if (step.kind == Step::Kind::kMetaspace && !step.split) {
    // One piece.
  } else if (step.scan) {
    const ScanFunction scan = scanner(*step.scan);
    for (const char* p = begin; p < end;) {
      const char* next = scan(p, end);
      found(p - begin, next - begin);
      p = next;
    }
  } else if (step.regex) {
    step.regex->for_each_match(text, found);
  } else if (!step.literal.empty()) {
    for (size_t at = text.find(step.literal); at != text.npos; at = text.find(step.literal, from)) {
      found(at, at + step.literal.size());
    }
  }
  if (from < text.size()) spans.push_back({from, text.size(), false});
  if (step.invert) {
    for (Span& span : spans) span.match = !span.match;
  }
}

void Pretokenizer::apply_behavior(Behavior behavior, std::vector<Span>& spans) {
  if (behavior == Behavior::kIsolated) return;
  std::vector<Span> out;
  bool previous_match = false;
  for (size_t i = 0; i < spans.size(); ++i) {
    const Span& span = spans[i];
    bool join = false;  // with the span already in `out`
    if (behavior == Behavior::kRemoved && span.match) continue;
    if (behavior == Behavior::kMergedWithPrevious) join = span.match && !previous_match && !out.empty();
    if (behavior == Behavior::kMergedWithNext) join = !span.match && previous_match && !out.empty();
    if (behavior == Behavior::kContiguous) join = i > 0 && span.match == previous_match;
    if (join) {
      out.back().end = span.end;
    } else {
      out.push_back(span);
    }
    previous_match = span.match;
  }
  spans = std::move(out);
}

// `part` as the step wants to see it: with a space before it, its spaces replaced. `owned` keeps what is new.
std::string_view Pretokenizer::rewrite(const Step& step, std::string_view part, bool first,
                                       std::deque<std::string>& owned) const {
  if (part.empty()) return part;
  if (step.add_prefix_space && !part.starts_with(' ')) return owned.emplace_back(1, ' ').append(part);
  if (step.kind != Step::Kind::kMetaspace) return part;
  std::string& out = owned.emplace_back();
  for (const char c : part) {
    if (c == ' ') {
      out += step.literal;
    } else {
      out += c;
    }
  }
  const bool prepend =
      step.prepend == Step::Prepend::kAlways || (step.prepend == Step::Prepend::kFirst && first);
  if (prepend && !out.starts_with(step.literal)) out.insert(0, step.literal);
  return out;
}

void Pretokenizer::split(std::string_view text, FunctionRef<void(std::string_view)> piece,
                         bool at_start) const {
  if (steps_.empty()) {
    if (!text.empty()) piece(text);
    return;
  }
  std::deque<std::string> owned;  // pieces that are not parts of the text
  std::vector<std::string_view> pieces{text}, next;
  std::vector<Span> spans;
  for (const Step& step : steps_) {
    next.clear();
    for (size_t i = 0; i < pieces.size(); ++i) {
      const std::string_view part = rewrite(step, pieces[i], at_start && i == 0, owned);
      spans.clear();
      find_spans(step, part, spans);
      apply_behavior(step.behavior, spans);
      for (const Span& span : spans) {
        std::string_view cut = part.substr(span.begin, span.end - span.begin);
        if (spells_bytes_ && step.kind == Step::Kind::kByteLevel) cut = owned.emplace_back(spell_bytes(cut));
        next.push_back(cut);
      }
    }
    pieces.swap(next);
  }
  for (const std::string_view part : pieces) {
    if (!part.empty()) piece(part);
  }
}

}  // namespace vertebra
