#include "engine/serving_graph.h"

#include <map>

#include "engine/sampling_graph.h"
#include "models/sharding.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

// Parameters as graph inputs; attention over the paged cache.
class ServingContext final : public ModelContext {
 public:
  ServingContext(Graph& graph, const Model& model, const ServingShape& shape, Value requests, Value positions)
      : ModelContext(graph, shape.compute),
        requests_(requests),
        positions_(positions),
        cache_sharding_(cache_sharding(shape.mesh)) {
    for (const ParameterSpec& spec : model.parameters()) {
      const auto stored = shape.parameter_types.find(spec.name);
      const DType dtype = stored == shape.parameter_types.end() ? DType::kF32 : stored->second;
      parameters_[spec.name] =
          graph.parameter(spec.name, {dtype, spec.shape}, parameter_sharding(spec, shape.mesh));
    }
    page_table_ =
        graph.parameter(serving::kPageTable, {DType::kI32, {shape.requests, shape.pages_per_request}});
    const ModelShape& m = model.shape();
    cache_type_ = {DType::kF32, {shape.pages, shape.page_size, m.key_value_heads, m.head_dim}};
  }

  Value parameter(std::string_view name) override {
    const auto it = parameters_.find(name);
    VERTEBRA_CHECK(it != parameters_.end(), "a model uses a parameter that it does not declare");
    return it->second;
  }

  Value attend(int layer, Value q, Value k, Value v) override {
    const std::string k_name = fmt::format("engine/k_cache/{}", layer),
                      v_name = fmt::format("engine/v_cache/{}", layer);
    const Value k_cache = graph().parameter(k_name, cache_type_, cache_sharding_),
                v_cache = graph().parameter(v_name, cache_type_, cache_sharding_);
    const PagedAttentionResult result =
        paged_attention(q, k, v, k_cache, v_cache, page_table_, requests_, positions_);
    graph().add_output(k_name, result.k_cache, k_cache);
    graph().add_output(v_name, result.v_cache, v_cache);
    return result.out;
  }

 private:
  Value requests_, positions_, page_table_;
  TensorType cache_type_;
  Sharding cache_sharding_;
  std::map<std::string, Value, std::less<>> parameters_;
};

}  // namespace

Graph build_serving_step(const Model& model, const ServingShape& shape) {
  Graph graph;
  const Dim N(shape.tokens, serving::kTokenSymbol), M(shape.sampled, serving::kSampledSymbol);
  const Value tokens = graph.parameter(serving::kTokens, {DType::kI32, {N}});
  const Value positions = graph.parameter(serving::kPositions, {DType::kI32, {N}});
  const Value requests = graph.parameter(serving::kRequests, {DType::kI32, {N}});
  const Value sampled = graph.parameter(serving::kSampledRows, {DType::kI32, {M}});
  ServingContext context(graph, model, shape, requests, positions);
  const Value hidden = model.forward(context, tokens, positions);
  const Value logits = model.logits(context, gather_rows(hidden, sampled));
  graph.add_output(serving::kLogits, logits);
  if (shape.choose_on_device) {
    const SampledRows chosen = likeliest(logits);
    graph.add_output(sampling::kToken, chosen.token);
    graph.add_output(sampling::kLogProbability, chosen.log_probability);
  }
  return graph;
}

}  // namespace vertebra
