// Granite 3 (IBM 2024): Llama with four multipliers: on embeddings, scores, what joins the residual stream,
// and logits.
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Granite final : public Decoder {
 public:
  Granite(const Json& config, std::string_view source)
      : Decoder(config, source, {}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source),
        embedding_multiplier_(json_get<double>(config, "embedding_multiplier", source, 1.0)),
        attention_multiplier_(json_get<double>(config, "attention_multiplier", source, 1.0)),
        residual_multiplier_(json_get<double>(config, "residual_multiplier", source, 1.0)),
        logits_scaling_(json_get<double>(config, "logits_scaling", source, 1.0)) {
    require(attention_multiplier_ != 0 && logits_scaling_ != 0,
            "{}: attention_multiplier is {} and logits_scaling {}, other numbers than 0 were wanted", source,
            attention_multiplier_, logits_scaling_);
    const auto bias = [&](const char* key) {
      return json_get<bool>(config, key, source, false) ? Bias::kYes : Bias::kNo;
    };
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      declare_attention(at + "self_attn.", bias("attention_bias"), bias("attention_bias"));
      declare_norm(at + "post_attention_layernorm");
      declare_gated_mlp(at + "mlp.", feed_forward_, bias("mlp_bias"));
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  RotaryPositions rotary_;
  double embedding_multiplier_, attention_multiplier_, residual_multiplier_, logits_scaling_;
};

Value Granite::forward(ModelContext& context, Value tokens, Value positions) const {
  Value x = context.residual(multiply(embed(context, tokens), embedding_multiplier_));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const Value h = norm(context, x, at + "input_layernorm");
      const Value q = project_to_heads(context, h, at + "self_attn.q_proj");  // [N, H, D]
      const Value k = project_to_heads(context, h, at + "self_attn.k_proj");  // [N, K, D]
      const Value v = project_to_heads(context, h, at + "self_attn.v_proj");
      const Value out = context.attend(i, rotary_(context, q, positions), rotary_(context, k, positions), v,
                                       {.scale = attention_multiplier_});
      const Value y = project_heads(context, out, at + "self_attn.o_proj");
      x = context.residual(add(x, multiply(y, residual_multiplier_)));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value h = norm(context, x, at + "post_attention_layernorm");
      x = context.residual(add(x, multiply(gated_mlp(context, h, at + "mlp."), residual_multiplier_)));
    }
  }
  // Logits are divided by logits_scaling: the head is linear, so its input may be.
  return divide(norm(context, x, "model.norm"), logits_scaling_);
}

}  // namespace

std::unique_ptr<Model> make_granite(const Json& config, std::string_view source) {
  return std::make_unique<Granite>(config, source);
}

const GgufArchitecture& gguf_granite() {
  static const GgufArchitecture out = {
      .architecture = "granite",
      .model_type = "granite",
      .class_name = "GraniteForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = gguf_decoder_inside(true),
      .keys = gguf_decoder_keys({{"attention_multiplier", "attention.scale"},
                                 {"embedding_multiplier", "embedding_scale"},
                                 {"residual_multiplier", "residual_scale"},
                                 {"logits_scaling", "logit_scale"}}),
      .settings =
          R"({"hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "initializer_range": 0.02})"};
  return out;
}

}  // namespace vertebra
