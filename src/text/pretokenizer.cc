// Steps run one after the other, each over the pieces of the one before; see pretokenizer.h.
#include "text/pretokenizer.h"

#include <deque>

#include "base/error.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxSteps = 64;

bool is_number_at(const char* p, const char* end, int* length) {
  const Utf8Char c = decode_utf8(p, end);
  *length = c.length;
  return c.valid && char_class(c.code_point) == CharClass::kNumber;
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
  require(!section.is_null(), Code::kUnimplemented,
          "{} is null; only byte-level tokenizers (a ByteLevel pre-tokenizer) are supported", where);
  result.parse_into(section, where, 0);
  require(!result.steps_.empty() && result.steps_.back().kind == Step::Kind::kByteLevel, Code::kUnimplemented,
          "{} does not end in ByteLevel; only byte-level tokenizers are supported", where);
  for (size_t i = 0; i + 1 < result.steps_.size(); ++i) {
    require(result.steps_[i].kind != Step::Kind::kByteLevel, Code::kUnimplemented,
            "{} has ByteLevel before its last step, which is not supported", where);
  }
  result.choose_scanner();
  return result;
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
    require(!step.literal.empty(), "{}: Split has an empty pattern", source);
  }
  step.invert = json_get<bool>(section, "invert", source, false);
  const auto behavior = json_get<std::string>(section, "behavior", source);
  if (behavior == "Isolated") {
    step.behavior = Behavior::kIsolated;
  } else if (behavior == "Removed") {
    step.behavior = Behavior::kRemoved;
  } else if (behavior == "MergedWithPrevious") {
    step.behavior = Behavior::kMergedWithPrevious;
  } else if (behavior == "MergedWithNext") {
    step.behavior = Behavior::kMergedWithNext;
  } else if (behavior == "Contiguous") {
    step.behavior = Behavior::kContiguous;
  } else {
    fail(Code::kInvalidArgument,
         "{}: Split behavior '{}' is unknown; Isolated, Removed, MergedWithPrevious, MergedWithNext or "
         "Contiguous "
         "was wanted",
         source, behavior);
  }
  return step;
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
    Step step;
    step.kind = Step::Kind::kDigits;
    step.individual_digits = json_get<bool>(section, "individual_digits", source);
    step.behavior = step.individual_digits ? Behavior::kIsolated : Behavior::kContiguous;
    steps_.push_back(std::move(step));
  } else if (type == "ByteLevel") {
    Step step;
    step.kind = Step::Kind::kByteLevel;
    step.add_prefix_space = json_get<bool>(section, "add_prefix_space", source);
    if (json_get<bool>(section, "use_regex", source, true)) step.scan = ScannerKind::kGpt2;
    steps_.push_back(std::move(step));
  } else {
    fail(Code::kUnimplemented, "{}: type '{}' is not supported; ByteLevel, Split, Digits and Sequence are",
         source, type);
  }
}

void Pretokenizer::choose_scanner() {
  const Step& last = steps_.back();
  if (last.add_prefix_space) return;
  if (steps_.size() == 1) {
    only_scanner_ = last.scan;
  } else if (steps_.size() == 2) {
    const Step& first = steps_.front();
    if (first.kind == Step::Kind::kDigits && first.individual_digits && last.scan == ScannerKind::kGpt2) {
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
  if (step.kind == Step::Kind::kDigits) {
    for (const char* p = begin; p < end;) {
      int length = 0;
      if (is_number_at(p, end, &length)) found(p - begin, p - begin + length);
      p += length;
    }
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

void Pretokenizer::split(std::string_view text, FunctionRef<void(std::string_view)> piece) const {
  std::deque<std::string> prefixed;  // owns pieces that got a space put before them
  std::vector<std::string_view> pieces{text}, next;
  std::vector<Span> spans;
  for (const Step& step : steps_) {
    next.clear();
    for (std::string_view part : pieces) {
      if (step.add_prefix_space && !part.empty() && !part.starts_with(' '))
        part = prefixed.emplace_back(1, ' ').append(part);
      spans.clear();
      find_spans(step, part, spans);
      apply_behavior(step.behavior, spans);
      for (const Span& span : spans) next.push_back(part.substr(span.begin, span.end - span.begin));
    }
    pieces.swap(next);
  }
  for (const std::string_view part : pieces) {
    if (!part.empty()) piece(part);
  }
}

}  // namespace vertebra
