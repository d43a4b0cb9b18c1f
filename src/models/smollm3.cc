// SmolLM3 (Hugging Face 2025): Llama in which every fourth layer knows no positions (NoPE, Yang et al. 2025).
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class SmolLM3 final : public Decoder {
 public:
  SmolLM3(const Json& config, std::string_view source)
      : Decoder(config, source, {.tied = true}),
        rotary_(rope_settings(config, source, 2e6), shape_.head_dim, shape_.context_length, source) {
    read_turning_layers(source);
    const bool uses_window = json_get<bool>(config, "use_sliding_window", source, false);
    windows_ = read_windows(uses_window ? read_window(source) : 0, source,
                            [&](int i) { return !turns_[static_cast<size_t>(i)]; });
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
  void write_gguf(GgufContents& out) const;

 private:
  // no_rope_layers holds 1 for the layers that do turn.
  void read_turning_layers(std::string_view source) {
    const Json list = json_get<Json>(config_, "no_rope_layers", source, Json());
    const auto interval = json_get<int64_t>(config_, "no_rope_layer_interval", source, 4);
    require(interval > 0, "{}: no_rope_layer_interval is {}, at least 1 was wanted", source, interval);
    require(list.is_null() || (list.is_array() && list.size() >= static_cast<size_t>(shape_.layers)),
            "{}: no_rope_layers needs a number for each of {} layers", source, shape_.layers);
    for (int i = 0; i < shape_.layers; ++i) {
      turns_.push_back(list.is_null() ? (i + 1) % interval != 0 : list[static_cast<size_t>(i)] != 0);
    }
  }

  RotaryPositions rotary_;
  std::vector<bool> turns_;
  std::vector<int64_t> windows_;  // by layer
};

// llama.cpp leaves out the positions of every fourth layer, and knows no windows here.
void SmolLM3::write_gguf(GgufContents& out) const {
  for (int i = 0; i < shape_.layers; ++i) {
    require(
        turns_[static_cast<size_t>(i)] == ((i + 1) % 4 != 0) && windows_[static_cast<size_t>(i)] == 0,
        Code::kUnimplemented,
        "{}: layer {} {}: GGUF files have no words for it (every fourth layer is without positions, none has "
        "a window)",
        out.metadata.source(), i,
        windows_[static_cast<size_t>(i)] > 0 ? "sees a window" : "turns (or does not) out of turn");
  }
}

Value SmolLM3::forward(ModelContext& context, Value tokens, Value positions) const {
  Value x = context.residual(embed(context, tokens));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const Value h = norm(context, x, at + "input_layernorm");
      Value q = project_to_heads(context, h, at + "self_attn.q_proj");        // [N, H, D]
      Value k = project_to_heads(context, h, at + "self_attn.k_proj");        // [N, K, D]
      const Value v = project_to_heads(context, h, at + "self_attn.v_proj");  // [N, K, D]
      if (turns_[static_cast<size_t>(i)]) {
        q = rotary_(context, q, positions);
        k = rotary_(context, k, positions);
      }
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

std::unique_ptr<Model> make_smollm3(const Json& config, std::string_view source) {
  return std::make_unique<SmolLM3>(config, source);
}

const GgufArchitecture& gguf_smollm3() {
  static const GgufArchitecture out = {
      .architecture = "smollm3",
      .model_type = "smollm3",
      .class_name = "SmolLM3ForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = gguf_decoder_inside(true),
      .keys = gguf_decoder_keys(),
      .settings =
          R"({"hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "no_rope_layer_interval": 4})",
      .rope_theta = 2e6,
      .write = [](const Model& model, GgufContents& out) {
        static_cast<const SmolLM3&>(model).write_gguf(out);
      }};
  return out;
}

}  // namespace vertebra
