// One template for the GPT-2 family, one for the cl100k family; see scanner.h.
#include "text/scanner.h"

#include "text/unicode.h"

namespace vertebra {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr int kLetter = static_cast<int>(CharClass::kLetter);
constexpr int kNumber = static_cast<int>(CharClass::kNumber);
constexpr int kSpace = static_cast<int>(CharClass::kSpace);
constexpr int kOther = static_cast<int>(CharClass::kOther);

struct Step {
  int char_class;
  int length;
};

[[gnu::noinline]] Step step_beyond_ascii(const char* p, const char* end) {
  const Utf8Char c = decode_utf8(p, end);
  if (!c.valid) return {kOther, 1};
  const CharClass known = char_class(c.code_point);
  return {known == CharClass::kMark ? kOther : static_cast<int>(known), c.length};
}

inline Step step(const char* p, const char* end) {
  const int ascii = kAsciiClass[static_cast<unsigned char>(*p)];
  if (ascii != 255) [[likely]]
    return {ascii, 1};
  return step_beyond_ascii(p, end);
}

inline const char* skip_class(const char* p, const char* end, int wanted) {
  while (p < end) {
    const Step s = step(p, end);
    if (s.char_class != wanted) break;
    p += s.length;
  }
  return p;
}

inline bool is_newline(char c) { return c == '\n' || c == '\r'; }

// Length of a contraction at p ('s 't 'm 'd 're 've 'll), or 0. Regardless of case, the long s
// (U+017F) is an s too: it folds to one.
template <bool kAnyCase>
inline int contraction_length(const char* p, const char* end) {
  if (end - p < 2) return 0;
  const auto lower = [](char c) { return kAnyCase && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  const char a = lower(p[1]);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (end - p < 3) return 0;
  if (kAnyCase && p[1] == '\xC5' && p[2] == '\xBF') return 3;
  const char b = lower(p[2]);
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return 0;
}

// `\s+(?!\S)|\s+` at p: the whole run at the end of the text, else all but its last character (the
// next word may want that one), else that one.
struct SpaceRun {
  const char* last;  // begin of the run's last character
  const char* end;
  const char* newline_end = nullptr;  // after the run's last \r or \n
  int next_class = -1;                // class of the character that ended the run; -1 at the end
};

inline SpaceRun space_run(const char* p, const char* end) {
  SpaceRun run{p, p};
  while (run.end < end) {
    const Step s = step(run.end, end);
    if (s.char_class != kSpace) {
      run.next_class = s.char_class;
      break;
    }
    run.last = run.end;
    if (is_newline(*run.end)) run.newline_end = run.end + 1;
    run.end += s.length;
  }
  return run;
}

template <bool kSplitDigits>
const char* scan_gpt2(const char* p, const char* end) {
  if (*p == '\'') {
    if (const int length = contraction_length<false>(p, end)) return p + length;
  }
  const char* q = *p == ' ' && p + 1 < end ? p + 1 : p;
  Step s = step(q, end);
  if (s.char_class == kSpace) {
    const SpaceRun run = space_run(p, end);
    // Digits were split off before this pattern ran, so a run before one stands at its text's end.
    if (run.next_class < 0 || (kSplitDigits && run.next_class == kNumber)) return run.end;
    return run.last > p ? run.last : run.end;
  }
  if (kSplitDigits && s.char_class == kNumber) return q > p ? q : q + s.length;
  return skip_class(q + s.length, end, s.char_class);
}

template <int kDigits>
const char* scan_cl100k(const char* p, const char* end) {
  if (*p == '\'') {
    if (const int length = contraction_length<true>(p, end)) return p + length;
  }
  const Step first = step(p, end);
  if (first.char_class == kLetter) return skip_class(p + first.length, end, kLetter);
  if (first.char_class == kNumber) {
    const char* q = p + first.length;
    for (int n = 1; n < kDigits && q < end; ++n) {
      const Step s = step(q, end);
      if (s.char_class != kNumber) break;
      q += s.length;
    }
    return q;
  }
  const char* q = p + first.length;
  const Step second = q < end ? step(q, end) : Step{-1, 0};
  if (second.char_class == kLetter && !is_newline(*p)) return skip_class(q + second.length, end, kLetter);
  if (first.char_class == kOther || (*p == ' ' && second.char_class == kOther)) {
    q = skip_class(q, end, kOther);
    while (q < end && is_newline(*q)) ++q;
    return q;
  }
  const SpaceRun run = space_run(p, end);
  if (run.newline_end != nullptr) return run.newline_end;
  if (run.next_class < 0) return run.end;
  return run.last > p ? run.last : run.end;
}

}  // namespace

ScanFunction scanner(ScannerKind kind) {
  switch (kind) {
    case ScannerKind::kGpt2:
      return scan_gpt2<false>;
    case ScannerKind::kSmolLm:
      return scan_gpt2<true>;
    case ScannerKind::kLlama3:
      return scan_cl100k<3>;
    case ScannerKind::kQwen2:
      return scan_cl100k<1>;
  }
  return scan_gpt2<false>;
}

std::string_view scanner_pattern(ScannerKind kind) {
  switch (kind) {
    case ScannerKind::kGpt2:
    case ScannerKind::kSmolLm:
      return kGpt2Pattern;
    case ScannerKind::kLlama3:
      return kLlama3Pattern;
    case ScannerKind::kQwen2:
      return kQwen2Pattern;
  }
  return kGpt2Pattern;
}

std::optional<ScannerKind> scanner_for_pattern(std::string_view pattern) {
  for (const ScannerKind kind : {ScannerKind::kGpt2, ScannerKind::kLlama3, ScannerKind::kQwen2}) {
    if (pattern == scanner_pattern(kind)) return kind;
  }
  return std::nullopt;
}

}  // namespace vertebra
