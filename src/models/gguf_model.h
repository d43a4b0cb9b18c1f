// A model in a GGUF file: its configuration and tensors against the architecture's declarations, both ways.
// Tokenizer and chat template, which lie in the same file, are the caller's.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "models/gguf_architecture.h"
#include "models/stored_tensors.h"

namespace vertebra {

// Throws invalid_argument / data_loss naming file, key or tensor, found and wanted; unimplemented for an
// architecture that is not known.
StoredModel open_gguf_model(std::shared_ptr<const GgufFile> file);
Json gguf_config(const GgufFile& file);  // the configuration alone

// What a GGUF file of a model holds: the inverse.
struct GgufTensorPlan {
  GgufEntry entry;                      // name and shape; its type is the source's
  const ParameterSpec* spec = nullptr;  // the parameter it is made of, or
  Tensor made;                          // the tensor itself
};
struct GgufModelPlan {
  const GgufArchitecture* row = nullptr;
  GgufMetadata metadata;  // general.architecture and the sizes
  std::vector<GgufTensorPlan> tensors;
};
GgufModelPlan plan_gguf_model(const StoredModel& stored, const std::string& source);

// Tensors of a plan, to be asked for in its order: a parameter of two tensors is read once.
class GgufTensors {
 public:
  GgufTensors(const StoredModel& stored, const GgufModelPlan& plan) : stored_(stored), plan_(plan) {}
  Tensor read(size_t i);

 private:
  const StoredModel& stored_;
  const GgufModelPlan& plan_;
  const ParameterSpec* latest_ = nullptr;
  Tensor tensor_;  // of latest_
};

}  // namespace vertebra
