// What makes text of a model, beside its weights: tokenizer, chat template, stop tokens; from a folder in
// Hugging Face layout or from the metadata of a GGUF file. Called by the assistant and by `vertebra
// tokenizer` and `convert`.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/gguf.h"
#include "text/tokenizer.h"

namespace vertebra {

struct ModelText {
  Tokenizer tokenizer;
  std::optional<std::string> chat_template;  // its source
  std::string chat_template_name;            // for errors
  std::optional<std::string> bos_token, eos_token;
  std::vector<int32_t> stop_tokens;
  // What a template may name beside bos_token and eos_token: {"pad_token": "<pad>", ...}.
  Json other_tokens = Json::object();
  Json generation = Json::object();  // generation_config.json, or what a GGUF file says of it
};

// `path`: a model folder or a GGUF file. Throws what the files deserve.
ModelText read_model_text(const std::filesystem::path& path);
Tokenizer read_tokenizer(const std::filesystem::path& path);
Tokenizer tokenizer_of(const GgufMetadata& metadata);

// Where a model lies: the folder itself, its model/ for a run folder, or a GGUF file.
std::filesystem::path find_model(const std::filesystem::path& path);

}  // namespace vertebra
