// Llama (Touvron et al. 2023; Llama 3, 2024): pre-norm RMSNorm, rotary positions, grouped-query
// attention, SwiGLU, tied or untied head. Configuration and parameter names as in transformers.
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Llama final : public Decoder {
 public:
  Llama(const Json& config, std::string_view source)
      : Decoder(config, source, {}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source) {
    const auto bias = [&](const char* key) {
      return json_get<bool>(config, key, source, false) ? Bias::kYes : Bias::kNo;
    };
    const Bias attention_bias = bias("attention_bias"), mlp_bias = bias("mlp_bias");
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      declare_attention(at + "self_attn.", attention_bias, attention_bias);
      declare_norm(at + "post_attention_layernorm");
      declare_gated_mlp(at + "mlp.", feed_forward_, mlp_bias);
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  RotaryPositions rotary_;
};

Value Llama::forward(ModelContext& context, Value tokens, Value positions) const {
  Value x = context.residual(embed(context, tokens));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const Value h = norm(context, x, at + "input_layernorm");
      const Value q = project_to_heads(context, h, at + "self_attn.q_proj");  // [N, H, D]
      const Value k = project_to_heads(context, h, at + "self_attn.k_proj");  // [N, K, D]
      const Value v = project_to_heads(context, h, at + "self_attn.v_proj");
      const Value out = context.attend(i, rotary_(context, q, positions), rotary_(context, k, positions), v);
      x = context.residual(add(x, project_heads(context, out, at + "self_attn.o_proj")));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value h = norm(context, x, at + "post_attention_layernorm");
      x = context.residual(add(x, gated_mlp(context, h, at + "mlp.")));
    }
  }
  return norm(context, x, "model.norm");
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

// A window makes it Mistral, as which the configuration is read.
void read_gguf_llama(const GgufFile& file, Json& config) {
  const GgufMetadata& metadata = file.metadata();
  require(metadata.integer("llama.expert_count").value_or(0) == 0, Code::kUnimplemented,
          "'{}': llama.expert_count is {}: Mixtral and other llamas with experts are not supported",
          metadata.source(), metadata.integer("llama.expert_count").value_or(0));
  if (metadata.integer("llama.attention.sliding_window").value_or(0) <= 0) return;
  config["model_type"] = "mistral";
  config["architectures"] = {"MistralForCausalLM"};
  config["sliding_window"] = *metadata.integer("llama.attention.sliding_window");
}

const GgufArchitecture& gguf_llama() {
  static const GgufArchitecture out = {
      .architecture = "llama",
      .model_type = "llama",
      .class_name = "LlamaForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = gguf_decoder_inside(true),
      .keys = gguf_decoder_keys(),
      .settings =
          R"({"hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "initializer_range": 0.02})",
      .read = read_gguf_llama};
  return out;
}

}  // namespace vertebra
