// Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on queries, keys and values; in some sizes the
// later layers see a window only.
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Qwen2 final : public Decoder {
 public:
  Qwen2(const Json& config, std::string_view source)
      : Decoder(config, source, {}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source),
        windows_(read_qwen_windows(source)) {
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      declare_attention(at + "self_attn.", Bias::kYes, Bias::kNo);
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

Value Qwen2::forward(ModelContext& context, Value tokens, Value positions) const {
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
      const int64_t window = windows_[static_cast<size_t>(i)];
      const Value out = context.attend(i, rotary_(context, q, positions), rotary_(context, k, positions), v,
                                       {.window = window});
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

std::unique_ptr<Model> make_qwen2(const Json& config, std::string_view source) {
  return std::make_unique<Qwen2>(config, source);
}

// llama.cpp reads the file without windows, which no model on the hub makes use of.
const GgufArchitecture& gguf_qwen2() {
  static const GgufArchitecture out = {.architecture = "qwen2",
                                       .model_type = "qwen2",
                                       .class_name = "Qwen2ForCausalLM",
                                       .outside = gguf_decoder_outside(),
                                       .inside = gguf_decoder_inside(false),
                                       .keys = gguf_decoder_keys(),
                                       .settings = R"({"hidden_act": "silu", "use_sliding_window": false})",
                                       .read = read_gguf_qwen_windows,
                                       .write = [](const Model& model, GgufContents& out) {
                                         write_gguf_windows(static_cast<const Qwen2&>(model).windows(), 0,
                                                            out);
                                       }};
  return out;
}

}  // namespace vertebra
