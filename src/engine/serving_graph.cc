#include "engine/serving_graph.h"

#include <algorithm>
#include <map>

#include "engine/sampling_graph.h"
#include "models/sharding.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

constexpr std::string_view kStatePrefix = "engine/state/";

// Parameters as graph inputs; attention over the paged cache, states of requests in their slots. A layer's
// cache and state have the shapes that the model asks for: nothing here says that layers are alike.
class ServingContext final : public ModelContext {
 public:
  ServingContext(Graph& graph, const Model& model, const ServingShape& shape, Value requests, Value positions)
      : ModelContext(graph, shape.compute),
        shape_(shape),
        requests_(requests),
        positions_(positions),
        cache_sharding_(cache_sharding(shape.mesh)) {
    for (const ParameterSpec& spec : model.parameters()) {
      const auto stored = shape.parameter_types.find(spec.name);
      const DType dtype = stored == shape.parameter_types.end() ? DType::kF32 : stored->second;
      parameters_[spec.name] =
          graph.parameter(spec.name, {dtype, spec.shape}, parameter_sharding(spec, shape.mesh));
    }
  }

  Value parameter(std::string_view name) override {
    const auto it = parameters_.find(name);
    VERTEBRA_CHECK(it != parameters_.end(), "a model uses a parameter that it does not declare");
    return it->second;
  }

  // Layers that share a cache write the same keys and values into it once more.
  Value attend(int layer, Value q, Value k, Value v, const AttendOptions& options) override {
    const int of = options.cache_layer >= 0 ? options.cache_layer : layer;
    const bool codes = shape_.cache == DType::kQ8_0;
    const int64_t dim = k.shape()[2];
    require(
        !codes || dim % kCacheBlock == 0,
        "a q8_0 cache needs heads of a multiple of {} elements, layer {} has heads of {}: choose bf16 or f16",
        kCacheBlock, layer, dim);
    // That of the layer that owns the cache.
    const bool sees_all = options.window >= shape_.context_length;
    const int64_t window = windows_.emplace(of, sees_all ? 0 : options.window).first->second;
    const Shape pages = {shape_.pages_for(window), shape_.page_size, k.shape()[1], dim};
    Shape blocks = pages;
    blocks.set_dim(3, dim / kCacheBlock);
    const auto cache = [&](const char* name, DType dtype, const Shape& shape) -> Memory* {
      return &memory(fmt::format("engine/{}/{}", name, of), {dtype, shape}, cache_sharding_);
    };
    const DType dtype = codes ? DType::kI8 : shape_.cache;
    std::vector<Memory*> held = {cache("k_cache", dtype, pages), cache("v_cache", dtype, pages)};
    if (codes) {
      held.push_back(cache("k_scale", DType::kF32, blocks));
      held.push_back(cache("v_scale", DType::kF32, blocks));
    }
    PagedCache now = {held[0]->now, held[1]->now};
    if (codes) now.key_scales = held[2]->now, now.value_scales = held[3]->now;
    const PagedAttentionResult result =
        paged_attention(q, k, v, now, page_table(window), requests_, positions_,
                        {.scale = options.scale, .window = options.window, .sinks = options.sinks});
    const Value after[] = {result.cache.keys, result.cache.values, result.cache.key_scales,
                           result.cache.value_scales};
    for (size_t i = 0; i < held.size(); ++i) held[i]->now = after[i];
    return result.out;
  }

  LayerState state(int layer, std::string_view name, const Shape& shape) override {
    Shape all = {shape_.requests + shape_.state_snapshots};
    for (const Dim& dim : shape.dims()) all.push_back(dim);
    return {memory(state_name(layer, name), {DType::kF32, all}, {}).now, requests_, positions_};
  }
  void keep_state(int layer, std::string_view name, Value value) override {
    memories_.at(state_name(layer, name)).now = value;
  }

  int64_t longest_sequence() const override { return shape_.context_length; }

  // Caches and states as they are after the step take the places of those before it.
  void add_outputs() {
    for (const auto& [name, memory] : memories_) graph().add_output(name, memory.now, memory.before);
  }

 private:
  // What outlives the step: as it came, and as it is after what has been built so far.
  struct Memory {
    Value before, now;
  };
  Memory& memory(const std::string& name, const TensorType& type, const Sharding& sharding) {
    Memory& out = memories_[name];
    if (!out.before.defined()) out.before = out.now = graph().parameter(name, type, sharding);
    return out;
  }
  Value page_table(int64_t window) {
    Value& out = page_tables_[window];
    if (!out.defined())
      out = graph().parameter(fmt::format("{}{}", serving::kPageTable, window),
                              {DType::kI32, {shape_.requests, shape_.pages_per_request}});
    return out;
  }
  static std::string state_name(int layer, std::string_view name) {
    return fmt::format("{}{}/{}", kStatePrefix, layer, name);
  }

  ServingShape shape_;
  Value requests_, positions_;
  std::map<int, int64_t> windows_;  // of the layers that have a cache
  std::map<int64_t, Value> page_tables_;
  Sharding cache_sharding_;
  std::map<std::string, Memory> memories_;
  std::map<std::string, Value, std::less<>> parameters_;
};

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int64_t ServingShape::most_pages(int64_t window) const {
  if (window == 0) return pages_per_request;
  return std::min(pages_per_request, ceil_divide(window + tokens, page_size) + 1);
}

int64_t ServingShape::pages_for(int64_t window) const {
  if (window == 0) return pages;
  return std::max(most_pages(window),
                  std::min(pages, requests * (most_pages(window) + ceil_divide(window, page_size))));
}

std::vector<int64_t> windows_of(const Graph& step) {
  std::vector<int64_t> out;
  for (const auto& input : step.inputs()) {
    if (input.name.starts_with(serving::kPageTable))
      out.push_back(std::stoll(input.name.substr(std::string_view(serving::kPageTable).size())));
  }
  return out;
}

Graph build_state_copy(const Graph& step) {
  Graph graph;
  const Value from = graph.parameter(serving::kCopyFrom, {DType::kI32, {1}});
  const Value to = graph.parameter(serving::kCopyTo, {DType::kI32, {}});
  const Value zero = constant(graph, 0, DType::kI32);
  for (const auto& input : step.inputs()) {
    if (!input.name.starts_with(kStatePrefix)) continue;
    const Value states = graph.parameter(input.name, input.value.type());
    std::vector<Value> at(static_cast<size_t>(states.shape().rank()), zero);
    at[0] = to;
    graph.add_output(input.name, dynamic_update_slice(states, gather_rows(states, from), at), states);
  }
  return graph;
}

bool keeps_states(const Graph& step) {
  return std::any_of(step.inputs().begin(), step.inputs().end(),
                     [](const auto& input) { return input.name.starts_with(kStatePrefix); });
}

std::map<std::string, DType, std::less<>> stored_types(const Model& model, const BufferSet& parameters) {
  std::map<std::string, DType, std::less<>> out;
  for (const ParameterSpec& spec : model.parameters()) {
    const Buffer* buffer = parameters.find(spec.name);
    if (buffer != nullptr && buffer->type().dtype != DType::kF32) out[spec.name] = buffer->type().dtype;
  }
  return out;
}

Graph build_serving_step(const Model& model, const ServingShape& shape) {
  Graph graph;
  const Dim N(shape.tokens, serving::kTokenSymbol), M(shape.sampled, serving::kSampledSymbol);
  const Value tokens = graph.parameter(serving::kTokens, {DType::kI32, {N}});
  const Value positions = graph.parameter(serving::kPositions, {DType::kI32, {N}});
  const Value requests = graph.parameter(serving::kRequests, {DType::kI32, {N}});
  const Value sampled = graph.parameter(serving::kSampledRows, {DType::kI32, {M}});
  ServingContext context(graph, model, shape, requests, positions);
  const Value hidden = model.forward(context, tokens, positions);
  context.add_outputs();
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
