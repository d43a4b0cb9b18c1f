#include "models/decoder.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace vertebra {
namespace {

constexpr const char* kPartMark = "vertebra_text_part";  // set by text_part, taken out by Decoder

}  // namespace

Json text_part(const Json& config, std::string_view source) {
  const Json nested = json_get<Json>(config, "text_config", source, Json());
  if (!nested.is_object()) return config;
  Json out = nested;
  for (const char* key : {"tie_word_embeddings", "eos_token_id", "bos_token_id", "pad_token_id"}) {
    if (!out.contains(key) && config.contains(key)) out[key] = config[key];
  }
  out[kPartMark] = true;
  return out;
}

Decoder::Decoder(const Json& config, std::string_view source, const Defaults& defaults) : config_(config) {
  part_of_larger_ = config_.erase(kPartMark) > 0;
  const auto size = [&](const char* key) { return config_size(config, key, source); };
  shape_.layers = static_cast<int>(config_size(config, "num_hidden_layers", source, kMaxLayers));
  shape_.embedding = size("hidden_size");
  shape_.heads = size("num_attention_heads");
  const bool has_groups = config.contains("num_key_value_heads") && !config["num_key_value_heads"].is_null();
  shape_.key_value_heads =
      has_groups ? json_get<int64_t>(config, "num_key_value_heads", source) : shape_.heads;
  require(shape_.key_value_heads >= 1 && shape_.heads % shape_.key_value_heads == 0,
          "{}: num_attention_heads {} is no multiple of num_key_value_heads {}", source, shape_.heads,
          shape_.key_value_heads);
  const bool has_head_dim = config.contains("head_dim") && !config["head_dim"].is_null();
  require(has_head_dim || shape_.embedding % shape_.heads == 0,
          "{}: hidden_size {} is no multiple of num_attention_heads {}, and no head_dim is given", source,
          shape_.embedding, shape_.heads);
  shape_.head_dim = has_head_dim ? size("head_dim") : shape_.embedding / shape_.heads;
  require(shape_.head_dim % 2 == 0, "{}: head_dim is {}, an even number was wanted", source, shape_.head_dim);
  shape_.vocabulary = size("vocab_size");
  shape_.context_length = size("max_position_embeddings");
  feed_forward_ = size("intermediate_size");
  norm_epsilon_ =
      config_epsilon(config, std::string(defaults.norm_epsilon_key), source, defaults.norm_epsilon);
  tied_ = json_get<bool>(config, "tie_word_embeddings", source, defaults.tied);
  deviation_ = json_get<double>(config, "initializer_range", source, 0.02);
  const char* key = config.contains("hidden_activation") ? "hidden_activation" : "hidden_act";
  activation_ = json_get<std::string>(config, key, source, std::string(defaults.activation));
  require(activation_ == "silu" || activation_ == "gelu_pytorch_tanh" || activation_ == "gelu",
          Code::kUnimplemented, "{}: {} '{}' is not supported; silu, gelu_pytorch_tanh and gelu are", source,
          key, activation_);
}

StoredNames Decoder::stored_names() const {
  if (!part_of_larger_) return {};
  return {.prefixes = {{"model.language_model.", "model."},
                       {"language_model.model.", "model."},
                       {"language_model.lm_head.", "lm_head."}},
          .ignored = {"model.vision_tower.", "vision_tower.", "model.visual.", "visual.",
                      "model.multi_modal_projector.", "multi_modal_projector.", "model.audio_tower.",
                      "model.embed_vision.", "model.embed_audio.", "mtp."}};
}

Initializer Decoder::residual_initializer() const {
  // What writes into the residual stream starts smaller by sqrt(2 layers) (Radford et al. 2019).
  return Initializer::normal(deviation_ / std::sqrt(2.0 * shape_.layers));
}

void Decoder::declare(ParameterSpec spec) {
  names_.insert(spec.name);
  parameters_.push_back(std::move(spec));
}

void Decoder::declare_embedding() {
  declare({std::string(kEmbedding),
           {shape_.vocabulary, shape_.embedding},
           {Axis::kVocabulary, Axis::kEmbedding},
           Role::kEmbedding,
           inner_initializer()});
}

void Decoder::declare_head() {
  if (tied_) return;
  declare({std::string(kHead),
           {shape_.vocabulary, shape_.embedding},
           {Axis::kVocabulary, Axis::kEmbedding},
           Role::kHead,
           inner_initializer()});
}

void Decoder::declare_norm(const std::string& name, int64_t length, Axis axis) {
  declare({name + ".weight",
           {length},
           {axis},
           Role::kVector,
           centered_norms_ ? Initializer::zeros() : Initializer::ones()});
}

void Decoder::declare_matrix(const std::string& name, const Matrix& matrix, Bias bias) {
  declare({name + ".weight",
           {matrix.out, matrix.in},
           {matrix.out_axis, matrix.in_axis},
           Role::kMatrix,
           matrix.writes_residual ? residual_initializer() : inner_initializer()});
  if (bias == Bias::kNo) return;
  declare({name + ".bias", {matrix.out}, {matrix.out_axis}, Role::kVector, Initializer::zeros()});
}

void Decoder::declare_attention(const std::string& at, Bias inner, Bias outer) {
  const int64_t E = shape_.embedding, HD = shape_.heads * shape_.head_dim,
                KD = shape_.key_value_heads * shape_.head_dim;
  declare_matrix(at + "q_proj", {HD, E, Axis::kHeads, Axis::kEmbedding}, inner);
  declare_matrix(at + "k_proj", {KD, E, Axis::kKeyValueHeads, Axis::kEmbedding}, inner);
  declare_matrix(at + "v_proj", {KD, E, Axis::kKeyValueHeads, Axis::kEmbedding}, inner);
  declare_matrix(at + "o_proj", {E, HD, Axis::kEmbedding, Axis::kHeads, true}, outer);
}

void Decoder::declare_experts(const std::string& name, const Matrix& matrix, StoredForm stored) {
  declare({name,
           {shape_.experts, matrix.out, matrix.in},
           {Axis::kExpert, matrix.out_axis, matrix.in_axis},
           Role::kMatrix,
           matrix.writes_residual ? residual_initializer() : inner_initializer(),
           std::move(stored)});
}

void Decoder::declare_gated_mlp(const std::string& at, int64_t feed_forward, Bias bias) {
  const int64_t E = shape_.embedding, F = feed_forward;
  declare_matrix(at + "gate_proj", {F, E, Axis::kFeedForward, Axis::kEmbedding}, bias);
  declare_matrix(at + "up_proj", {F, E, Axis::kFeedForward, Axis::kEmbedding}, bias);
  declare_matrix(at + "down_proj", {E, F, Axis::kEmbedding, Axis::kFeedForward, true}, bias);
}

Value Decoder::embed(ModelContext& context, Value tokens) const {
  return embedding(context.parameter(kEmbedding), tokens);
}

Value Decoder::norm(ModelContext& context, Value x, const std::string& name) const {
  const Value weight = context.parameter(name + ".weight");
  return rms_norm(x, centered_norms_ ? add(weight, 1.0) : weight, norm_epsilon_);
}

Value Decoder::project(ModelContext& context, Value x, const std::string& name) const {
  const Value bias = declares(name + ".bias") ? context.parameter(name + ".bias") : Value{};
  return linear(x, context.parameter(name + ".weight"), bias, context.compute());
}

Value Decoder::project_to_heads(ModelContext& context, Value x, const std::string& name,
                                int64_t head_dim) const {
  const int64_t D = head_dim == 0 ? shape_.head_dim : head_dim;
  const Value y = project(context, x, name);
  return reshape(y, {y.shape().dim(0), y.shape()[1] / D, D});
}

Value Decoder::project_heads(ModelContext& context, Value x, const std::string& name) const {
  return project(context, reshape(x, {x.shape().dim(0), x.shape()[1] * x.shape()[2]}), name);
}

Value Decoder::activate(Value x) const {
  return activation_ == "silu" ? silu(x) : gelu(x, activation_ == "gelu_pytorch_tanh");
}

Value Decoder::gated_mlp(ModelContext& context, Value x, const std::string& at) const {
  if (activation_ == "silu" && !declares(at + "gate_proj.bias")) {
    return vertebra::gated_mlp(x, context.parameter(at + "gate_proj.weight"),
                               context.parameter(at + "up_proj.weight"),
                               context.parameter(at + "down_proj.weight"), context.compute());
  }
  const Value gate = activate(project(context, x, at + "gate_proj"));
  return project(context, multiply(gate, project(context, x, at + "up_proj")), at + "down_proj");
}

Value Decoder::mix(Value y, Value weights) {
  return reduce_sum(multiply(y, broadcast_in_dim(weights, y.shape(), {0, 1})), {1});
}

std::vector<std::string> Decoder::given_layer_types(std::string_view source,
                                                    std::initializer_list<const char*> known) const {
  const Json list = json_get<Json>(config_, "layer_types", source, Json());
  if (list.is_null()) return {};
  require(list.is_array() && static_cast<int>(list.size()) == shape_.layers,
          "{}: layer_types needs {} names, one for every layer", source, shape_.layers);
  std::vector<std::string> out;
  for (const Json& each : list) {
    const std::string type = each.is_string() ? each.get<std::string>() : json_line(each);
    require(std::find(known.begin(), known.end(), type) != known.end(), Code::kUnimplemented,
            "{}: layer_types holds '{}', which is not supported here; {} are", source, type,
            fmt::join(known, " and "));
    out.push_back(type);
  }
  return out;
}

int64_t Decoder::read_window(std::string_view source) const {
  const auto it = config_.find("sliding_window");
  return it == config_.end() || it->is_null() ? 0 : config_size(config_, "sliding_window", source);
}

std::vector<int64_t> Decoder::read_qwen_windows(std::string_view source) const {
  const bool uses = json_get<bool>(config_, "use_sliding_window", source, false);
  const auto first = json_get<int64_t>(config_, "max_window_layers", source, 28);
  return read_windows(uses ? read_window(source) : 0, source, [&](int i) { return i >= first; });
}

}  // namespace vertebra
