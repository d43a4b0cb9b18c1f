// Qwen3 (Yang et al. 2025): Llama whose queries and keys are normed head by head before they turn.
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Qwen3 final : public Decoder {
 public:
  Qwen3(const Json& config, std::string_view source)
      : Decoder(config, source, {}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source),
        windows_(read_qwen_windows(source)) {
    const Bias bias = json_get<bool>(config, "attention_bias", source, false) ? Bias::kYes : Bias::kNo;
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      declare_attention(at + "self_attn.", bias, bias);
      declare_norm(at + "self_attn.q_norm", shape_.head_dim, Axis::kNone);
      declare_norm(at + "self_attn.k_norm", shape_.head_dim, Axis::kNone);
      declare_norm(at + "post_attention_layernorm");
      declare_gated_mlp(at + "mlp.", feed_forward_);
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;
  const std::vector<int64_t>& windows() const { return windows_; }

 private:
  RotaryPositions rotary_;
  std::vector<int64_t> windows_;  // by layer
};

Value Qwen3::forward(ModelContext& context, Value tokens, Value positions) const {
  Value x = context.residual(embed(context, tokens));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const Value h = norm(context, x, at + "input_layernorm");
      const Value q =
          rotary_(context, project_to_normed_heads(context, h, at + "self_attn.q"), positions);  // [N, H, D]
      const Value k =
          rotary_(context, project_to_normed_heads(context, h, at + "self_attn.k"), positions);  // [N, K, D]
      const Value v = project_to_heads(context, h, at + "self_attn.v_proj");
      const int64_t window = windows_[static_cast<size_t>(i)];
      const Value out = context.attend(i, q, k, v, {.window = window});
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

std::unique_ptr<Model> make_qwen3(const Json& config, std::string_view source) {
  return std::make_unique<Qwen3>(config, source);
}

// llama.cpp reads the file without windows, which no model on the hub makes use of.
const GgufArchitecture& gguf_qwen3() {
  static const GgufArchitecture out = {
      .architecture = "qwen3",
      .model_type = "qwen3",
      .class_name = "Qwen3ForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = gguf_decoder_inside(false),
      .keys = gguf_decoder_keys(),
      .settings = R"({"hidden_act": "silu", "attention_bias": false, "use_sliding_window": false})",
      .read = read_gguf_qwen_windows,
      .write = [](const Model& model, GgufContents& out) {
        write_gguf_windows(static_cast<const Qwen3&>(model).windows(), 0, out);
      }};
  return out;
}

}  // namespace vertebra
