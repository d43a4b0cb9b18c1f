// Phi-3 and Phi-4-mini (Abdin et al. 2024): Llama with one matrix for queries, keys and values, one for gate
// and up; part of a head turns (Phi-4-mini), with LongRoPE.
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Phi3 final : public Decoder {
 public:
  Phi3(const Json& config, std::string_view source)
      : Decoder(config, source, {.norm_epsilon = 1e-5}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source),
        window_(read_window(source)) {
    const int64_t E = shape_.embedding, F = feed_forward_, HD = shape_.heads * shape_.head_dim,
                  KD = shape_.key_value_heads * shape_.head_dim;
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      // Rows of several kinds: no axis to cut along.
      declare_matrix(at + "self_attn.qkv_proj", {HD + 2 * KD, E, Axis::kNone, Axis::kEmbedding});
      declare_matrix(at + "self_attn.o_proj", {E, HD, Axis::kEmbedding, Axis::kHeads, true});
      declare_norm(at + "post_attention_layernorm");
      declare_matrix(at + "mlp.gate_up_proj", {2 * F, E, Axis::kNone, Axis::kEmbedding});
      declare_matrix(at + "mlp.down_proj", {E, F, Axis::kEmbedding, Axis::kFeedForward, true});
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  RotaryPositions rotary_;
  int64_t window_ = 0;
};

Value Phi3::forward(ModelContext& context, Value tokens, Value positions) const {
  const int64_t H = shape_.heads, K = shape_.key_value_heads, F = feed_forward_;
  Value x = context.residual(embed(context, tokens));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const Value h = norm(context, x, at + "input_layernorm");
      const Value qkv = project_to_heads(context, h, at + "self_attn.qkv_proj");  // [N, H + 2 K, D]
      const Value q = rotary_(context, slice_axis(qkv, 1, 0, H), positions);
      const Value k = rotary_(context, slice_axis(qkv, 1, H, H + K), positions);
      const Value v = slice_axis(qkv, 1, H + K, H + 2 * K);
      const Value out = context.attend(i, q, k, v, {.window = window_});
      x = context.residual(add(x, project_heads(context, out, at + "self_attn.o_proj")));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value h = norm(context, x, at + "post_attention_layernorm");
      const Value both = project(context, h, at + "mlp.gate_up_proj");  // [N, 2 F]
      const Value hidden = multiply(activate(slice_axis(both, 1, 0, F)), slice_axis(both, 1, F, 2 * F));
      x = context.residual(add(x, project(context, hidden, at + "mlp.down_proj")));
    }
  }
  return norm(context, x, "model.norm");
}

}  // namespace

std::unique_ptr<Model> make_phi3(const Json& config, std::string_view source) {
  return std::make_unique<Phi3>(config, source);
}

// A window of 0 says that there is none.
void read_gguf_phi3(const GgufFile& file, Json& config) {
  const int64_t window = file.metadata().integer("phi3.attention.sliding_window").value_or(0);
  config["sliding_window"] = window > 0 ? Json(window) : Json();
  if (config.contains("rope_scaling") && config["rope_scaling"].contains("original_max_position_embeddings"))
    config["original_max_position_embeddings"] = config["rope_scaling"]["original_max_position_embeddings"];
}

void write_gguf_phi3(const Model& model, GgufContents& out) {
  const Json& config = model.config();
  const bool windowed = config.contains("sliding_window") && !config["sliding_window"].is_null();
  out.metadata.set("phi3.attention.sliding_window",
                   GgufValue::u32(windowed ? config["sliding_window"].get<int64_t>() : 0));
}

const GgufArchitecture& gguf_phi3() {
  static const GgufArchitecture out = {
      .architecture = "phi3",
      .model_type = "phi3",
      .class_name = "Phi3ForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = joined(gguf_decoder_inside(false),
                       {{"self_attn.qkv_proj", "attn_qkv"}, {"mlp.gate_up_proj", "ffn_up"}}),
      .keys = gguf_decoder_keys(),
      .settings = R"({"hidden_act": "silu"})",
      .read = read_gguf_phi3,
      .write = write_gguf_phi3};
  return out;
}

}  // namespace vertebra
