// How many bits the weights of a stored model take, by kind of tensor: a row for all layers' q_proj, one for
// the embedding, and so on. For GGUF files and folders alike, under the Hugging Face names. Called by
// `convert --report` and `eval --against`.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "base/json.h"
#include "tensor/tensor.h"

namespace vertebra {

struct WeightSize {
  int64_t tensors = 0, weights = 0;
  uint64_t size_bytes = 0;
  std::map<std::string, int64_t> types;  // "q4_k" -> tensors

  double bits_per_weight() const;
  // The types, the most frequent first: "q4_k+q6_k".
  std::string type_names() const;
  void add(const TensorType& type);
};

struct WeightSizes {
  std::map<std::string, WeightSize> kinds;  // "layers.self_attn.q_proj", "embed_tokens", ...
  WeightSize total;
  Json to_json() const;
};

// `path`: a model folder or a GGUF file. Reads no weights.
WeightSizes weight_sizes(const std::filesystem::path& path);

// "model.layers.12.mlp.up_proj.weight" -> "layers.mlp.up_proj".
std::string tensor_kind(const std::string& name);

}  // namespace vertebra
