// Qwen3.5, text (Qwen team 2026): three layers of gated delta rule (Yang et al. 2024) to one of attention,
// whose results a gate of its own scales; norms multiply by 1 + weight.
#include <cmath>
#include <cstring>

#include "models/decoder.h"
#include "models/gguf_architecture.h"
#include "tensor/convert.h"

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

  // ---- For GGUF files.
  struct ValueHeads {
    int64_t groups, of_group, head_dim;  // heads of keys, of values for each, and their size
  };
  ValueHeads value_heads() const { return {key_heads_, value_heads_ / key_heads_, value_dim_}; }
  int64_t first_value_channel() const { return 2 * key_heads_ * key_dim_; }
  void write_gguf(GgufContents& out) const;

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

void Qwen35::write_gguf(GgufContents& out) const {
  std::vector<int64_t> recurrent;
  for (const std::string& type : types_) recurrent.push_back(type == "linear_attention");
  out.metadata.set("qwen35.attention.recurrent_layers", GgufValue{GgufType::kBool, std::move(recurrent)});
  out.metadata.set("qwen35.full_attention_interval",
                   GgufValue::u32(json_get<int64_t>(config_, "full_attention_interval", "config", 4)));
  out.metadata.set("qwen35.ssm.inner_size", GgufValue::u32(value_heads_ * value_dim_));
  // How positions of pictures share the pairs; text has one position for all.
  const Json settings = rope_settings(config_, "config");
  auto sections = json_get<std::vector<int64_t>>(settings, "mrope_section", "config", {11, 11, 10});
  sections.resize(4);
  out.metadata.set("qwen35.rope.dimension_sections", GgufValue::i32s(std::move(sections)));
}

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

namespace {

// Files have the heads of values in another order: the first of every group, then the second, and so on.
// `rows`: whole rows move, from `first` on, `size` of them to a head; else `size` elements of every row.
Tensor reordered(const Tensor& given, const Qwen35::ValueHeads& heads, bool to_file, bool rows, int64_t first,
                 int64_t size) {
  const bool cuts_blocks = !rows && size % block_size(given.dtype()).elements != 0;
  const Tensor tensor = cuts_blocks ? convert(given, DType::kF32) : given;
  Tensor out = tensor.clone();
  const int64_t count = tensor.shape()[0];
  const auto row_bytes = tensor.size_bytes() / static_cast<size_t>(count);
  // Of one head: whole rows, or its share of a row.
  const size_t bytes = rows ? row_bytes * static_cast<size_t>(size)
                            : row_bytes / static_cast<size_t>(heads.groups * heads.of_group);
  for (int64_t row = 0; row < (rows ? 1 : count); ++row) {
    const size_t begin = rows ? static_cast<size_t>(first) * row_bytes : static_cast<size_t>(row) * row_bytes;
    for (int64_t g = 0; g < heads.groups; ++g) {
      for (int64_t r = 0; r < heads.of_group; ++r) {
        const auto ours = static_cast<size_t>(g * heads.of_group + r),
                   theirs = static_cast<size_t>(r * heads.groups + g);
        std::memcpy(static_cast<std::byte*>(out.raw()) + begin + (to_file ? theirs : ours) * bytes,
                    static_cast<const std::byte*>(tensor.raw()) + begin + (to_file ? ours : theirs) * bytes,
                    bytes);
      }
    }
  }
  return out;
}

const Qwen35& qwen35(const Model& model) { return static_cast<const Qwen35&>(model); }

template <bool kToFile>
Tensor value_rows(const Tensor& tensor,
                  const Model& model) {  // of a matrix or a vector, `head_dim` to a head
  const auto heads = qwen35(model).value_heads();
  return reordered(tensor, heads, kToFile, true, 0, heads.head_dim);
}
template <bool kToFile>
Tensor one_by_head(const Tensor& tensor, const Model& model) {
  return reordered(tensor, qwen35(model).value_heads(), kToFile, true, 0, 1);
}
template <bool kToFile>
Tensor channel_rows(const Tensor& tensor, const Model& model) {  // those of values follow queries and keys
  const auto heads = qwen35(model).value_heads();
  return reordered(tensor, heads, kToFile, true, qwen35(model).first_value_channel(), heads.head_dim);
}
template <bool kToFile>
Tensor value_columns(const Tensor& tensor, const Model& model) {
  const auto heads = qwen35(model).value_heads();
  return reordered(tensor, heads, kToFile, false, 0, heads.head_dim);
}

const GgufForm kValueRows = {value_rows<true>, value_rows<false>};
const GgufForm kOneByHead = {one_by_head<true>, one_by_head<false>};
const GgufForm kChannelRows = {channel_rows<true>, channel_rows<false>};
const GgufForm kValueColumns = {value_columns<true>, value_columns<false>};
const GgufForm kKernel = {[](const Tensor& kernel, const Model& model) {
                            return kGgufFlatKernel.to_file(channel_rows<true>(kernel, model), model);
                          },
                          [](const Tensor& kernel, const Model& model) {
                            return kGgufFlatKernel.from_file(channel_rows<false>(kernel, model), model);
                          },
                          [](const Shape& shape) { return Shape{shape[0], shape[2]}; }};
// A_log is written as -exp(A_log).
const GgufForm kDecay = {[](const Tensor& decay, const Model& model) {
                           Tensor out(DType::kF32, decay.shape());
                           for (int64_t i = 0; i < out.elements(); ++i) out.set(i, -std::exp(decay.at(i)));
                           return one_by_head<true>(out, model);
                         },
                         [](const Tensor& decay, const Model& model) {
                           Tensor out(DType::kF32, decay.shape());
                           for (int64_t i = 0; i < out.elements(); ++i) {
                             require(decay.at(i) < 0, Code::kDataLoss,
                                     "ssm_a[{}] is {}, a number below 0 was wanted", i, decay.at(i));
                             out.set(i, std::log(-decay.at(i)));
                           }
                           return one_by_head<false>(out, model);
                         }};

// Layers that guess tokens ahead follow the others; they are not computed.
bool is_ahead(std::string_view name, const Json& config) {
  if (!name.starts_with("blk.")) return false;
  int64_t layer = 0;
  for (const char c : name.substr(4, std::min<size_t>(name.find('.', 4), 12) - 4)) {
    if (c < '0' || c > '9') return false;
    layer = 10 * layer + (c - '0');
  }
  return layer >= config["num_hidden_layers"].get<int64_t>();
}

void read_gguf_qwen3_5(const GgufFile& file, Json& config) {
  const GgufMetadata& metadata = file.metadata();
  const std::string& source = metadata.source();
  const auto layers = config["num_hidden_layers"].get<int64_t>() -
                      metadata.integer("qwen35.nextn_predict_layers").value_or(0);
  require(layers >= 1 && layers <= kMaxLayers, Code::kDataLoss,
          "'{}': qwen35.block_count and nextn_predict_layers leave {} layers", source, layers);
  config["num_hidden_layers"] = layers;
  const std::vector<int64_t> recurrent = gguf_by_layer(metadata, "qwen35.attention.recurrent_layers", layers);
  if (!recurrent.empty()) {
    Json types = Json::array();
    for (int64_t i = 0; i < layers; ++i)
      types.push_back(recurrent[static_cast<size_t>(i)] != 0 ? "linear_attention" : "full_attention");
    config["layer_types"] = types;
  }
  const int64_t heads = metadata.integer("qwen35.ssm.time_step_rank").value_or(0),
                inner = metadata.integer("qwen35.ssm.inner_size").value_or(0);
  require(heads > 0 && inner > 0 && inner % heads == 0, Code::kDataLoss,
          "'{}': qwen35.ssm.inner_size is {}, a multiple of qwen35.ssm.time_step_rank {} was wanted", source,
          inner, heads);
  config["linear_value_head_dim"] = inner / heads;
  // As transformers has them, all in one place.
  Json rope = {{"rope_type", "default"}, {"rope_theta", config["rope_theta"]}};
  if (config.contains("rope_scaling")) rope.update(config["rope_scaling"]);
  if (config.contains("partial_rotary_factor"))
    rope["partial_rotary_factor"] = config["partial_rotary_factor"];
  if (const auto* sections = metadata.integers("qwen35.rope.dimension_sections")) {
    require(sections->size() >= 3, Code::kDataLoss, "'{}': qwen35.rope.dimension_sections has {} numbers",
            source, sections->size());
    rope["mrope_section"] = std::vector<int64_t>(sections->begin(), sections->begin() + 3);
    rope["mrope_interleaved"] = true;
  }
  for (const char* key : {"rope_theta", "rope_scaling", "partial_rotary_factor"}) config.erase(key);
  config["rope_parameters"] = rope;
}

}  // namespace

const GgufArchitecture& gguf_qwen3_5() {
  static const GgufArchitecture out = {
      .architecture = "qwen35",
      .model_type = "qwen3_5_text",
      .class_name = "Qwen3_5ForCausalLM",
      .outside = gguf_decoder_outside(&kGgufNormPlusOne),
      .inside = joined(gguf_attention_inside(false, &kGgufNormPlusOne),
                       {{"post_attention_layernorm", "post_attention_norm", &kGgufNormPlusOne},
                        {"mlp.gate_proj", "ffn_gate"},
                        {"mlp.up_proj", "ffn_up"},
                        {"mlp.down_proj", "ffn_down"},
                        {"linear_attn.dt_bias", "ssm_dt.bias", &kOneByHead},
                        {"linear_attn.A_log", "ssm_a", &kDecay},
                        {"linear_attn.conv1d", "ssm_conv1d", &kKernel},
                        {"linear_attn.norm", "ssm_norm"},
                        {"linear_attn.out_proj", "ssm_out", &kValueColumns},
                        {"linear_attn.in_proj_qkv", "attn_qkv", &kChannelRows},
                        {"linear_attn.in_proj_z", "attn_gate", &kValueRows},
                        {"linear_attn.in_proj_b", "ssm_beta", &kOneByHead},
                        {"linear_attn.in_proj_a", "ssm_alpha", &kOneByHead}}),
      .keys = gguf_decoder_keys({{"linear_conv_kernel_dim", "ssm.conv_kernel", true},
                                 {"linear_key_head_dim", "ssm.state_size", true},
                                 {"linear_num_key_heads", "ssm.group_count", true},
                                 {"linear_num_value_heads", "ssm.time_step_rank", true},
                                 {"full_attention_interval", "full_attention_interval", true}}),
      .settings = R"({"hidden_act": "silu", "attention_bias": false})",
      .read = read_gguf_qwen3_5,
      .write = [](const Model& model, GgufContents& out) { qwen35(model).write_gguf(out); },
      .ignores = is_ahead};
  return out;
}

}  // namespace vertebra
