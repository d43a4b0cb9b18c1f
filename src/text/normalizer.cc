// One small class per kind of step; Unicode normal forms by utf8proc. See normalizer.h.
#include "text/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <functional>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/charsmap.h"
#include "text/regex.h"
#include "text/unicode.h"
#include "text/unicode_reference.h"

namespace vertebra {

struct Normalizer::Step {
  virtual ~Step() = default;
  // `max_bytes`: what the result may have; steps that can lengthen text many times over mind it.
  virtual std::string apply(std::string_view text, size_t max_bytes) const = 0;
};

namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxSteps = 64;
// A Replace may lengthen text; beyond this it is an attack, not a tokenizer.
constexpr size_t kMaxReplacementBytes = 1 << 12;
constexpr size_t kMaxPatternBytes = 1 << 12;
// Unicode's forms make at most 11 bytes of one. Steps of a stranger's file may multiply what those before
// made.
constexpr size_t kMaxGrowth = 256, kAlwaysAllowedBytes = 1 << 16;

void check_size(const std::string& text, size_t max_bytes) {
  require(text.size() <= max_bytes,
          "the tokenizer's normalizer makes more than {} bytes of a text: more than {} times its size",
          max_bytes, kMaxGrowth);
}
// Below U+0300 every string is in NFC.
constexpr char32_t kFirstNfcUnsafe = 0x300;

bool is_ascii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
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
  std::string apply(std::string_view text, size_t) const override {
    const bool is_nfc = (options & (UTF8PROC_COMPOSE | UTF8PROC_COMPAT)) == UTF8PROC_COMPOSE;
    if (is_ascii(text) || (is_nfc && below_nfc_unsafe(text))) return std::string(text);
    std::string out;
    for_valid_runs(text, out, [&](std::string_view run) {
      // Characters that the reference does not know stay, and nothing moves across them.
      size_t from = 0;
      for (size_t at = 0; at < run.size();) {
        const Utf8Char c = decode_utf8(run.data() + at, run.data() + run.size());
        if (reference_has(c.code_point, ReferenceKind::kNotNormalized)) {
          map_run(run.substr(from, at - from), out);
          out.append(run, at, static_cast<size_t>(c.length));
          from = at + static_cast<size_t>(c.length);
        }
        at += static_cast<size_t>(c.length);
      }
      map_run(run.substr(from), out);
    });
    return out;
  }

  void map_run(std::string_view run, std::string& out) const {
    if (run.empty()) return;
    utf8proc_uint8_t* mapped = nullptr;
    const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                                     static_cast<utf8proc_ssize_t>(run.size()), &mapped,
                                     static_cast<utf8proc_option_t>(options | UTF8PROC_STABLE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
    require(length >= 0, Code::kResourceExhausted, "Unicode normalization of {} bytes failed: {}", run.size(),
            length < 0 ? utf8proc_errmsg(length) : "");
    out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
  }
};

// Maps each character by itself; broken bytes are kept.
struct CharMap : Normalizer::Step {
  virtual void map(std::string& out, char32_t c) const = 0;
  std::string apply(std::string_view text, size_t) const override {
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

// Lower case that Unicode 16 and 17 brought: the library that defines the format knows it, utf8proc may not.
struct CaseRange {
  char32_t first, last;
  int32_t distance;
};
constexpr CaseRange kNewLowerCase[] = {
    {0x1C89, 0x1C89, 1},    {0xA7CB, 0xA7CB, -42343}, {0xA7CC, 0xA7CC, 1}, {0xA7CE, 0xA7CE, 1},
    {0xA7D2, 0xA7D2, 1},    {0xA7D4, 0xA7D4, 1},      {0xA7DA, 0xA7DA, 1}, {0xA7DC, 0xA7DC, -42561},
    {0x10D50, 0x10D65, 32}, {0x16EA0, 0x16EB8, 27}};

char32_t lower_case(char32_t c) {
  if (c >= kNewLowerCase[0].first) {
    for (const CaseRange& range : kNewLowerCase) {
      if (c >= range.first && c <= range.last) return c + static_cast<char32_t>(range.distance);
    }
  }
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

void append_lower(std::string& out, char32_t c) {
  if (c == 0x130) {  // the one character whose lower case is two
    out += "i\xCC\x87";
  } else {
    append_utf8(out, lower_case(c));
  }
}

struct Lowercase final : CharMap {
  void map(std::string& out, char32_t c) const override { append_lower(out, c); }
};

struct StripAccents final : CharMap {
  void map(std::string& out, char32_t c) const override {
    if (!reference_has(c, ReferenceKind::kMark)) append_utf8(out, c);
  }
};

struct Replace final : Normalizer::Step {
  std::string literal, content;
  std::unique_ptr<Regex> regex;
  std::string apply(std::string_view text, size_t max_bytes) const override {
    std::string out;
    size_t from = 0;
    const auto replace = [&](size_t begin, size_t end) {
      out.append(text, from, begin - from);
      out += content;
      from = end;
      check_size(out, max_bytes);
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
  std::string apply(std::string_view text, size_t) const override {
    return text.empty() ? std::string() : prefix + std::string(text);
  }
};

struct Strip final : Normalizer::Step {
  bool left = true, right = true;
  std::string apply(std::string_view text, size_t) const override {
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

bool is_control(char32_t c) {
  return c < 0x80 ? c < 0x20 || c == 0x7F : reference_has(c, ReferenceKind::kControl);
}

// The blocks that BERT sets apart as words of one character each.
bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// Without control characters, every space a plain one.
struct BertClean final : CharMap {
  void map(std::string& out, char32_t c) const override {
    const bool is_plain_space = c == '\t' || c == '\n' || c == '\r';
    if (c == 0 || c == 0xFFFD || (!is_plain_space && is_control(c))) return;
    if (is_plain_space || char_class(c) == CharClass::kSpace) {
      out += ' ';
    } else {
      append_utf8(out, c);
    }
  }
};

struct BertChinese final : CharMap {
  void map(std::string& out, char32_t c) const override {
    const bool apart = is_chinese(c);
    if (apart) out += ' ';
    append_utf8(out, c);
    if (apart) out += ' ';
  }
};

// Drops non-spacing marks of decomposed text.
struct DropMarks final : CharMap {
  void map(std::string& out, char32_t c) const override {
    if (!reference_has(c, ReferenceKind::kNonspacingMark)) append_utf8(out, c);
  }
};

// What Google's translation models did: control characters vanish, odd spaces are spaces.
struct Nmt final : CharMap {
  void map(std::string& out, char32_t c) const override {
    if ((c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F || c == 0x8F ||
        c == 0x9F) {
      return;
    }
    const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xFEFF || c == 0xFFFD;
    append_utf8(out, space ? U' ' : c);
  }
};

struct SpellBytes final : Normalizer::Step {
  std::string apply(std::string_view text, size_t) const override { return spell_bytes(text); }
};

// The map as the readers of tokenizer.json use it, which is not how SentencePiece does: grapheme by
// grapheme, and of the prefixes of a short one the shortest counts for all of it.
struct Precompiled final : Normalizer::Step {
  static constexpr size_t kShortGrapheme = 6;
  Charsmap map;
  Precompiled(std::string_view blob, const std::string& source) : map(blob, source) {}

  void add_grapheme(std::string& out, std::string_view grapheme) const {
    if (grapheme.size() < kShortGrapheme) {
      if (const auto match = map.shortest(grapheme)) {
        out += match->replacement;
        return;
      }
    }
    for (size_t at = 0; at < grapheme.size();) {
      const auto length =
          static_cast<size_t>(decode_utf8(grapheme.data() + at, grapheme.data() + grapheme.size()).length);
      const std::string_view character = grapheme.substr(at, length);
      const auto match = map.shortest(character);
      out += match ? match->replacement : character;
      at += length;
    }
  }

  std::string apply(std::string_view text, size_t max_bytes) const override {
    std::string out;
    for_valid_runs(text, out, [&](std::string_view run) {
      const char* const end = run.data() + run.size();
      utf8proc_int32_t state = 0;
      size_t begin = 0;
      char32_t previous = 0;
      for (size_t at = 0; at < run.size();) {
        const Utf8Char c = decode_utf8(run.data() + at, end);
        if (at > 0 && utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(previous),
                                                       static_cast<utf8proc_int32_t>(c.code_point), &state)) {
          add_grapheme(out, run.substr(begin, at - begin));
          check_size(out, max_bytes);
          begin = at;
        }
        previous = c.code_point;
        at += static_cast<size_t>(c.length);
      }
      add_grapheme(out, run.substr(begin));
    });
    return out;
  }
};

struct SentencePiece final : Normalizer::Step {
  SentencePieceNormalizer normalizer;
  SentencePiece(const SentencePieceSpec& spec, const std::string& source) : normalizer(spec, source) {}
  std::string apply(std::string_view text, size_t) const override { return normalizer.apply(text); }
};

void parse_bert(std::vector<std::shared_ptr<const Normalizer::Step>>& steps, const Json& section,
                const std::string& source) {
  const bool lower = json_get<bool>(section, "lowercase", source, true);
  if (json_get<bool>(section, "clean_text", source, true)) steps.push_back(std::make_shared<BertClean>());
  if (json_get<bool>(section, "handle_chinese_chars", source, true))
    steps.push_back(std::make_shared<BertChinese>());
  if (json_get<bool>(section, "strip_accents", source, lower)) {
    steps.push_back(std::make_shared<NormalForm>(UTF8PROC_DECOMPOSE));
    steps.push_back(std::make_shared<DropMarks>());
  }
  if (lower) steps.push_back(std::make_shared<Lowercase>());
}

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
    require(!step->literal.empty() && step->literal.size() <= kMaxPatternBytes,
            "{}: Replace has a pattern of {} bytes; 1 to {} were wanted", source, step->literal.size(),
            kMaxPatternBytes);
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
  if (type == "Nmt") return std::make_shared<Nmt>();
  if (type == "ByteLevel") return std::make_shared<SpellBytes>();
  if (type == "Precompiled") {
    const auto text = json_get<std::string>(section, "precompiled_charsmap", source);
    return std::make_shared<Precompiled>(decode_base64(text, source + ": precompiled_charsmap"), source);
  }
  fail(Code::kUnimplemented,
       "{}: normalizer type '{}' is not supported; NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Replace, "
       "Prepend, Strip, Precompiled, BertNormalizer, Nmt, ByteLevel and Sequence are",
       source, type);
}

void parse_into(std::vector<std::shared_ptr<const Normalizer::Step>>& steps, const Json& section,
                const std::string& source, int depth) {
  require(depth <= kMaxDepth && steps.size() < kMaxSteps, "{}: normalizers nested too deep or too many",
          source);
  const auto type = json_get<std::string>(section, "type", source);
  if (type == "BertNormalizer") return parse_bert(steps, section, source);
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

Normalizer Normalizer::sentencepiece(const SentencePieceSpec& spec, const std::string& source) {
  Normalizer normalizer;
  normalizer.steps_.push_back(std::make_shared<SentencePiece>(spec, source));
  return normalizer;
}

std::string Normalizer::apply(std::string_view text) const {
  const size_t max_bytes = kMaxGrowth * text.size() + kAlwaysAllowedBytes;
  std::string out(text);
  for (const auto& step : steps_) {
    out = step->apply(out, max_bytes);
    check_size(out, max_bytes);
  }
  return out;
}

}  // namespace vertebra
