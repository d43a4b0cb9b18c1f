// The tensors of a model on disk against its declared parameters: names, prefixes and forms in which a
// Hugging Face folder has them, both ways. GGUF files are gguf_model.h's. Called by the model loader and by
// `vertebra convert`.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "models/model.h"

namespace vertebra {

// Parameters under their declared names and in their declared shapes, one at a time, so that no more than one
// needs to be in memory.
class ModelTensors {
 public:
  virtual ~ModelTensors() = default;
  // The type that `read` gives, without reading: of a file's own type where nothing has to be computed.
  virtual DType dtype(const ParameterSpec& spec) const = 0;
  virtual Tensor read(const ParameterSpec& spec) const = 0;
};

// A model on disk whose tensors were checked against the declarations.
struct StoredModel {
  std::unique_ptr<Model> model;
  std::unique_ptr<ModelTensors> tensors;
};

// Throws not_found without a config.json or weights; invalid_argument / data_loss naming file and tensor for
// a tensor that is missing, extra, of another shape or type. A tied head's own copy in the file is accepted.
StoredModel open_model_folder(const std::filesystem::path& folder);

// The declared name of a folder's tensor; empty for one that the model has no use for, by its declarations.
std::string declared_name(const StoredNames& names, const std::string& stored);

// What a folder has for a parameter: the inverse of reading.
std::vector<NamedTensor> stored_form(const ParameterSpec& spec, const Tensor& tensor);

}  // namespace vertebra
