// A model's logits over whole sequences, without a cache: what tests hold the trainer, the engine and
// PyTorch against. Owns no expectations.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "backend/buffer_set.h"
#include "models/dense_context.h"
#include "ops/ops.h"

namespace vertebra {

// Parameters as graph inputs; dense causal attention over one sequence.
class OneSequenceContext final : public DenseContext {
 public:
  OneSequenceContext(Graph& graph, const Model& model, DType compute, int64_t length)
      : DenseContext(graph, compute, full(graph, {1, length}, 0, DType::kI32), iota(graph, {1, length}, 1)) {
    for (const ParameterSpec& spec : model.parameters())
      parameters_[spec.name] = graph.parameter(spec.name, {DType::kF32, spec.shape});
  }
  Value parameter(std::string_view name) override { return parameters_.find(name)->second; }

 private:
  std::map<std::string, Value, std::less<>> parameters_;
};

// "tokens" i32 [length] and the parameters -> "logits" f32 [length, V].
inline Graph build_dense_logits(const Model& model, int64_t length, DType compute = DType::kF32) {
  Graph graph;
  OneSequenceContext context(graph, model, compute, length);
  const Value tokens = graph.parameter("tokens", {DType::kI32, {length}});
  const Value hidden = model.forward(context, tokens, iota(graph, {length}, 0));
  graph.add_output("logits", model.logits(context, hidden));
  return graph;
}

// Logits of one sequence on a backend; `parameters` holds the model's parameters by name.
inline Tensor dense_logits(Backend& backend, const Model& model, const BufferSet& parameters,
                           const std::vector<int32_t>& tokens, DType compute = DType::kF32) {
  const auto length = static_cast<int64_t>(tokens.size());
  BufferSet buffers;
  BoundExecutable executable(backend, build_dense_logits(model, length, compute), buffers, &parameters);
  buffers.at("tokens").copy_from(Tensor::from<int32_t>({length}, tokens));
  executable.run();
  return buffers.at("logits").to_host();
}

}  // namespace vertebra
