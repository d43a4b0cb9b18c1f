// Qwen3 mixture of experts (Yang et al. 2025): Qwen3 whose MLPs are experts, a few of which a router chooses
// for each token.
#include <algorithm>

#include "base/log.h"
#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Qwen3Moe final : public Decoder {
 public:
  Qwen3Moe(const Json& config, std::string_view source)
      : Decoder(config, source, {}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source) {
    refuse_flags(config, {"use_sliding_window"}, source);
    const char* count = config.contains("num_experts") ? "num_experts" : "num_local_experts";
    shape_.experts = static_cast<int>(config_size(config, count, source, 1 << 16));
    shape_.experts_per_token =
        static_cast<int>(config_size(config, "num_experts_per_tok", source, shape_.experts));
    normalizes_ = json_get<bool>(config, "norm_topk_prob", source, false);
    const int64_t F = config_size(config, "moe_intermediate_size", source), E = shape_.embedding;
    read_sparse_layers(source);
    const Bias bias = json_get<bool>(config, "attention_bias", source, false) ? Bias::kYes : Bias::kNo;
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      declare_attention(at + "self_attn.", bias, bias);
      declare_norm(at + "self_attn.q_norm", shape_.head_dim, Axis::kNone);
      declare_norm(at + "self_attn.k_norm", shape_.head_dim, Axis::kNone);
      declare_norm(at + "post_attention_layernorm");
      if (!sparse_[static_cast<size_t>(i)]) {
        declare_gated_mlp(at + "mlp.", feed_forward_);
        continue;
      }
      declare_matrix(at + "mlp.gate", {shape_.experts, E, Axis::kNone, Axis::kEmbedding});
      const auto experts = [&](const std::string& name, const Matrix& matrix) {
        declare_experts(at + "mlp.experts." + name, matrix,
                        {StoredForm::Kind::kStack, at + "mlp.experts.{}." + name});
      };
      experts("gate_proj.weight", {F, E, Axis::kFeedForward, Axis::kEmbedding});
      experts("up_proj.weight", {F, E, Axis::kFeedForward, Axis::kEmbedding});
      experts("down_proj.weight", {E, F, Axis::kEmbedding, Axis::kFeedForward, true});
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  void read_sparse_layers(std::string_view source) {
    const auto step = json_get<int64_t>(config_, "decoder_sparse_step", source, 1);
    require(step >= 1, "{}: decoder_sparse_step is {}, at least 1 was wanted", source, step);
    const Json dense = json_get<Json>(config_, "mlp_only_layers", source, Json::array());
    for (int i = 0; i < shape_.layers; ++i)
      sparse_.push_back((i + 1) % step == 0 && std::find(dense.begin(), dense.end(), Json(i)) == dense.end());
  }

  Value experts(ModelContext& context, Value x, const std::string& at) const;

  RotaryPositions rotary_;
  bool normalizes_ = false;
  std::vector<bool> sparse_;
};

// x [N, E] through the experts chosen for each token.
Value Qwen3Moe::experts(ModelContext& context, Value x, const std::string& at) const {
  const auto product = [&](Value rows, const std::string& name, Value chosen) {
    return expert_linear(rows, context.parameter(at + "experts." + name), chosen, {}, context.compute());
  };
  TopK best = top_k(softmax(project(context, x, at + "gate")), shape_.experts_per_token);  // [N, A]
  if (normalizes_) {
    const Value sum = reduce_sum(best.values, {1});
    best.values = divide(best.values, broadcast_in_dim(sum, best.values.shape(), {0}));
  }
  const Value gate = silu(product(x, "gate_proj.weight", best.indices));  // [N, A, F]
  const Value up = product(x, "up_proj.weight", best.indices);
  return mix(product(multiply(gate, up), "down_proj.weight", best.indices), best.values);
}

Value Qwen3Moe::forward(ModelContext& context, Value tokens, Value positions) const {
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
      const Value out = context.attend(i, q, k, v);
      x = context.residual(add(x, project_heads(context, out, at + "self_attn.o_proj")));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value h = norm(context, x, at + "post_attention_layernorm");
      const bool sparse = sparse_[static_cast<size_t>(i)];
      const Value y = sparse ? experts(context, h, at + "mlp.") : gated_mlp(context, h, at + "mlp.");
      x = context.residual(add(x, y));
    }
  }
  return norm(context, x, "model.norm");
}

}  // namespace

std::unique_ptr<Model> make_qwen3_moe(const Json& config, std::string_view source) {
  return std::make_unique<Qwen3Moe>(config, source);
}

// Readers of the file norm the experts' weights.
void read_gguf_qwen3_moe(const GgufFile& file, Json& config) {
  Json dense = Json::array();
  for (int64_t i = 0; i < config["num_hidden_layers"].get<int64_t>(); ++i) {
    if (file.find(fmt::format("blk.{}.ffn_gate_inp.weight", i)) == nullptr) dense.push_back(i);
  }
  config["mlp_only_layers"] = dense;
}

void write_gguf_qwen3_moe(const Model& model, GgufContents& out) {
  const std::string& source = out.metadata.source();
  require(json_get<bool>(model.config(), "norm_topk_prob", source, false), Code::kUnimplemented,
          "{}: norm_topk_prob is false: readers of GGUF files take it to be true", source);
  out.metadata.set("qwen3moe.expert_count", GgufValue::u32(model.shape().experts));
  for (const ParameterSpec& spec : model.parameters()) {
    if (!spec.name.ends_with(".mlp.gate_proj.weight")) continue;
    log_warning("{}: '{}' is of a layer without experts, with which llama.cpp does not open the file", source,
                spec.name);
    break;
  }
}

const GgufArchitecture& gguf_qwen3_moe() {
  static const GgufArchitecture out = {
      .architecture = "qwen3moe",
      .model_type = "qwen3_moe",
      .class_name = "Qwen3MoeForCausalLM",
      .outside = gguf_decoder_outside(),
      .inside = joined(gguf_decoder_inside(false), {{"mlp.gate", "ffn_gate_inp"},
                                                    {"mlp.experts.gate_proj", "ffn_gate_exps"},
                                                    {"mlp.experts.up_proj", "ffn_up_exps"},
                                                    {"mlp.experts.down_proj", "ffn_down_exps"}}),
      .keys = gguf_decoder_keys({{"num_experts", "expert_count", true},
                                 {"num_experts_per_tok", "expert_used_count", true},
                                 {"moe_intermediate_size", "expert_feed_forward_length", true}}),
      .settings = R"({"hidden_act": "silu", "attention_bias": false, "use_sliding_window": false,
                      "norm_topk_prob": true, "decoder_sparse_step": 1})",
      .read = read_gguf_qwen3_moe,
      .write = write_gguf_qwen3_moe};
  return out;
}

}  // namespace vertebra
