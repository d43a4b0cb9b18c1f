// The only file that knows PCRE2; see regex.h.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include "base/error.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
constexpr uint32_t kMatchLimit = 1'000'000;
constexpr uint32_t kDepthLimit = 10'000;
constexpr uint32_t kHeapLimitKib = 64 << 10;
constexpr size_t kJitStackBytes = 4 << 20;

std::string pcre2_message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

struct Addition {
  uint32_t first, last;
  std::string_view category;
};

constexpr Addition kAdditions[] = {
#include "text/unicode_additions.inc"
};

// The characters of general category `name` ("L", "Lu") that Unicode 15 and 16 added, as the inside of a
// character class.
std::string additions_to(std::string_view name) {
  std::string out;
  for (const Addition& addition : kAdditions) {
    if (addition.category.starts_with(name)) {
      out += fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", addition.first, addition.last);
    }
  }
  return out;
}

// Rewrites a pattern so that PCRE2 classifies as the engines it was written for: they know Unicode 16,
// where the system's PCRE2 may know 14; its \s also takes U+180E, which is not White_Space; and a class
// inside of a class adds its members there, where PCRE2 sees a '['.
class PatternRewriter {
 public:
  PatternRewriter(std::string_view pattern, std::string_view source) : pattern_(pattern), source_(source) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\' && at_ + 1 < pattern_.size()) {
        escape();
        continue;
      }
      if (in_class_ && c == '[' && pattern_.substr(at_).starts_with("[:")) {  // [:alpha:]
        const size_t end = pattern_.find(":]", at_);
        const size_t size = end == pattern_.npos ? 2 : end + 2 - at_;
        out_ += pattern_.substr(at_, size);
        at_ += size;
        continue;
      }
      if (in_class_ && nested_class(c)) continue;
      if (in_class_ && c == ']' && at_ > class_begin_) {
        in_class_ = false;
      } else if (!in_class_ && c == '[') {
        in_class_ = true;
        // A ']' right after "[" or "[^" is an ordinary member.
        class_begin_ = at_ + (pattern_.substr(at_ + 1).starts_with('^') ? 2 : 1);
      }
      out_ += c;
      ++at_;
    }
    return std::move(out_);
  }

 private:
  // True where `c` opened or closed a class inside of the class.
  bool nested_class(char c) {
    const std::string_view rest = pattern_.substr(at_);
    require(!rest.starts_with("[^") && !rest.starts_with("&&"), Code::kUnimplemented,
            "{}: regular expression '{}': a negated class inside of a class, and intersections (&&), are not "
            "supported",
            source_, pattern_);
    const bool opens = c == '[' && at_ >= class_begin_;
    const bool closes = c == ']' && depth_ > 0;
    if (!opens && !closes) return false;
    depth_ += opens ? 1 : -1;
    ++at_;
    return true;
  }

  void escape() {
    const char kind = pattern_[at_ + 1];
    if (kind == 's' || kind == 'S') {
      out_ += kind == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      at_ += 2;
      return;
    }
    const std::string_view rest = pattern_.substr(at_);
    const size_t close = rest.find('}');
    const bool property =
        (kind == 'p' || kind == 'P') && rest.size() > 2 && rest[2] == '{' && close != rest.npos;
    const std::string_view name = property ? rest.substr(3, close - 3) : std::string_view();
    const std::string added = !name.empty() && name.size() <= 2 ? additions_to(name) : std::string();
    if (added.empty() || (kind == 'P' && in_class_)) {
      out_ += rest.substr(0, 2);
      at_ += 2;
      return;
    }
    const std::string members = "\\p{" + std::string(name) + "}" + added;
    out_ += in_class_ ? members : (kind == 'P' ? "[^" : "[") + members + "]";
    at_ += close + 1;
  }

  std::string_view pattern_;
  std::string_view source_;
  std::string out_;
  size_t at_ = 0, class_begin_ = 0;
  int depth_ = 0;  // of classes inside of the class
  bool in_class_ = false;
};

// What a thread needs to run a match; made once per thread.
struct MatchState {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);

  MatchState() {
    require(data != nullptr && context != nullptr && stack != nullptr, Code::kResourceExhausted,
            "no memory for regular expression matching");
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, kDepthLimit);
    pcre2_set_heap_limit(context, kHeapLimitKib);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchState() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;
};

}  // namespace

struct Regex::Code {
  pcre2_code* code = nullptr;
  explicit Code(pcre2_code* c) : code(c) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

Regex::Regex(const std::string& pattern, std::string_view source) : pattern_(pattern) {
  require(pattern.size() <= kMaxPatternBytes, "{}: a regular expression of {} bytes; at most {} are accepted",
          source, pattern.size(), kMaxPatternBytes);
  const std::string rewritten = PatternRewriter(pattern, source).run();
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(rewritten.data()), rewritten.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C,
                                   &error, &offset, nullptr);
  require(code != nullptr, "{}: regular expression '{}' is not valid near byte {}: {}", source, pattern,
          offset, pcre2_message(error));
  code_ = std::make_shared<const Code>(code);
  // Without machine code (a platform that lacks it, a pattern it cannot take) matching is interpreted.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

void Regex::for_each_match(std::string_view text, FunctionRef<void(size_t, size_t)> found) const {
  thread_local MatchState state;
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t from = 0;
  while (from < text.size()) {
    const int rc = pcre2_match(code_->code, subject, text.size(), from, 0, state.data, state.context);
    if (rc == PCRE2_ERROR_NOMATCH) return;
    require(rc >= 0, vertebra::Code::kResourceExhausted,
            "regular expression '{}' gave up on a text of {} bytes at byte {}: {}; simplify the pattern",
            pattern_, text.size(), from, pcre2_message(rc));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(state.data);
    // \K inside a lookahead can report an end before the start: treated as an empty match.
    if (span[1] > span[0] && span[0] >= from) {
      found(span[0], span[1]);
      from = span[1];
    } else {
      const size_t at = std::max<size_t>(span[1], from);
      if (at >= text.size()) return;
      from = at + decode_utf8(text.data() + at, text.data() + text.size()).length;
    }
  }
}

}  // namespace vertebra
