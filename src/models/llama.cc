// Llama (Touvron et al. 2023; Llama 3, 2024): pre-norm RMSNorm, rotary positions, grouped-query
// attention, SwiGLU, tied or untied head. Configuration and parameter names as in transformers.
#include <cmath>

#include "models/config.h"
#include "models/model.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

class Llama final : public Model {
 public:
  Llama(const Json& config, std::string_view source);

  const Json& config() const override { return config_; }
  const ModelShape& shape() const override { return shape_; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  std::string_view head() const override { return tied_ ? kEmbedding : kHead; }
  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  static constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
  static constexpr std::string_view kHead = "lm_head.weight";

  void declare(double deviation);
  Value inverse_frequencies(Graph& graph) const;

  Json config_;
  ModelShape shape_;
  std::vector<ParameterSpec> parameters_;
  int64_t feed_forward_ = 0;
  double norm_epsilon_ = 1e-5, rope_theta_ = 10000;
  bool tied_ = false;
};

std::string layer_name(int layer, std::string_view rest) {
  return fmt::format("model.layers.{}.{}", layer, rest);
}

// transformers 5 nests the rotary settings under rope_parameters; before, rope_theta stood alone.
double read_rope_theta(const Json& config, std::string_view source) {
  const Json scaling = json_get<Json>(config, "rope_scaling", source, Json());
  require(scaling.is_null(), Code::kUnimplemented,
          "{}: rope_scaling {} is not supported yet; null was wanted", source, json_line(scaling));
  const Json nested = json_get<Json>(config, "rope_parameters", source, Json());
  if (nested.is_null()) return json_get<double>(config, "rope_theta", source, 10000.0);
  const auto type = json_get<std::string>(nested, "rope_type", source, "default");
  require(type == "default", Code::kUnimplemented,
          "{}: rope_type '{}' is not supported yet; 'default' was wanted", source, type);
  return json_get<double>(nested, "rope_theta", source, 10000.0);
}

Llama::Llama(const Json& config, std::string_view source) : config_(config) {
  const auto size = [&](const char* key) { return config_size(config, key, source); };
  shape_.layers = static_cast<int>(config_size(config, "num_hidden_layers", source, kMaxLayers));
  shape_.embedding = size("hidden_size");
  shape_.heads = size("num_attention_heads");
  shape_.key_value_heads = json_get<int64_t>(config, "num_key_value_heads", source, shape_.heads);
  require(shape_.key_value_heads >= 1 && shape_.heads % shape_.key_value_heads == 0,
          "{}: num_attention_heads {} is no multiple of num_key_value_heads {}", source, shape_.heads,
          shape_.key_value_heads);
  const bool has_head_dim = config.contains("head_dim") && !config["head_dim"].is_null();
  require(has_head_dim || shape_.embedding % shape_.heads == 0,
          "{}: hidden_size {} is no multiple of num_attention_heads {}, and no head_dim is given", source,
          shape_.embedding, shape_.heads);
  shape_.head_dim = has_head_dim ? size("head_dim") : shape_.embedding / shape_.heads;
  require(shape_.head_dim % 2 == 0, "{}: head_dim is {}, an even number was wanted", source, shape_.head_dim);
  shape_.vocabulary = size("vocab_size");
  shape_.context_length = size("max_position_embeddings");
  feed_forward_ = size("intermediate_size");
  norm_epsilon_ = config_epsilon(config, "rms_norm_eps", source, 1e-6);
  rope_theta_ = read_rope_theta(config, source);
  tied_ = json_get<bool>(config, "tie_word_embeddings", source, false);
  refuse_flags(config, {"attention_bias", "mlp_bias"}, source);
  const auto activation = json_get<std::string>(config, "hidden_act", source, "silu");
  require(activation == "silu", Code::kUnimplemented,
          "{}: hidden_act '{}' is not supported; 'silu' was wanted", source, activation);
  declare(json_get<double>(config, "initializer_range", source, 0.02));
}

void Llama::declare(double deviation) {
  const int64_t E = shape_.embedding, F = feed_forward_, V = shape_.vocabulary;
  const int64_t q = shape_.heads * shape_.head_dim, kv = shape_.key_value_heads * shape_.head_dim;
  // What writes into the residual stream starts smaller by sqrt(2 layers) (Radford et al. 2019).
  const auto inner = Initializer::normal(deviation);
  const auto residual = Initializer::normal(deviation / std::sqrt(2.0 * shape_.layers));
  const auto ones = Initializer::ones();
  parameters_.push_back(
      {std::string(kEmbedding), {V, E}, {Axis::kVocabulary, Axis::kEmbedding}, Role::kEmbedding, inner});
  for (int i = 0; i < shape_.layers; ++i) {
    const auto matrix = [&](std::string_view name, Shape shape, Axis rows, Axis columns,
                            Initializer initializer) {
      parameters_.push_back({layer_name(i, name), shape, {rows, columns}, Role::kMatrix, initializer});
    };
    const auto norm = [&](std::string_view name) {
      parameters_.push_back({layer_name(i, name), {E}, {Axis::kEmbedding}, Role::kVector, ones});
    };
    norm("input_layernorm.weight");
    matrix("self_attn.q_proj.weight", {q, E}, Axis::kHeads, Axis::kEmbedding, inner);
    matrix("self_attn.k_proj.weight", {kv, E}, Axis::kKeyValueHeads, Axis::kEmbedding, inner);
    matrix("self_attn.v_proj.weight", {kv, E}, Axis::kKeyValueHeads, Axis::kEmbedding, inner);
    matrix("self_attn.o_proj.weight", {E, q}, Axis::kEmbedding, Axis::kHeads, residual);
    norm("post_attention_layernorm.weight");
    matrix("mlp.gate_proj.weight", {F, E}, Axis::kFeedForward, Axis::kEmbedding, inner);
    matrix("mlp.up_proj.weight", {F, E}, Axis::kFeedForward, Axis::kEmbedding, inner);
    matrix("mlp.down_proj.weight", {E, F}, Axis::kEmbedding, Axis::kFeedForward, residual);
  }
  parameters_.push_back({"model.norm.weight", {E}, {Axis::kEmbedding}, Role::kVector, ones});
  if (!tied_) {
    parameters_.push_back(
        {std::string(kHead), {V, E}, {Axis::kVocabulary, Axis::kEmbedding}, Role::kHead, inner});
  }
}

Value Llama::inverse_frequencies(Graph& graph) const {
  const int64_t half = shape_.head_dim / 2;
  Tensor out(DType::kF32, {half});
  for (int64_t i = 0; i < half; ++i) {
    out.set(i, std::pow(rope_theta_, -2.0 * static_cast<double>(i) / static_cast<double>(shape_.head_dim)));
  }
  return graph.constant(out);
}

Value Llama::forward(ModelContext& context, Value tokens, Value positions) const {
  Graph& graph = context.graph();
  const DType compute = context.compute();
  const Dim N = tokens.shape().dim(0);
  const int64_t H = shape_.heads, K = shape_.key_value_heads, D = shape_.head_dim;
  const Value frequencies = inverse_frequencies(graph);

  Value x = context.residual(embedding(context.parameter(kEmbedding), tokens));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(graph, fmt::format("layers.{}", i));
    const auto weight = [&](std::string_view name) { return context.parameter(layer_name(i, name)); };
    {
      const Graph::Scope scope(graph, "attention");
      const Value h = rms_norm(x, weight("input_layernorm.weight"), norm_epsilon_);
      const Value q = reshape(linear(h, weight("self_attn.q_proj.weight"), {}, compute), {N, H, D});
      const Value k = reshape(linear(h, weight("self_attn.k_proj.weight"), {}, compute), {N, K, D});
      const Value v = reshape(linear(h, weight("self_attn.v_proj.weight"), {}, compute), {N, K, D});
      const Value out =
          context.attend(i, rope(q, positions, frequencies), rope(k, positions, frequencies), v);
      x = context.residual(
          add(x, linear(reshape(out, {N, H * D}), weight("self_attn.o_proj.weight"), {}, compute)));
    }
    {
      const Graph::Scope scope(graph, "mlp");
      const Value h = rms_norm(x, weight("post_attention_layernorm.weight"), norm_epsilon_);
      x = context.residual(add(x, gated_mlp(h, weight("mlp.gate_proj.weight"), weight("mlp.up_proj.weight"),
                                            weight("mlp.down_proj.weight"), compute)));
    }
  }
  return rms_norm(x, context.parameter("model.norm.weight"), norm_epsilon_);
}

}  // namespace

std::unique_ptr<Model> make_llama(const Json& config, std::string_view source) {
  return std::make_unique<Llama>(config, source);
}

Json default_llama_config(const Json& sizes, int64_t vocabulary, int64_t context_length) {
  constexpr const char* kSource = "recipe [model]";
  const RecipeSizes recipe = read_recipe_sizes(sizes, 6);
  // 8/3 E, rounded up to a multiple of 32: as many parameters as a plain MLP of width 4 E.
  const int64_t feed_forward = recipe.feed_forward.value_or((recipe.embedding * 8 / 3 + 31) / 32 * 32);
  const int64_t head_dim = recipe.embedding / std::max<int64_t>(1, recipe.heads);
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"attention_bias", false},
          {"attention_dropout", 0.0},
          {"head_dim", json_get<int64_t>(sizes, "head_dim", kSource, head_dim)},
          {"hidden_act", "silu"},
          {"hidden_size", recipe.embedding},
          {"initializer_range", recipe.initializer_range},
          {"intermediate_size", feed_forward},
          {"max_position_embeddings", context_length},
          {"mlp_bias", false},
          {"num_attention_heads", recipe.heads},
          {"num_hidden_layers", recipe.depth},
          {"num_key_value_heads", json_get<int64_t>(sizes, "key_value_heads", kSource, recipe.heads)},
          {"rms_norm_eps", recipe.norm_epsilon},
          {"rope_theta", json_get<double>(sizes, "rope_theta", kSource, 10000.0)},
          {"tie_word_embeddings", recipe.tied},
          {"torch_dtype", "float32"},
          {"use_cache", true},
          {"vocab_size", vocabulary}};
}

}  // namespace vertebra
