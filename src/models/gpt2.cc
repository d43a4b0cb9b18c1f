// GPT-2 (Radford et al. 2019): learned positions, pre-norm LayerNorm, full multi-head attention, GELU
// MLP, tied head. Names as in transformers, whose Conv1D keeps matrices as [in, out].
#include <cmath>

#include "models/config.h"
#include "models/gguf_architecture.h"
#include "models/model.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

class Gpt2 final : public Model {
 public:
  Gpt2(const Json& config, std::string_view source);

  const Json& config() const override { return config_; }
  const ModelShape& shape() const override { return shape_; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  std::string_view head() const override { return tied_ ? kEmbedding : kHead; }
  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  static constexpr std::string_view kEmbedding = "transformer.wte.weight";
  static constexpr std::string_view kHead = "lm_head.weight";
  void declare(double deviation);

  Json config_;
  ModelShape shape_;
  std::vector<ParameterSpec> parameters_;
  int64_t feed_forward_ = 0;
  double norm_epsilon_ = 1e-5;
  bool tied_ = true, tanh_approximation_ = true;
};

std::string layer_name(int layer, std::string_view rest) {
  return fmt::format("transformer.h.{}.{}", layer, rest);
}

Gpt2::Gpt2(const Json& config, std::string_view source) : config_(config) {
  const auto size = [&](const char* key) { return config_size(config, key, source); };
  shape_.layers = static_cast<int>(config_size(config, "n_layer", source, kMaxLayers));
  shape_.embedding = size("n_embd");
  shape_.heads = shape_.key_value_heads = size("n_head");
  require(shape_.embedding % shape_.heads == 0, "{}: n_embd {} is no multiple of n_head {}", source,
          shape_.embedding, shape_.heads);
  shape_.head_dim = shape_.embedding / shape_.heads;
  shape_.vocabulary = size("vocab_size");
  shape_.context_length = size("n_positions");
  const auto inner = config.find("n_inner");
  feed_forward_ = inner == config.end() || inner->is_null() ? 4 * shape_.embedding : size("n_inner");
  norm_epsilon_ = config_epsilon(config, "layer_norm_epsilon", source, 1e-5);
  tied_ = json_get<bool>(config, "tie_word_embeddings", source, true);
  const auto activation = json_get<std::string>(config, "activation_function", source, "gelu_new");
  require(activation == "gelu_new" || activation == "gelu_pytorch_tanh" || activation == "gelu",
          Code::kUnimplemented,
          "{}: activation_function '{}' is not supported; gelu_new, gelu_pytorch_tanh and gelu are", source,
          activation);
  tanh_approximation_ = activation != "gelu";
  refuse_flags(config, {"scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"},
               source);
  declare(json_get<double>(config, "initializer_range", source, 0.02));
}

void Gpt2::declare(double deviation) {
  const int64_t E = shape_.embedding, F = feed_forward_, V = shape_.vocabulary;
  const auto inner = Initializer::normal(deviation);
  const auto residual = Initializer::normal(deviation / std::sqrt(2.0 * shape_.layers));
  const auto vector = [&](std::string name, int64_t length, Axis axis, Initializer initializer) {
    parameters_.push_back({std::move(name), {length}, {axis}, Role::kVector, initializer});
  };
  const auto norm = [&](const std::string& name) {
    vector(name + ".weight", E, Axis::kEmbedding, Initializer::ones());
    vector(name + ".bias", E, Axis::kEmbedding, Initializer::zeros());
  };
  parameters_.push_back(
      {std::string(kEmbedding), {V, E}, {Axis::kVocabulary, Axis::kEmbedding}, Role::kEmbedding, inner});
  parameters_.push_back({"transformer.wpe.weight",
                         {shape_.context_length, E},
                         {Axis::kPosition, Axis::kEmbedding},
                         Role::kEmbedding,
                         Initializer::normal(deviation / 2)});
  for (int i = 0; i < shape_.layers; ++i) {
    const auto conv = [&](std::string_view name, int64_t in, int64_t out, Axis rows, Axis columns,
                          Initializer initializer) {
      parameters_.push_back({layer_name(i, fmt::format("{}.weight", name)),
                             {in, out},
                             {rows, columns},
                             Role::kMatrix,
                             initializer});
      vector(layer_name(i, fmt::format("{}.bias", name)), out, columns, Initializer::zeros());
    };
    norm(layer_name(i, "ln_1"));
    conv("attn.c_attn", E, 3 * E, Axis::kEmbedding, Axis::kHeads, inner);
    conv("attn.c_proj", E, E, Axis::kHeads, Axis::kEmbedding, residual);
    norm(layer_name(i, "ln_2"));
    conv("mlp.c_fc", E, F, Axis::kEmbedding, Axis::kFeedForward, inner);
    conv("mlp.c_proj", F, E, Axis::kFeedForward, Axis::kEmbedding, residual);
  }
  norm("transformer.ln_f");
  if (!tied_) {
    parameters_.push_back(
        {std::string(kHead), {V, E}, {Axis::kVocabulary, Axis::kEmbedding}, Role::kHead, inner});
  }
}

Value Gpt2::forward(ModelContext& context, Value tokens, Value positions) const {
  Graph& graph = context.graph();
  const Dim N = tokens.shape().dim(0);
  const int64_t E = shape_.embedding, H = shape_.heads, D = shape_.head_dim;
  const auto norm = [&](Value x, const std::string& name) {
    return layer_norm(x, context.parameter(name + ".weight"), context.parameter(name + ".bias"),
                      norm_epsilon_);
  };
  const auto conv = [&](Value x, const std::string& name) {
    return add(matmul(x, context.parameter(name + ".weight"), context.compute()),
               context.parameter(name + ".bias"));
  };

  Value x = context.residual(add(embedding(context.parameter(kEmbedding), tokens),
                                 embedding(context.parameter("transformer.wpe.weight"), positions)));
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(graph, fmt::format("layers.{}", i));
    {
      const Graph::Scope scope(graph, "attention");
      const Value qkv = conv(norm(x, layer_name(i, "ln_1")), layer_name(i, "attn.c_attn"));  // [N, 3 E]
      const auto part = [&](int64_t which) {
        return reshape(slice_axis(qkv, 1, which * E, (which + 1) * E), {N, H, D});
      };
      const Value out = context.attend(i, part(0), part(1), part(2));
      x = context.residual(add(x, conv(reshape(out, {N, E}), layer_name(i, "attn.c_proj"))));
    }
    {
      const Graph::Scope scope(graph, "mlp");
      const Value h =
          gelu(conv(norm(x, layer_name(i, "ln_2")), layer_name(i, "mlp.c_fc")), tanh_approximation_);
      x = context.residual(add(x, conv(h, layer_name(i, "mlp.c_proj"))));
    }
  }
  return norm(x, "transformer.ln_f");
}

}  // namespace

std::unique_ptr<Model> make_gpt2(const Json& config, std::string_view source) {
  return std::make_unique<Gpt2>(config, source);
}

Json default_gpt2_config(const Json& sizes, int64_t vocabulary, int64_t context_length) {
  const RecipeSizes recipe = read_recipe_sizes(sizes, 12);
  return {{"architectures", {"GPT2LMHeadModel"}},
          {"model_type", "gpt2"},
          {"activation_function", "gelu_new"},
          {"attn_pdrop", 0.0},
          {"bos_token_id", nullptr},
          {"embd_pdrop", 0.0},
          {"initializer_range", recipe.initializer_range},
          {"layer_norm_epsilon", recipe.norm_epsilon},
          {"n_embd", recipe.embedding},
          {"n_head", recipe.heads},
          {"n_inner", recipe.feed_forward.value_or(4 * recipe.embedding)},
          {"n_layer", recipe.depth},
          {"n_positions", context_length},
          {"resid_pdrop", 0.0},
          {"tie_word_embeddings", recipe.tied},
          {"torch_dtype", "float32"},
          {"use_cache", true},
          {"vocab_size", vocabulary}};
}

void read_gguf_gpt2(const GgufFile& file, Json& config) {
  for (const char* wanted : {"n_layer", "n_embd", "n_head", "n_positions"}) {
    require(config.contains(wanted), Code::kDataLoss, "'{}': the metadata lack {}", file.metadata().source(),
            wanted);
  }
}

void write_gguf_gpt2(const Model& model, GgufContents& out) {
  const std::string& source = out.metadata.source();
  const auto activation = json_get<std::string>(model.config(), "activation_function", source, "gelu_new");
  require(activation != "gelu", Code::kUnimplemented,
          "{}: activation_function is 'gelu': readers of GGUF files take gelu_new", source);
  if (!out.metadata.contains("gpt2.feed_forward_length"))
    out.metadata.set("gpt2.feed_forward_length", GgufValue::u32(4 * model.shape().embedding));
}

const GgufArchitecture& gguf_gpt2() {
  static const GgufArchitecture out = {
      .architecture = "gpt2",
      .model_type = "gpt2",
      .class_name = "GPT2LMHeadModel",
      .outside = {{"transformer.wte", "token_embd"},
                  {"transformer.wpe", "position_embd"},
                  {"transformer.ln_f", "output_norm"},
                  {"lm_head", "output"}},
      .inside = {{"ln_1", "attn_norm"},
                 {"ln_2", "ffn_norm"},
                 {"attn.c_attn.weight", "attn_qkv.weight", &kGgufTransposed},
                 {"attn.c_attn.bias", "attn_qkv.bias"},
                 {"attn.c_proj.weight", "attn_output.weight", &kGgufTransposed},
                 {"attn.c_proj.bias", "attn_output.bias"},
                 {"mlp.c_fc.weight", "ffn_up.weight", &kGgufTransposed},
                 {"mlp.c_fc.bias", "ffn_up.bias"},
                 {"mlp.c_proj.weight", "ffn_down.weight", &kGgufTransposed},
                 {"mlp.c_proj.bias", "ffn_down.bias"}},
      .keys = {{"n_layer", "block_count", true},
               {"n_positions", "context_length", true},
               {"n_embd", "embedding_length", true},
               {"n_inner", "feed_forward_length", true},
               {"n_head", "attention.head_count", true},
               {"layer_norm_epsilon", "attention.layer_norm_epsilon"}},
      .layer = "transformer.h.",
      .settings = R"({"activation_function": "gelu_new"})",
      .decoder = false,
      .read = read_gguf_gpt2,
      .write = write_gguf_gpt2};
  return out;
}

}  // namespace vertebra
