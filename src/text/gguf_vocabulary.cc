// Writes the tokenizer.json that the GGUF vocabulary amounts to and reads that: one path checks both.
#include "text/gguf_vocabulary.h"

#include "base/error.h"
#include "text/pretokenizer.h"

namespace vertebra {
namespace {

constexpr int32_t kControl = 3;
constexpr int32_t kUserDefined = 4;

struct PreName {
  std::string_view pre, pattern;
  bool nfc;
  bool ignore_merges;
};

// As the GGUF converter names them.
constexpr PreName kPreNames[] = {
    {"gpt-2", "gpt2", false, false},       {"phi-2", "gpt2", false, false},
    {"olmo", "gpt2", false, false},        {"jina-v2-code", "gpt2", false, false},
    {"starcoder", "smollm", false, false}, {"refact", "smollm", false, false},
    {"smollm", "smollm", false, false},    {"llama-bpe", "llama3", false, true},
    {"llama3", "llama3", false, true},     {"dbrx", "llama3", false, false},
    {"smaug-bpe", "llama3", false, false}, {"qwen2", "qwen2", true, false},
    {"stablelm2", "qwen2", false, false},
};

const PreName& find_pre(const std::string& pre, const std::string& source) {
  std::string known;
  for (const PreName& name : kPreNames) {
    if (name.pre == pre) return name;
    known += known.empty() ? "" : ", ";
    known += name.pre;
  }
  fail(Code::kUnimplemented, "{}: tokenizer.ggml.pre is '{}'; known are {}", source, pre, known);
}

Json special_template(const GgufVocabulary& v, const std::string& source) {
  if (!v.add_bos_token && !v.add_eos_token) return nullptr;
  Json pieces = Json::array(), specials = Json::object();
  const auto add = [&](bool wanted, const std::optional<int32_t>& id, const char* key) {
    if (!wanted) return;
    require(id.has_value() && *id >= 0 && static_cast<size_t>(*id) < v.tokens.size(),
            "{}: the file asks for a token around each text, but tokenizer.ggml.{} is {}", source, key,
            id.has_value() ? std::to_string(*id) : "missing");
    const std::string& token = v.tokens[*id];
    pieces.push_back(Json{{"SpecialToken", Json{{"id", token}, {"type_id", 0}}}});
    specials[token] = Json{{"id", token}, {"ids", Json::array({*id})}, {"tokens", Json::array({token})}};
  };
  add(v.add_bos_token, v.bos_token_id, "bos_token_id");
  pieces.push_back(Json{{"Sequence", Json{{"id", "A"}, {"type_id", 0}}}});
  add(v.add_eos_token, v.eos_token_id, "eos_token_id");
  // A pair of texts is not used here, but readers of the format insist on it.
  Json pair = pieces;
  pair.push_back(Json{{"Sequence", Json{{"id", "B"}, {"type_id", 1}}}});
  return Json{
      {"type", "TemplateProcessing"}, {"single", pieces}, {"pair", pair}, {"special_tokens", specials}};
}

}  // namespace

Tokenizer tokenizer_from_gguf(const GgufVocabulary& v, const std::string& source) {
  require(v.model == "gpt2", Code::kUnimplemented,
          "{}: tokenizer.ggml.model is '{}'; only 'gpt2' (byte-level BPE) is supported", source, v.model);
  require(v.token_type.empty() || v.token_type.size() == v.tokens.size(),
          "{}: tokenizer.ggml.token_type has {} entries for {} tokens", source, v.token_type.size(),
          v.tokens.size());
  const PreName& pre = find_pre(v.pre, source);
  const std::string pattern(pre.pattern);

  Json vocab = Json::object(), added = Json::array(), merges = Json::array();
  auto& entries = vocab.get_ref<Json::object_t&>();
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const int32_t type = v.token_type.empty() ? 1 : v.token_type[id];
    if (type == kControl || type == kUserDefined) {
      added.push_back(Json{{"id", id},
                           {"content", v.tokens[id]},
                           {"single_word", false},
                           {"lstrip", false},
                           {"rstrip", false},
                           {"normalized", false},
                           {"special", type == kControl}});
    }
    entries.emplace_back(v.tokens[id], id);
  }
  for (const std::string& merge : v.merges) merges.push_back(merge);

  Json json = Json::object();
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = std::move(added);
  json["normalizer"] = pre.nfc ? Json{{"type", "NFC"}} : Json();
  json["pre_tokenizer"] = Pretokenizer::section_for_pattern(pattern);
  json["post_processor"] = special_template(v, source);
  json["decoder"] =
      Json{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  Json& model = json["model"] = Json::object();
  model["type"] = "BPE";
  model["ignore_merges"] = pre.ignore_merges;
  model["vocab"] = std::move(vocab);
  model["merges"] = std::move(merges);
  return Tokenizer::from_json(json, source);
}

}  // namespace vertebra
