// OLMo 2 (OLMo team 2024): norms come after attention and MLP, before their results join the residual stream;
// queries and keys are normed across all heads at once.
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Olmo2 final : public Decoder {
 public:
  Olmo2(const Json& config, std::string_view source)
      : Decoder(config, source, {.norm_epsilon = 1e-5}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source) {
    const Bias bias = json_get<bool>(config, "attention_bias", source, false) ? Bias::kYes : Bias::kNo;
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_attention(at + "self_attn.", bias, bias);
      declare_norm(at + "self_attn.q_norm", shape_.heads * shape_.head_dim, Axis::kHeads);
      declare_norm(at + "self_attn.k_norm", shape_.key_value_heads * shape_.head_dim, Axis::kKeyValueHeads);
      declare_norm(at + "post_attention_layernorm");
      declare_gated_mlp(at + "mlp.", feed_forward_);
      declare_norm(at + "post_feedforward_layernorm");
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  RotaryPositions rotary_;
};

Value Olmo2::forward(ModelContext& context, Value tokens, Value positions) const {
  const int64_t D = shape_.head_dim;
  Value x = context.residual(embed(context, tokens));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const auto normed_heads = [&](const std::string& name) {
        const Value y = norm(context, project(context, x, at + "self_attn." + name + "_proj"),
                             at + "self_attn." + name + "_norm");
        return reshape(y, {y.shape().dim(0), y.shape()[1] / D, D});
      };
      const Value q = rotary_(context, normed_heads("q"), positions);  // [N, H, D]
      const Value k = rotary_(context, normed_heads("k"), positions);  // [N, K, D]
      const Value v = project_to_heads(context, x, at + "self_attn.v_proj");
      const Value out = project_heads(context, context.attend(i, q, k, v), at + "self_attn.o_proj");
      x = context.residual(add(x, norm(context, out, at + "post_attention_layernorm")));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value out = gated_mlp(context, x, at + "mlp.");
      x = context.residual(add(x, norm(context, out, at + "post_feedforward_layernorm")));
    }
  }
  return norm(context, x, "model.norm");
}

}  // namespace

std::unique_ptr<Model> make_olmo2(const Json& config, std::string_view source) {
  return std::make_unique<Olmo2>(config, source);
}

const GgufArchitecture& gguf_olmo2() {
  static const GgufArchitecture out = {.architecture = "olmo2",
                                       .model_type = "olmo2",
                                       .class_name = "Olmo2ForCausalLM",
                                       .outside = gguf_decoder_outside(),
                                       .inside = gguf_post_norm_inside(),
                                       .keys = gguf_decoder_keys(),
                                       .settings = R"({"hidden_act": "silu", "attention_bias": false})"};
  return out;
}

}  // namespace vertebra
