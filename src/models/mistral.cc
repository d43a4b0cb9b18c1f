// Mistral (Jiang et al. 2023): Llama in which every layer sees a window of keys. Ministral 3 (2025): the
// same, without a window as a rule, with YaRN and queries that sharpen as their positions pass the original
// context.
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Mistral final : public Decoder {
 public:
  Mistral(const Json& config, std::string_view source)
      : Decoder(config, source, {}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source),
        window_(read_window(source)) {
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      declare_attention(at + "self_attn.");
      declare_norm(at + "post_attention_layernorm");
      declare_gated_mlp(at + "mlp.", feed_forward_);
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  RotaryPositions rotary_;
  int64_t window_ = 0;
};

Value Mistral::forward(ModelContext& context, Value tokens, Value positions) const {
  const Value query_scale = rotary_.query_scale(positions);  // [N, 1, 1], Ministral 3 only
  Value x = context.residual(embed(context, tokens));        // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const Value h = norm(context, x, at + "input_layernorm");
      Value q = rotary_(context, project_to_heads(context, h, at + "self_attn.q_proj"), positions);
      if (query_scale.defined()) q = multiply(q, query_scale);
      const Value k = rotary_(context, project_to_heads(context, h, at + "self_attn.k_proj"), positions);
      const Value v = project_to_heads(context, h, at + "self_attn.v_proj");  // [N, K, D]
      const Value out = context.attend(i, q, k, v, {.window = window_});
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

std::unique_ptr<Model> make_mistral(const Json& config, std::string_view source) {
  return std::make_unique<Mistral>(config, source);
}

// The folder's model has vision too; its text is of one of these kinds.
std::unique_ptr<Model> make_mistral3(const Json& config, std::string_view source) {
  const Json text = text_part(config, source);
  const auto type = json_get<std::string>(text, "model_type", source, "mistral");
  require(type == "mistral" || type == "ministral3", Code::kUnimplemented,
          "{}: text_config is of type '{}'; mistral and ministral3 are supported here", source, type);
  return make_mistral(text, source);
}

// llama.cpp reads the file as a Llama, without the window.
const GgufArchitecture& gguf_mistral() {
  static const GgufArchitecture out = {
      .architecture = "llama",
      .model_type = "mistral",
      .class_name = "MistralForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = gguf_decoder_inside(true),
      .keys = gguf_decoder_keys({{"sliding_window", "attention.sliding_window", true}})};
  return out;
}

void read_gguf_ministral3(const GgufFile& file, Json& config) {
  const GgufMetadata& metadata = file.metadata();
  const double beta = metadata.number("mistral3.attention.temperature_scale").value_or(0);
  if (beta == 0) {
    config["model_type"] = "mistral";
    config["architectures"] = {"MistralForCausalLM"};
    return;
  }
  require(
      config.contains("rope_scaling") && config["rope_scaling"].contains("original_max_position_embeddings"),
      Code::kDataLoss,
      "'{}': mistral3.attention.temperature_scale is {}, but rope.scaling.original_context_length is missing",
      metadata.source(), beta);
  config["rope_scaling"]["llama_4_scaling_beta"] = gguf_number_of(beta);
}

void write_gguf_ministral3(const Model& model, GgufContents& out) {
  const Json settings = rope_settings(model.config(), out.metadata.source());
  const auto beta = json_get<double>(settings, "llama_4_scaling_beta", out.metadata.source(), 0.0);
  if (beta != 0) out.metadata.set("mistral3.attention.temperature_scale", GgufValue::f32(beta));
}

const GgufArchitecture& gguf_ministral3() {
  static const GgufArchitecture out = {
      .architecture = "mistral3",
      .model_type = "ministral3",
      .class_name = "Ministral3ForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = gguf_decoder_inside(true),
      .keys = gguf_decoder_keys({{"sliding_window", "attention.sliding_window", true}}),
      .settings = R"({"hidden_act": "silu"})",
      .read = read_gguf_ministral3,
      .write = write_gguf_ministral3};
  return out;
}

}  // namespace vertebra
