#include "engine/gguf_text.h"

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/log.h"
#include "engine/generation_config.h"
#include "text/charsmap.h"
#include "text/gguf_pretokenizers.h"
#include "text/pretokenizer.h"

namespace vertebra {
namespace {

constexpr int64_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;
constexpr std::string_view kSpace = "\u2581";  // what SentencePiece writes for a space

// Pieces of a text that no two of the known patterns cut alike.
constexpr std::string_view kProbe =
    "Hello, world's 1234567 I'LL  don't\n\n  x\t\r\n \u00e9t\u00e9 \u4f60\u597d12 3.14 !!?? a_b "
    "\u0663\u0664 "
    "\U0001F600 foo/bar\n";

// Compatibility forms, marks that combine, letters with two cases.
constexpr std::string_view kUnusual = "\uFB01 \u00BD \uFF21\u0301 e\u0301 \u0130 UPPER caf\u00E9";

std::vector<std::string> pieces(const Json& pre_tokenizer, const std::string& source) {
  std::vector<std::string> out;
  Pretokenizer::from_json(pre_tokenizer, source).split(kProbe, [&](std::string_view piece) {
    out.emplace_back(piece);
  });
  return out;
}

// The name of the pre-tokenizer: one that cuts text in the same way.
std::string find_pre(const Json& tokenizer, const std::string& source) {
  const bool ignores_merges = tokenizer["model"].value("ignore_merges", false);
  const auto wanted = pieces(tokenizer["pre_tokenizer"], source);
  constexpr const char* kNames[] = {"gpt-2",  "smollm", "llama-bpe",      "qwen2",       "dbrx",  "qwen35",
                                    "gpt-4o", "tekken", "deepseek-coder", "deepseek-v3", "falcon"};
  for (const char* pre : kNames) {
    const GgufPretokenizer& one = find_gguf_pretokenizer(pre, source);
    if (one.ignore_merges == ignores_merges && pieces(gguf_pretokenizer_section(one), source) == wanted)
      return pre;
  }
  fail(Code::kUnimplemented, "{}: the pre-tokenizer {} has no name in GGUF; those of {} have", source,
       json_line(tokenizer["pre_tokenizer"]), fmt::join(kNames, ", "));
}

class Writer {
 public:
  Writer(const ModelText& text, const std::string& source, GgufMetadata& metadata)
      : text_(text),
        tokenizer_(text.tokenizer),
        source_(source),
        metadata_(metadata),
        json_(tokenizer_.to_json()) {
    const std::string* architecture = metadata.string("general.architecture");
    architecture_ = architecture == nullptr ? "" : *architecture;
    rows_ = metadata.integer(architecture_ + ".vocab_size").value_or(0);
  }

  void run() {
    const Json& model = json_["model"];
    const std::string type = model.value("type", "");
    const bool bytes = json_["decoder"].is_object() && json_["decoder"].value("type", "") == "ByteLevel";
    list_tokens();
    if (type == "BPE" && bytes) {
      write_byte_level();
    } else if (type == "BPE" && model.value("byte_fallback", false)) {
      write_characters();
    } else if (type == "Unigram") {
      write_unigram();
    } else if (type == "WordPiece") {
      write_wordpiece();
    } else {
      fail(Code::kUnimplemented,
           "{}: a tokenizer of type '{}' is not written to GGUF; BPE over bytes or with byte fallback, "
           "Unigram and "
           "WordPiece are",
           source_, type);
    }
    set("tokens", GgufValue::strings(tokens_));
    set("token_type", GgufValue::i32s(types_));
    write_special();
    check();
  }

 private:
  void set(const char* key, GgufValue value) {
    metadata_.set(std::string("tokenizer.ggml.") + key, std::move(value));
  }

  void list_tokens() {
    for (int32_t id = 0; id < std::max<int64_t>(rows_, tokenizer_.vocab_size()); ++id) {
      const bool is_token = id < tokenizer_.vocab_size() && tokenizer_.is_token(id);
      tokens_.push_back(is_token ? tokenizer_.token_spelling(id) : fmt::format("[PAD{}]", id));
      types_.push_back(is_token ? kNormal : kUnused);
    }
    for (const AddedToken& token : tokenizer_.added_tokens())
      types_[static_cast<size_t>(token.id)] = token.special ? kControl : kUserDefined;
  }

  static bool spells_byte(std::string_view token) {
    return token.size() == 6 && token.starts_with("<0x") && token.ends_with('>') &&
           token.substr(3, 2).find_first_not_of("0123456789ABCDEF") == std::string_view::npos;
  }
  // Types that only SentencePiece vocabularies have.
  void mark_bytes_and_unknown(const std::optional<int32_t>& unknown) {
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (types_[id] == kNormal && spells_byte(tokens_[id])) types_[id] = kByte;
    }
    if (!unknown.has_value()) return;
    types_[static_cast<size_t>(*unknown)] = kUnknown;
    set("unknown_token_id", GgufValue::u32(*unknown));
  }

  std::vector<std::pair<std::string, std::string>> merges() const {
    std::vector<std::pair<std::string, std::string>> out;
    for (const Json& merge : json_["model"]["merges"]) {
      if (merge.is_array()) {
        out.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      } else {
        const auto text = merge.get<std::string>();
        const size_t space = std::min(text.find(' ', 1), text.size() - 1);
        out.emplace_back(text.substr(0, space), text.substr(space + 1));
      }
    }
    return out;
  }
  void write_merges() {
    std::vector<std::string> out;
    for (const auto& [left, right] : merges()) out.push_back(fmt::format("{} {}", left, right));
    set("merges", GgufValue::strings(std::move(out)));
  }

  void write_byte_level() {
    set("model", GgufValue::string("gpt2"));
    set("pre", GgufValue::string(find_pre(json_, source_)));
    write_merges();
  }

  std::optional<int32_t> unknown() const {
    const Json& model = json_["model"];
    if (model.contains("unk_token") && model["unk_token"].is_string())
      return tokenizer_.token_id(model["unk_token"].get<std::string>());
    if (model.contains("unk_id") && model["unk_id"].is_number_integer())
      return model["unk_id"].get<int32_t>();
    return std::nullopt;
  }

  bool begins_with_space() const {
    const std::vector<int32_t> ids = tokenizer_.encode("a", false);
    return !ids.empty() && tokenizer_.token_spelling(ids[0]).starts_with(kSpace);
  }

  // SentencePiece BPE: what merges first has the higher score. The score of a token is that of the first
  // merge that makes it; characters and all else, which no merge makes, come last.
  void write_characters() {
    mark_bytes_and_unknown(unknown());
    if (architecture_ == "gemma4") {
      set("model", GgufValue::string("gemma4"));
      write_merges();
      set("add_space_prefix", GgufValue::boolean(begins_with_space()));
      return;
    }
    std::map<std::string, double, std::less<>> rank;
    const auto pairs = merges();
    for (size_t i = 0; i < pairs.size(); ++i)
      rank.emplace(pairs[i].first + pairs[i].second, -static_cast<double>(i));
    std::vector<double> scores;
    for (const std::string& token : tokens_) {
      const auto it = rank.find(token);
      scores.push_back(it == rank.end() ? -static_cast<double>(pairs.size()) - 1 : it->second);
    }
    set("model", GgufValue::string("llama"));
    set("pre", GgufValue::string("default"));
    set("scores", GgufValue::f32s(std::move(scores)));
    set("add_space_prefix", GgufValue::boolean(begins_with_space()));
  }

  static void find_charsmap(const Json& normalizer, std::string& out) {
    if (!normalizer.is_object()) return;
    if (normalizer.value("type", "") == "Precompiled" && normalizer["precompiled_charsmap"].is_string())
      out = decode_base64(normalizer["precompiled_charsmap"].get<std::string>(), "precompiled_charsmap");
    if (!normalizer.contains("normalizers")) return;
    for (const Json& each : normalizer["normalizers"]) find_charsmap(each, out);
  }

  void write_unigram() {
    mark_bytes_and_unknown(unknown());
    std::vector<double> scores(tokens_.size(), -10000);
    const Json& vocabulary = json_["model"]["vocab"];
    for (size_t id = 0; id < vocabulary.size() && id < scores.size(); ++id)
      scores[id] = vocabulary[id][1].get<double>();
    std::string charsmap;
    find_charsmap(json_["normalizer"], charsmap);
    set("model", GgufValue::string("t5"));
    set("pre", GgufValue::string("default"));
    set("scores", GgufValue::f32s(std::move(scores)));
    set("add_space_prefix", GgufValue::boolean(begins_with_space()));
    set("remove_extra_whitespaces",
        GgufValue::boolean(tokenizer_.encode("a  b", false) == tokenizer_.encode("a b", false)));
    if (charsmap.empty()) return;
    std::vector<int64_t> bytes;
    for (const char c : charsmap) bytes.push_back(static_cast<uint8_t>(c));
    set("precompiled_charsmap", GgufValue{GgufType::kU8, std::move(bytes)});
  }

  // What continues a word goes without the mark, what begins one gets that of a space.
  void write_wordpiece() {
    const auto prefix = json_["model"].value("continuing_subword_prefix", std::string("##"));
    for (size_t id = 0; id < tokens_.size(); ++id) {
      std::string& token = tokens_[id];
      const bool bracketed = token.size() > 2 && token.front() == '[' && token.back() == ']';
      if (types_[id] != kNormal || bracketed) continue;
      token = token.starts_with(prefix) ? token.substr(prefix.size()) : std::string(kSpace) + token;
    }
    if (const auto id = unknown()) set("unknown_token_id", GgufValue::u32(*id));
    set("model", GgufValue::string("bert"));
    set("pre", GgufValue::string("default"));
  }

  void write_special() {
    const auto id_of = [&](const std::optional<std::string>& spelling) {
      return spelling.has_value() ? tokenizer_.token_id(*spelling) : std::nullopt;
    };
    // What the tokenizer puts around an empty text.
    const std::vector<int32_t> around = tokenizer_.encode("", true);
    const bool pairs = metadata_.string("tokenizer.ggml.model")->starts_with("bert");
    auto bos = id_of(text_.bos_token), eos = id_of(text_.eos_token);
    if (pairs && around.size() == 2) {
      bos = around[0];
      set("seperator_token_id", GgufValue::u32(around[1]));
    }
    if (bos) set("bos_token_id", GgufValue::u32(*bos));
    if (!text_.stop_tokens.empty()) eos = text_.stop_tokens[0];
    if (eos) set("eos_token_id", GgufValue::u32(*eos));
    if (text_.stop_tokens.size() > 1)
      set("eos_token_ids", GgufValue::i32s({text_.stop_tokens.begin(), text_.stop_tokens.end()}));
    set("add_bos_token", GgufValue::boolean(!around.empty() && bos == around[0]));
    if (pairs) {
      set("add_sep_token", GgufValue::boolean(around.size() == 2));
    } else {
      set("add_eos_token", GgufValue::boolean(ends_with_eos(around, bos, id_of(text_.eos_token))));
    }
    if (text_.chat_template.has_value())
      metadata_.set("tokenizer.chat_template", GgufValue::string(*text_.chat_template));
  }

  static bool ends_with_eos(const std::vector<int32_t>& around, const std::optional<int32_t>& bos,
                            const std::optional<int32_t>& eos) {
    return !around.empty() && eos == around.back() && (around.size() > 1 || eos != bos);
  }

  // A file has fewer words for a tokenizer than tokenizer.json: what they do not say is found out here. Plain
  // text must come out the same; of rare characters and spaces at the beginning a warning tells.
  void check() const {
    const Tokenizer back = tokenizer_of(metadata_);
    const auto difference = [&](std::string_view text) -> std::string {
      const auto wanted = tokenizer_.encode(text), found = back.encode(text);
      if (found == wanted) return {};
      return fmt::format("{} becomes the tokens [{}], read from a GGUF file [{}]",
                         json_line(Json(std::string(text))), fmt::join(wanted, " "), fmt::join(found, " "));
    };
    const std::string plain = difference(kProbe);
    require(plain.empty(), Code::kUnimplemented,
            "{}: the tokenizer does what GGUF files have no words for: {}", source_, plain);
    for (const std::string_view text : {std::string_view("  two  spaces "), kUnusual}) {
      if (const std::string rare = difference(text); !rare.empty())
        log_warning("{}: GGUF files do not say all that the tokenizer does: {}", source_, rare);
    }
  }

  const ModelText& text_;
  const Tokenizer& tokenizer_;
  const std::string& source_;
  GgufMetadata& metadata_;
  Json json_;
  std::string architecture_;
  int64_t rows_ = 0;
  std::vector<std::string> tokens_;
  std::vector<int64_t> types_;
};

}  // namespace

void add_gguf_text(const ModelText& text, const std::string& source, GgufMetadata& metadata) {
  Writer(text, source, metadata).run();
  add_gguf_generation(text.generation, source, metadata);
}

}  // namespace vertebra
