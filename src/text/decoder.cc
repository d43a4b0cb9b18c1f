// One small class per kind of step; see decoder.h.
#include "text/decoder.h"

#include "base/error.h"
#include "text/byte_level.h"
#include "text/regex.h"
#include "text/token_model.h"
#include "text/unicode.h"

namespace vertebra {

struct Decoder::Step {
  virtual ~Step() = default;
  virtual void apply(Text& token, bool first) const = 0;
  virtual bool first_differs() const { return false; }
};

namespace {

constexpr int kMaxDepth = 16;
constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxReplacementBytes = 1 << 12;
constexpr int kMaxStrip = 1 << 10;
// Steps of a stranger's file may multiply what those before made.
constexpr size_t kMaxTokenBytes = 1 << 16;

std::string replaced(std::string_view text, std::string_view what, std::string_view with) {
  std::string out;
  size_t from = 0;
  for (size_t at = text.find(what); at != text.npos; at = text.find(what, from)) {
    out.append(text, from, at - from);
    out += with;
    from = at + what.size();
  }
  return out.append(text, from);
}

struct ByteLevel final : Decoder::Step {
  void apply(Decoder::Text& token, bool) const override {
    if (auto bytes = unspell_bytes(token.bytes)) token.bytes = std::move(*bytes);
  }
};

struct ByteFallback final : Decoder::Step {
  void apply(Decoder::Text& token, bool) const override {
    if (const auto byte = byte_of_token(token.bytes)) token.bytes.assign(1, static_cast<char>(*byte));
  }
};

struct Replace final : Decoder::Step {
  std::string literal, content;
  std::unique_ptr<Regex> regex;
  void apply(Decoder::Text& token, bool) const override {
    if (regex == nullptr) {
      token.bytes = replaced(token.bytes, literal, content);
      return;
    }
    std::string out;
    size_t from = 0;
    regex->for_each_match(token.bytes, [&](size_t begin, size_t end) {
      out.append(token.bytes, from, begin - from);
      out += content;
      from = end;
    });
    token.bytes = out.append(token.bytes, from);
  }
};

// Spaces are back where the symbol stands, but for those of the first token where encoding put one there.
struct Metaspace final : Decoder::Step {
  std::string symbol;
  bool drops_first = true;
  void apply(Decoder::Text& token, bool first) const override {
    token.bytes = replaced(token.bytes, symbol, first && drops_first ? "" : " ");
  }
  bool first_differs() const override { return drops_first; }
};

// Strips each token by itself; see Decoder::strip_ for what is stripped from the whole text.
struct StripToken final : Decoder::Step {
  std::string content;
  int start = 0, stop = 0;
  void apply(Decoder::Text& token, bool) const override {
    std::string_view text = token.bytes;
    for (int i = 0; i < start && text.starts_with(content); ++i) text.remove_prefix(content.size());
    for (int i = 0; i < stop && text.ends_with(content); ++i) text.remove_suffix(content.size());
    token.bytes = std::string(text);
  }
};

struct WordPiece final : Decoder::Step {
  std::string prefix;
  bool cleanup = true;
  void apply(Decoder::Text& token, bool first) const override {
    if (!first) {
      if (token.bytes.starts_with(prefix)) {
        token.bytes.erase(0, prefix.size());
      } else {
        token.bytes.insert(0, " ");
      }
    }
    if (!cleanup) return;
    static constexpr std::pair<std::string_view, std::string_view> kTight[] = {
        {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
        {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (const auto& [loose, tight] : kTight) token.bytes = replaced(token.bytes, loose, tight);
  }
  bool first_differs() const override { return true; }
};

struct Suffix final : Decoder::Step {
  std::string suffix;
  void apply(Decoder::Text& token, bool) const override {
    const std::string text = replaced(token.bytes, suffix, "");
    token.space_after = token.bytes.ends_with(suffix);
    token.bytes = text;
  }
};

struct Joined final : Decoder::Step {
  void apply(Decoder::Text& token, bool first) const override {
    if (!first) token.bytes.insert(0, " ");
  }
  bool first_differs() const override { return true; }
};

bool is_one_character(std::string_view text) {
  return !text.empty() &&
         decode_utf8(text.data(), text.data() + text.size()).length == static_cast<int>(text.size());
}

std::shared_ptr<const Decoder::Step> parse_replace(const Json& section, bool fused,
                                                   const std::string& source) {
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
  require(!fused || is_one_character(step->literal), Code::kUnimplemented,
          "{}: Replace after Fuse is supported for a single character only; '{}' could span tokens", source,
          step->regex != nullptr ? step->regex->pattern() : step->literal);
  return step;
}

}  // namespace

void Decoder::parse_into(const Json& section, const std::string& source, int depth) {
  require(depth <= kMaxDepth && steps_.size() < kMaxSteps, "{}: decoders nested too deep or too many",
          source);
  const auto type = json_get<std::string>(section, "type", source);
  if (type == "Sequence") {
    const Json list = json_get<Json>(section, "decoders", source);
    require(list.is_array(), "{}: 'decoders' of a Sequence must be a list", source);
    for (const Json& inner : list) parse_into(inner, source, depth + 1);
  } else if (type == "ByteLevel") {
    steps_.push_back(std::make_shared<ByteLevel>());
  } else if (type == "ByteFallback") {
    steps_.push_back(std::make_shared<ByteFallback>());
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Replace") {
    steps_.push_back(parse_replace(section, fused_, source));
  } else if (type == "Metaspace") {
    auto step = std::make_shared<Metaspace>();
    step->symbol = json_get<std::string>(section, "replacement", source);
    require(!step->symbol.empty(), "{}: the replacement of Metaspace is empty", source);
    const bool legacy = json_get<bool>(section, "add_prefix_space", source, true);
    step->drops_first =
        json_get<std::string>(section, "prepend_scheme", source, legacy ? "always" : "never") != "never";
    steps_.push_back(std::move(step));
  } else if (type == "Strip") {
    auto step = std::make_shared<StripToken>();
    step->content = json_get<std::string>(section, "content", source);
    step->start = json_get<int>(section, "start", source);
    step->stop = json_get<int>(section, "stop", source);
    require(!step->content.empty() && step->start >= 0 && step->start <= kMaxStrip && step->stop >= 0 &&
                step->stop <= kMaxStrip,
            "{}: Strip of '{}' {} times at the start and {} at the end; a character and 0 to {} were wanted",
            source, step->content, step->start, step->stop, kMaxStrip);
    require(!fused_ || (step->stop == 0 && strip_.count == 0), Code::kUnimplemented,
            "{}: Strip after Fuse is supported once, and at the start only", source);
    if (fused_) {
      strip_ = {step->content, step->start};
    } else {
      steps_.push_back(std::move(step));
    }
  } else if (type == "WordPiece") {
    auto step = std::make_shared<WordPiece>();
    step->prefix = json_get<std::string>(section, "prefix", source, "##");
    step->cleanup = json_get<bool>(section, "cleanup", source, true);
    steps_.push_back(std::move(step));
  } else if (type == "BPEDecoder") {
    auto step = std::make_shared<Suffix>();
    step->suffix = json_get<std::string>(section, "suffix", source, "</w>");
    require(!step->suffix.empty(), "{}: the suffix of BPEDecoder is empty", source);
    steps_.push_back(std::move(step));
  } else {
    fail(Code::kUnimplemented,
         "{}: type '{}' is not supported; ByteLevel, Metaspace, ByteFallback, Replace, Fuse, Strip, "
         "WordPiece, "
         "BPEDecoder and Sequence are",
         source, type);
  }
}

Decoder Decoder::from_json(const Json& section, bool byte_level, std::string_view source) {
  Decoder decoder;
  const std::string where = std::string(source) + ": decoder";
  if (!section.is_null()) {
    decoder.parse_into(section, where, 0);
    decoder.byte_level_only_ =
        decoder.steps_.size() == 1 && dynamic_cast<const ByteLevel*>(decoder.steps_[0].get()) != nullptr;
  } else if (byte_level) {
    decoder.steps_.push_back(std::make_shared<ByteLevel>());
    decoder.byte_level_only_ = true;
  } else {
    decoder.steps_.push_back(std::make_shared<Joined>());
  }
  return decoder;
}

Decoder::Text Decoder::text(std::string_view spelling, bool first) const {
  Text text{std::string(spelling), false};
  for (const auto& step : steps_) {
    step->apply(text, first);
    require(text.bytes.size() <= kMaxTokenBytes,
            "the tokenizer's decoder makes more than {} bytes of a token", kMaxTokenBytes);
  }
  return text;
}

bool Decoder::first_differs() const {
  for (const auto& step : steps_) {
    if (step->first_differs()) return true;
  }
  return false;
}

}  // namespace vertebra
