#include "engine/model_text.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/generation_config.h"
#include "text/gguf_vocabulary.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// Collects ids, each once, of those that the tokenizer has.
class TokenSet {
 public:
  explicit TokenSet(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  void add(int64_t id) {
    const auto as_id = static_cast<int32_t>(id);
    if (id >= 0 && id < tokenizer_.vocab_size() && std::find(ids_.begin(), ids_.end(), as_id) == ids_.end())
      ids_.push_back(as_id);
  }
  void add(const char* spelling) {
    if (const auto id = tokenizer_.token_id(spelling)) add(*id);
  }
  std::vector<int32_t> take() { return std::move(ids_); }

 private:
  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
};

// Files may name the stop token's id once, as a list, or by its spelling only.
std::vector<int32_t> read_stop_tokens(const fs::path& folder, const Tokenizer& tokenizer) {
  TokenSet out(tokenizer);
  for (const char* file : {"generation_config.json", "config.json"}) {
    if (!fs::exists(folder / file)) continue;
    const Json ids =
        json_get<Json>(read_json_file(folder / file), "eos_token_id", (folder / file).string(), Json());
    if (ids.is_number_integer()) out.add(ids.get<int64_t>());
    if (!ids.is_array()) continue;
    for (const Json& id : ids) {
      if (id.is_number_integer()) out.add(id.get<int64_t>());
    }
  }
  for (const char* spelling : {"<|im_end|>", "<|endoftext|>"}) out.add(spelling);
  return out.take();
}

// tokenizer_config.json writes a special token as a text or as an object with its content; folders of older
// models have a file of its own for them.
std::optional<std::string> token_text(const Json& config, const std::string& key) {
  const auto it = config.find(key);
  if (it == config.end()) return std::nullopt;
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object() && it->contains("content") && (*it)["content"].is_string())
    return (*it)["content"].get<std::string>();
  return std::nullopt;
}

Json read_object(const fs::path& path) {
  if (!fs::exists(path)) return Json::object();
  Json out = read_json_file(path);
  require(out.is_object(), "'{}' is not a JSON object", path.string());
  return out;
}

// A template, or a list of {"name", "template"}, of which the one named default counts.
std::optional<std::string> chat_template_of(const Json& config) {
  const auto it = config.find("chat_template");
  if (it == config.end()) return std::nullopt;
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) return std::nullopt;
  for (const Json& entry : *it) {
    if (!entry.is_object() || !entry.contains("template") || !entry["template"].is_string()) continue;
    if (entry.contains("name") && entry["name"] == "default") return entry["template"].get<std::string>();
  }
  return std::nullopt;
}

std::optional<std::string> read_chat_template(const fs::path& folder, const Json& tokenizer_config) {
  if (fs::exists(folder / "chat_template.jinja")) return read_file(folder / "chat_template.jinja");
  // Models that also see keep it in a file that their processor reads.
  if (auto of_processor = chat_template_of(read_object(folder / "chat_template.json"))) return of_processor;
  return chat_template_of(tokenizer_config);
}

ModelText read_folder(const fs::path& folder) {
  ModelText out{Tokenizer::load(folder), {}, {}, {}, {}, {}};
  out.generation = read_object(folder / "generation_config.json");
  const Json config = read_object(folder / "tokenizer_config.json");
  const Json older = read_object(folder / "special_tokens_map.json");
  const auto special = [&](const char* key) {
    return config.contains(key) ? token_text(config, key) : token_text(older, key);
  };
  out.bos_token = special("bos_token");
  out.eos_token = special("eos_token");
  for (const char* key : {"unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    if (auto text = special(key)) out.other_tokens[key] = std::move(*text);
  }
  out.chat_template = read_chat_template(folder, config);
  out.chat_template_name = (folder / "chat_template.jinja").string();
  out.stop_tokens = read_stop_tokens(folder, out.tokenizer);
  return out;
}

std::optional<int32_t> token_id(const GgufMetadata& metadata, const char* key) {
  const auto id = metadata.integer(key);
  if (!id.has_value() || *id < 0 || *id > INT32_MAX) return std::nullopt;
  return static_cast<int32_t>(*id);
}

ModelText read_gguf(const fs::path& path) {
  const GgufFile file(path);
  const GgufMetadata& metadata = file.metadata();
  ModelText out{tokenizer_of(metadata), {}, {}, {}, {}, {}};
  const auto spelling = [&](const char* key) -> std::optional<std::string> {
    const auto id = token_id(metadata, key);
    if (!id.has_value() || !out.tokenizer.is_token(*id)) return std::nullopt;
    return out.tokenizer.token_spelling(*id);
  };
  out.bos_token = spelling("tokenizer.ggml.bos_token_id");
  out.eos_token = spelling("tokenizer.ggml.eos_token_id");
  if (const std::string* source = metadata.string("tokenizer.chat_template")) out.chat_template = *source;
  out.chat_template_name = fmt::format("{}: tokenizer.chat_template", path.string());
  out.generation = generation_of_gguf(metadata);
  TokenSet stops(out.tokenizer);
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    stops.add(metadata.integer(key).value_or(-1));
  if (const auto* ids = metadata.integers("tokenizer.ggml.eos_token_ids")) {
    for (const int64_t id : *ids) stops.add(id);
  }
  // Files name one end of text at most; models have been trained to write others.
  for (const char* each :
       {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>"})
    stops.add(each);
  out.stop_tokens = stops.take();
  return out;
}

}  // namespace

Tokenizer tokenizer_of(const GgufMetadata& metadata) {
  const auto at = [](const char* key) { return std::string("tokenizer.ggml.") + key; };
  GgufVocabulary vocabulary;
  const auto* tokens = metadata.strings(at("tokens"));
  require(metadata.string(at("model")) != nullptr && tokens != nullptr, Code::kNotFound,
          "'{}' holds no tokenizer: tokenizer.ggml.model and tokenizer.ggml.tokens were wanted",
          metadata.source());
  vocabulary.model = *metadata.string(at("model"));
  if (const std::string* pre = metadata.string(at("pre"))) vocabulary.pre = *pre;
  vocabulary.tokens = *tokens;
  if (const auto* types = metadata.integers(at("token_type")))
    vocabulary.token_type.assign(types->begin(), types->end());
  if (const auto* merges = metadata.strings(at("merges"))) vocabulary.merges = *merges;
  if (const auto* scores = metadata.numbers(at("scores")))
    vocabulary.scores.assign(scores->begin(), scores->end());
  vocabulary.bos_token_id = token_id(metadata, "tokenizer.ggml.bos_token_id");
  vocabulary.eos_token_id = token_id(metadata, "tokenizer.ggml.eos_token_id");
  vocabulary.unknown_token_id = token_id(metadata, "tokenizer.ggml.unknown_token_id");
  vocabulary.seperator_token_id = token_id(metadata, "tokenizer.ggml.seperator_token_id");
  vocabulary.add_bos_token = metadata.boolean(at("add_bos_token"));
  vocabulary.add_eos_token = metadata.boolean(at("add_eos_token"));
  vocabulary.add_sep_token = metadata.boolean(at("add_sep_token"));
  vocabulary.add_space_prefix = metadata.boolean(at("add_space_prefix"));
  vocabulary.remove_extra_whitespaces = metadata.boolean(at("remove_extra_whitespaces"));
  if (const auto* bytes = metadata.integers(at("precompiled_charsmap"))) {
    for (const int64_t byte : *bytes) vocabulary.precompiled_charsmap.push_back(static_cast<char>(byte));
  }
  return tokenizer_from_gguf(vocabulary, metadata.source());
}

ModelText read_model_text(const fs::path& path) {
  return is_gguf_file(path) ? read_gguf(path) : read_folder(path);
}

Tokenizer read_tokenizer(const fs::path& path) {
  return is_gguf_file(path) ? tokenizer_of(GgufFile(path).metadata()) : Tokenizer::load(path);
}

fs::path find_model(const fs::path& path) {
  require(fs::exists(path), Code::kNotFound,
          "'{}' does not exist; a model folder, a GGUF file or a run folder was wanted", path.string());
  if (is_gguf_file(path) || fs::exists(path / "config.json")) return path;
  if (fs::exists(path / "model" / "config.json")) return path / "model";
  std::vector<fs::path> files;
  for (const auto& entry : fs::is_directory(path) ? fs::directory_iterator(path) : fs::directory_iterator()) {
    if (entry.is_regular_file() && is_gguf_file(entry.path())) files.push_back(entry.path());
  }
  if (files.size() == 1) return files[0];
  fail(Code::kNotFound,
       "'{}' is neither a model folder (it holds no config.json), a GGUF file, a folder with one GGUF file "
       "(it holds "
       "{}), nor a run folder with a finished model",
       path.string(), files.size());
}

}  // namespace vertebra
