// A model on disk: a folder in Hugging Face layout (config.json and model.safetensors) or a GGUF file. Reads
// and checks it against the architecture's declarations, and writes folders. Tokenizer and chat template,
// which lie beside, are the caller's.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "models/model.h"
#include "models/stored_tensors.h"

namespace vertebra {

// What the weights become in memory: all f32; or matrices and experts of blocks as they lie in the file
// (views of it where nothing had to be moved), the rest f32.
enum class WeightForm { kF32, kStored };

struct LoadedModel {
  std::unique_ptr<Model> model;
  std::vector<NamedTensor> parameters;  // in the order of the declarations
};

// `path`: a folder (read_model_folder) or a GGUF file. Throws resource_exhausted for weights that are larger
// than the machine's memory, before any is read.
LoadedModel read_model(const std::filesystem::path& path, WeightForm form = WeightForm::kF32);

// Throws not_found without a config.json or weights; invalid_argument / data_loss naming file and tensor for
// a tensor that is missing, extra, of another shape or type. A tied head's own copy in the file is accepted.
LoadedModel read_model_folder(const std::filesystem::path& folder);

// A folder or a GGUF file, its tensors not yet read.
StoredModel open_model(const std::filesystem::path& path);

// Writes config.json, model.safetensors and generation_config.json into an existing folder, each file whole
// or not at all. `stop_token`: written as eos_token_id.
void write_model_folder(const std::filesystem::path& folder, const Model& model,
                        std::span<const NamedTensor> parameters, int32_t stop_token,
                        const Json& generation = Json::object());

}  // namespace vertebra
