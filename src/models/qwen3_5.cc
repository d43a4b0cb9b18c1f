// Qwen3.5, text (Qwen team 2026): three layers of gated delta rule (Yang et al. 2024) to one of attention,
// whose results a gate of its own scales; norms multiply by 1 + weight.
#include <cmath>

#include "models/decoder.h"

namespace vertebra {
namespace {

class Qwen35 final : public Decoder {
 public:
  Qwen35(const Json& config, std::string_view source)
      : Decoder(config, source, {}),
        rotary_(rope_settings(config, source), shape_.head_dim, shape_.context_length, source),
        width_(config_size(config, "linear_conv_kernel_dim", source, 64)),
        key_heads_(config_size(config, "linear_num_key_heads", source)),
        value_heads_(config_size(config, "linear_num_value_heads", source)),
        key_dim_(config_size(config, "linear_key_head_dim", source)),
        value_dim_(config_size(config, "linear_value_head_dim", source)) {
    centered_norms_ = true;
    require(width_ >= 2, "{}: linear_conv_kernel_dim is {}, at least 2 was wanted", source, width_);
    require(value_heads_ % key_heads_ == 0,
            "{}: linear_num_value_heads {} is no multiple of linear_num_key_heads {}", source, value_heads_,
            key_heads_);
    require(activation_ == "silu", Code::kUnimplemented, "{}: hidden_act '{}' is not supported; silu is",
            source, activation_);
    const auto interval = json_get<int64_t>(config, "full_attention_interval", source, 4);
    require(interval > 0, "{}: full_attention_interval is {}, at least 1 was wanted", source, interval);
    types_ = read_layer_types(source, {"full_attention", "linear_attention"}, [&](int i) {
      return (i + 1) % interval == 0 ? "full_attention" : "linear_attention";
    });
    const Bias bias = json_get<bool>(config, "attention_bias", source, false) ? Bias::kYes : Bias::kNo;
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      if (types_[static_cast<size_t>(i)] == "full_attention") {
        declare_gated_attention(at + "self_attn.", bias);
      } else {
        declare_delta(at + "linear_attn.");
      }
      declare_norm(at + "post_attention_layernorm");
      declare_gated_mlp(at + "mlp.", feed_forward_);
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;

 private:
  int64_t channels() const { return 2 * key_heads_ * key_dim_ + value_heads_ * value_dim_; }

  void declare_gated_attention(const std::string& at, Bias bias) {
    const int64_t E = shape_.embedding, D = shape_.head_dim, HD = shape_.heads * D,
                  KD = shape_.key_value_heads * D;
    declare_matrix(at + "q_proj", {2 * HD, E, Axis::kHeads, Axis::kEmbedding},
                   bias);  // a head's query, then its gate
    declare_matrix(at + "k_proj", {KD, E, Axis::kKeyValueHeads, Axis::kEmbedding}, bias);
    declare_matrix(at + "v_proj", {KD, E, Axis::kKeyValueHeads, Axis::kEmbedding}, bias);
    declare_matrix(at + "o_proj", {E, HD, Axis::kEmbedding, Axis::kHeads, true}, bias);
    declare_norm(at + "q_norm", D, Axis::kNone);
    declare_norm(at + "k_norm", D, Axis::kNone);
  }

  void declare_delta(const std::string& at) {
    const int64_t E = shape_.embedding, V = value_heads_ * value_dim_;
    const auto vector = [&](const std::string& name, int64_t length, Initializer initializer) {
      declare({at + name, {length}, {Axis::kNone}, Role::kVector, initializer});
    };
    vector("dt_bias", value_heads_, Initializer::ones());
    vector("A_log", value_heads_, Initializer::zeros());
    declare({at + "conv1d.weight",
             {channels(), 1, width_},
             {Axis::kNone, Axis::kNone, Axis::kNone},
             Role::kMatrix,
             inner_initializer()});
    vector("norm.weight", value_dim_, Initializer::ones());
    declare_matrix(at + "out_proj", {E, V, Axis::kEmbedding, Axis::kNone, true});
    declare_matrix(at + "in_proj_qkv", {channels(), E, Axis::kNone, Axis::kEmbedding});
    declare_matrix(at + "in_proj_z", {V, E, Axis::kNone, Axis::kEmbedding});
    declare_matrix(at + "in_proj_b", {value_heads_, E, Axis::kNone, Axis::kEmbedding});
    declare_matrix(at + "in_proj_a", {value_heads_, E, Axis::kNone, Axis::kEmbedding});
  }

  Value attention(ModelContext& context, int layer, Value h, Value positions, const std::string& at) const;
  Value delta(ModelContext& context, int layer, Value h, const std::string& at) const;

  RotaryPositions rotary_;
  int64_t width_, key_heads_, value_heads_, key_dim_, value_dim_;
  std::vector<std::string> types_;
};

// x / |x| over the last axis.
Value unit_length(Value x) {
  const Value squares = reduce_sum(multiply(x, x), {2});
  return multiply(x, broadcast_in_dim(reciprocal_square_root(add(squares, 1e-6)), x.shape(), {0, 1}));
}

// log(1 + exp(x)), for large x too.
Value softplus(Value x) {
  return add(maximum(x, 0.0), logarithm(add(exponential(negate(absolute(x))), 1.0)));
}

// h [N, E] -> [N, E]
Value Qwen35::delta(ModelContext& context, int layer, Value h, const std::string& at) const {
  const Dim N = h.shape().dim(0);
  const int64_t H = value_heads_, keys = key_heads_ * key_dim_, C = channels();
  const LayerState inputs = context.state(layer, "convolution", {width_ - 1, C});
  const Value weight = reshape(context.parameter(at + "conv1d.weight"), {C, width_});
  const Recurrence mixed = short_convolution(project(context, h, at + "in_proj_qkv"), weight, inputs.value,
                                             inputs.request, inputs.positions);
  context.keep_state(layer, "convolution", mixed.state);
  const Value qkv = silu(mixed.out);  // [N, C]

  // Each head of queries and keys serves several of values.
  const auto spread = [&](int64_t first) {
    const Value heads =
        unit_length(reshape(slice_axis(qkv, 1, first, first + keys), {N, key_heads_, key_dim_}));
    const Shape each = {N, key_heads_, H / key_heads_, key_dim_};
    return reshape(broadcast_in_dim(heads, each, {0, 1, 3}), {N, H, key_dim_});
  };
  const Value q = multiply(spread(0), 1 / std::sqrt(static_cast<double>(key_dim_)));
  const Value k = spread(keys);
  const Value v = reshape(slice_axis(qkv, 1, 2 * keys, C), {N, H, value_dim_});
  const Value beta = logistic(project(context, h, at + "in_proj_b"));  // [N, H]
  const Value step = softplus(add(project(context, h, at + "in_proj_a"), context.parameter(at + "dt_bias")));
  const Value decay = multiply(step, negate(exponential(context.parameter(at + "A_log"))));

  const LayerState memory = context.state(layer, "delta", {H, key_dim_, value_dim_});
  const Recurrence y = gated_delta_rule(q, k, v, decay, beta, memory.value, memory.request, memory.positions);
  context.keep_state(layer, "delta", y.state);
  const Value z = reshape(project(context, h, at + "in_proj_z"), {N, H, value_dim_});
  const Value normed = rms_norm(y.out, context.parameter(at + "norm.weight"), norm_epsilon_);
  return project_heads(context, multiply(normed, silu(z)), at + "out_proj");
}

Value Qwen35::attention(ModelContext& context, int layer, Value h, Value positions,
                        const std::string& at) const {
  const int64_t D = shape_.head_dim;
  const Value both = project_to_heads(context, h, at + "q_proj", 2 * D);  // [N, H, 2 D]
  const Value gate = logistic(slice_axis(both, 2, D, 2 * D));
  const Value q = rotary_(context, norm(context, slice_axis(both, 2, 0, D), at + "q_norm"), positions);
  const Value k =
      rotary_(context, norm(context, project_to_heads(context, h, at + "k_proj"), at + "k_norm"), positions);
  const Value v = project_to_heads(context, h, at + "v_proj");  // [N, K, D]
  return project_heads(context, multiply(context.attend(layer, q, k, v), gate), at + "o_proj");
}

Value Qwen35::forward(ModelContext& context, Value tokens, Value positions) const {
  Value x = context.residual(embed(context, tokens));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const bool attends = types_[static_cast<size_t>(i)] == "full_attention";
      const Graph::Scope scope(context.graph(), attends ? "attention" : "delta");
      const Value h = norm(context, x, at + "input_layernorm");
      const Value y = attends ? attention(context, i, h, positions, at + "self_attn.")
                              : delta(context, i, h, at + "linear_attn.");
      x = context.residual(add(x, y));
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

// A folder with vision beside text nests the text's settings; a folder of text alone has them at the top.
std::unique_ptr<Model> make_qwen3_5(const Json& config, std::string_view source) {
  return std::make_unique<Qwen35>(text_part(config, source), source);
}

}  // namespace vertebra
