// A model's configuration and tensors between GGUF and Hugging Face names, both ways. Tokenizer and chat
// template, which lie in the same file, are the caller's.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "models/gguf_names.h"

namespace vertebra {

// A model under its Hugging Face names, whatever file it lies in.
struct StoredModel {
  Json config;
  std::map<std::string, Tensor> tensors;  // views of the file wherever nothing had to be moved
};

// Throws invalid_argument / data_loss naming file, key or tensor, found and wanted; unimplemented for an
// architecture that is not known.
StoredModel read_gguf_model(const GgufFile& file);
Json gguf_config(const GgufFile& file);  // the configuration alone

// What a GGUF file of a model holds: the inverse.
struct GgufTensorPlan {
  std::string gguf_name;
  std::string stored_name;     // the tensor it is made of; empty: `made` is it
  std::optional<Tensor> made;  // rope_freqs.weight
};
struct GgufModelPlan {
  const GgufArchitecture* row = nullptr;
  GgufMetadata metadata;  // general.architecture and the sizes
  std::vector<GgufTensorPlan> tensors;
};
GgufModelPlan plan_gguf_model(const Json& config, const std::vector<std::string>& stored_names,
                              const std::string& source);
// A stored tensor in the form that GGUF has it in (rows of q and k moved, norms + 1), of the same type.
Tensor gguf_form(const GgufArchitecture& row, const Json& config, const std::string& stored_name,
                 const Tensor& tensor);

}  // namespace vertebra
