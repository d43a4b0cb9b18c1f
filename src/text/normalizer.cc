// One small class per kind of step; Unicode normal forms by utf8proc. See normalizer.h.
#include "text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <functional>

#include "base/error.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace vertebra {

struct Normalizer::Step {
  virtual ~Step() = default;
  virtual std::string apply(std::string_view text) const = 0;
};

namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxSteps = 64;
// A Replace may lengthen text; beyond this it is an attack, not a tokenizer.
constexpr size_t kMaxReplacementBytes = 1 << 12;
// Below U+0300 every string is in NFC.
constexpr char32_t kFirstNfcUnsafe = 0x300;

bool is_ascii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

// Calls valid(part) for maximal well-formed runs; broken bytes are copied to `out`.
template <class OnValid>
void for_valid_runs(std::string_view text, std::string& out, OnValid valid) {
  const char* const end = text.data() + text.size();
  const char* run = text.data();
  for (const char* p = run; p < end;) {
    const Utf8Char c = decode_utf8(p, end);
    if (!c.valid) {
      if (p > run) valid(std::string_view(run, p - run));
      out += *p;
      run = p + 1;
    }
    p += c.length;
  }
  if (end > run) valid(std::string_view(run, end - run));
}

bool below_nfc_unsafe(std::string_view text) {
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    if (static_cast<unsigned char>(*p) < 0x80) {
      ++p;
      continue;
    }
    const Utf8Char c = decode_utf8(p, end);
    if (c.code_point >= kFirstNfcUnsafe) return false;
    p += c.length;
  }
  return true;
}

struct NormalForm final : Normalizer::Step {
  int options;
  explicit NormalForm(int o) : options(o) {}
  std::string apply(std::string_view text) const override {
    const bool is_nfc = (options & (UTF8PROC_COMPOSE | UTF8PROC_COMPAT)) == UTF8PROC_COMPOSE;
    if (is_ascii(text) || (is_nfc && below_nfc_unsafe(text))) return std::string(text);
    std::string out;
    for_valid_runs(text, out, [&](std::string_view run) {
      utf8proc_uint8_t* mapped = nullptr;
      const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                                       static_cast<utf8proc_ssize_t>(run.size()), &mapped,
                                       static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
      const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
      require(length >= 0, Code::kResourceExhausted, "Unicode normalization of {} bytes failed: {}",
              run.size(), length < 0 ? utf8proc_errmsg(length) : "");
      out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
    });
    return out;
  }
};

// Maps each character by itself; broken bytes are kept.
struct CharMap : Normalizer::Step {
  virtual void map(std::string& out, char32_t c) const = 0;
  std::string apply(std::string_view text) const override {
    std::string out;
    out.reserve(text.size());
    const char* const end = text.data() + text.size();
    for (const char* p = text.data(); p < end;) {
      const Utf8Char c = decode_utf8(p, end);
      if (c.valid) {
        map(out, c.code_point);
      } else {
        out += *p;
      }
      p += c.length;
    }
    return out;
  }
};

struct Lowercase final : CharMap {
  void map(std::string& out, char32_t c) const override {
    if (c == 0x130) {  // the one character whose lower case is two
      out += "i\xCC\x87";
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
  }
};

struct StripAccents final : CharMap {
  void map(std::string& out, char32_t c) const override {
    if (char_class(c) != CharClass::kMark) append_utf8(out, c);
  }
};

struct Replace final : Normalizer::Step {
  std::string literal, content;
  std::unique_ptr<Regex> regex;
  std::string apply(std::string_view text) const override {
    std::string out;
    size_t from = 0;
    const auto replace = [&](size_t begin, size_t end) {
      out.append(text, from, begin - from);
      out += content;
      from = end;
    };
    if (regex != nullptr) {
      regex->for_each_match(text, replace);
    } else {
      for (size_t at = text.find(literal); at != text.npos; at = text.find(literal, from)) {
        replace(at, at + literal.size());
      }
    }
    return out.append(text, from);
  }
};

struct Prepend final : Normalizer::Step {
  std::string prefix;
  std::string apply(std::string_view text) const override {
    return text.empty() ? std::string() : prefix + std::string(text);
  }
};

struct Strip final : Normalizer::Step {
  bool left = true, right = true;
  std::string apply(std::string_view text) const override {
    const char* const end = text.data() + text.size();
    size_t begin = text.size(), stop = 0;  // first and one past the last character that is no space
    for (const char* p = text.data(); p < end;) {
      const Utf8Char c = decode_utf8(p, end);
      if (!c.valid || char_class(c.code_point) != CharClass::kSpace) {
        begin = std::min<size_t>(begin, p - text.data());
        stop = p + c.length - text.data();
      }
      p += c.length;
    }
    if (!left) begin = 0;
    if (!right) stop = text.size();
    return begin < stop ? std::string(text.substr(begin, stop - begin)) : std::string();
  }
};

std::shared_ptr<const Normalizer::Step> parse_replace(const Json& section, const std::string& source) {
  auto step = std::make_shared<Replace>();
  const Json pattern = json_get<Json>(section, "pattern", source);
  step->content = json_get<std::string>(section, "content", source);
  require(step->content.size() <= kMaxReplacementBytes, "{}: Replace content of {} bytes; at most {}", source,
          step->content.size(), kMaxReplacementBytes);
  if (pattern.is_object() && pattern.contains("Regex")) {
    step->regex = std::make_unique<Regex>(json_get<std::string>(pattern, "Regex", source), source);
  } else {
    step->literal = json_get<std::string>(pattern, "String", source);
    require(!step->literal.empty(), "{}: Replace has an empty pattern", source);
  }
  return step;
}

std::shared_ptr<const Normalizer::Step> parse_step(const std::string& type, const Json& section,
                                                   const std::string& source) {
  if (type == "NFC") return std::make_shared<NormalForm>(UTF8PROC_COMPOSE);
  if (type == "NFD") return std::make_shared<NormalForm>(UTF8PROC_DECOMPOSE);
  if (type == "NFKC") return std::make_shared<NormalForm>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  if (type == "NFKD") return std::make_shared<NormalForm>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  if (type == "Lowercase") return std::make_shared<Lowercase>();
  if (type == "StripAccents") return std::make_shared<StripAccents>();
  if (type == "Replace") return parse_replace(section, source);
  if (type == "Prepend") {
    auto step = std::make_shared<Prepend>();
    step->prefix = json_get<std::string>(section, "prepend", source);
    return step;
  }
  if (type == "Strip") {
    auto step = std::make_shared<Strip>();
    step->left = json_get<bool>(section, "strip_left", source);
    step->right = json_get<bool>(section, "strip_right", source);
    return step;
  }
  fail(Code::kUnimplemented,
       "{}: normalizer type '{}' is not supported; NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Replace, "
       "Prepend, Strip and Sequence are",
       source, type);
}

void parse_into(std::vector<std::shared_ptr<const Normalizer::Step>>& steps, const Json& section,
                const std::string& source, int depth) {
  require(depth <= kMaxDepth && steps.size() < kMaxSteps, "{}: normalizers nested too deep or too many",
          source);
  const auto type = json_get<std::string>(section, "type", source);
  if (type != "Sequence") {
    steps.push_back(parse_step(type, section, source));
    return;
  }
  const Json list = json_get<Json>(section, "normalizers", source);
  require(list.is_array(), "{}: 'normalizers' of a Sequence must be a list", source);
  for (const Json& inner : list) parse_into(steps, inner, source, depth + 1);
}

}  // namespace

Normalizer Normalizer::from_json(const Json& section, std::string_view source) {
  Normalizer normalizer;
  if (!section.is_null()) parse_into(normalizer.steps_, section, std::string(source) + ": normalizer", 0);
  return normalizer;
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const auto& step : steps_) out = step->apply(out);
  return out;
}

}  // namespace vertebra
