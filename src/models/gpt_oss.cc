// gpt-oss (OpenAI 2025): a mixture of experts with a clamped SwiGLU, and attention in which every head has a
// sink, a score for looking nowhere; every other layer sees a window.
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class GptOss final : public Decoder {
 public:
  GptOss(const Json& config, std::string_view source)
      : Decoder(config, source, {.norm_epsilon = 1e-5}),
        rotary_(rope_settings(config, source, 150000), shape_.head_dim, shape_.context_length, source),
        windows_(read_windows(read_window(source), source, [](int i) { return i % 2 == 0; })),
        alpha_(json_get<double>(config, "swiglu_alpha", source, 1.702)),
        limit_(json_get<double>(config, "swiglu_limit", source, 7.0)) {
    require(activation_ == "silu", Code::kUnimplemented, "{}: hidden_act '{}' is not supported; silu is",
            source, activation_);
    shape_.experts = static_cast<int>(config_size(config, "num_local_experts", source, 1 << 16));
    shape_.experts_per_token =
        static_cast<int>(config_size(config, "num_experts_per_tok", source, shape_.experts));
    const int64_t E = shape_.embedding, F = feed_forward_, X = shape_.experts;
    const Bias bias = json_get<bool>(config, "attention_bias", source, true) ? Bias::kYes : Bias::kNo;
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      declare_attention(at + "self_attn.", bias, bias);
      declare({at + "self_attn.sinks", {shape_.heads}, {Axis::kHeads}, Role::kVector, inner_initializer()});
      declare_norm(at + "post_attention_layernorm");
      declare_matrix(at + "mlp.router", {X, E, Axis::kNone, Axis::kEmbedding}, Bias::kYes);
      // Rows of gate and up in turns. Hugging Face keeps each expert's matrix as [in, out].
      declare_experts(at + "mlp.experts.gate_up_proj", {2 * F, E, Axis::kFeedForward, Axis::kEmbedding},
                      {StoredForm::Kind::kTransposed});
      declare_expert_bias(at + "mlp.experts.gate_up_proj_bias", 2 * F, Axis::kFeedForward);
      declare_experts(at + "mlp.experts.down_proj", {E, F, Axis::kEmbedding, Axis::kFeedForward, true},
                      {StoredForm::Kind::kTransposed});
      declare_expert_bias(at + "mlp.experts.down_proj_bias", E, Axis::kEmbedding);
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;
  void write_gguf(GgufContents& out) const;

 private:
  void declare_expert_bias(const std::string& name, int64_t length, Axis axis) {
    declare({name, {shape_.experts, length}, {Axis::kExpert, axis}, Role::kVector, Initializer::zeros()});
  }
  Value experts(ModelContext& context, Value x, const std::string& at) const;

  RotaryPositions rotary_;
  std::vector<int64_t> windows_;  // by layer
  double alpha_, limit_;
};

void GptOss::write_gguf(GgufContents& out) const {
  require(alpha_ == 1.702 && limit_ == 7, Code::kUnimplemented,
          "{}: swiglu_alpha is {} and swiglu_limit {}: readers of GGUF files take 1.702 and 7",
          out.metadata.source(), alpha_, limit_);
  write_gguf_windows(windows_, 2, out);
  out.metadata.set("gpt-oss.expert_feed_forward_length", GgufValue::u32(feed_forward_));
}

// x [N, E] through the experts chosen for each token.
Value GptOss::experts(ModelContext& context, Value x, const std::string& at) const {
  const auto product = [&](Value rows, const std::string& name, Value chosen) {
    return expert_linear(rows, context.parameter(at + "experts." + name), chosen,
                         context.parameter(at + "experts." + name + "_bias"), context.compute());
  };
  const TopK best = top_k(project(context, x, at + "router"), shape_.experts_per_token);  // [N, A]
  const Value both = product(x, "gate_up_proj", best.indices);                            // [N, A, 2 F]
  const Dim N = both.shape().dim(0);
  const int64_t A = both.shape()[1], F = feed_forward_;
  const Value pairs = reshape(both, {N, A, F, 2});
  const Value gate = minimum(reshape(slice_axis(pairs, 3, 0, 1), {N, A, F}), limit_);
  const Value up = maximum(minimum(reshape(slice_axis(pairs, 3, 1, 2), {N, A, F}), limit_), -limit_);
  const Value hidden = multiply(add(up, 1.0), multiply(gate, logistic(multiply(gate, alpha_))));
  return mix(product(hidden, "down_proj", best.indices), softmax(best.values));
}

Value GptOss::forward(ModelContext& context, Value tokens, Value positions) const {
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
      const Value out =
          context.attend(i, rotary_(context, q, positions), rotary_(context, k, positions), v,
                         {.window = window, .sinks = context.parameter(at + "self_attn.sinks")});
      x = context.residual(add(x, project_heads(context, out, at + "self_attn.o_proj")));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value h = norm(context, x, at + "post_attention_layernorm");
      x = context.residual(add(x, experts(context, h, at + "mlp.")));
    }
  }
  return norm(context, x, "model.norm");
}

}  // namespace

std::unique_ptr<Model> make_gpt_oss(const Json& config, std::string_view source) {
  return std::make_unique<GptOss>(config, source);
}

// YaRN's bounds are not rounded, which no key says.
void read_gguf_gpt_oss(const GgufFile& file, Json& config) {
  read_gguf_windows(file, 2, config);
  if (config.contains("rope_scaling") && config["rope_scaling"]["rope_type"] == "yarn")
    config["rope_scaling"]["truncate"] = false;
  const auto width = file.metadata().integer("gpt-oss.expert_feed_forward_length");
  if (width.has_value()) config["intermediate_size"] = *width;
}

const GgufArchitecture& gguf_gpt_oss() {
  static const GgufArchitecture out = {
      .architecture = "gpt-oss",
      .model_type = "gpt_oss",
      .class_name = "GptOssForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = joined({{"post_attention_layernorm", "post_attention_norm"},
                        {"self_attn.sinks", "attn_sinks.weight"},
                        {"mlp.router", "ffn_gate_inp"},
                        {"mlp.experts.gate_up_proj", "ffn_gate_exps.weight", nullptr, 0},
                        {"mlp.experts.gate_up_proj", "ffn_up_exps.weight", nullptr, 1},
                        {"mlp.experts.gate_up_proj_bias", "ffn_gate_exps.bias", nullptr, 0},
                        {"mlp.experts.gate_up_proj_bias", "ffn_up_exps.bias", nullptr, 1},
                        {"mlp.experts.down_proj", "ffn_down_exps.weight"},
                        {"mlp.experts.down_proj_bias", "ffn_down_exps.bias"}},
                       gguf_attention_inside(false)),
      .keys = gguf_decoder_keys(
          {{"num_local_experts", "expert_count", true}, {"num_experts_per_tok", "expert_used_count", true}}),
      .settings = R"({"hidden_act": "silu", "attention_bias": true})",
      .rope_theta = 150000,
      .read = read_gguf_gpt_oss,
      .write = [](const Model& model, GgufContents& out) {
        static_cast<const GptOss&>(model).write_gguf(out);
      }};
  return out;
}

}  // namespace vertebra
