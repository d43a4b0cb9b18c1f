// Gemma 4, text (Gemma team 2026): as Gemma 3, but heads of another width where a layer sees all, values that
// are the keys' projection there, later layers that use the keys and values of earlier ones, a second, small
// embedding of each token for every layer, and in one size experts beside the MLP.
#include <cmath>
#include <map>

#include "models/decoder.h"
#include "models/gguf_architecture.h"
#include "models/gguf_rope.h"

namespace vertebra {
namespace {

class Gemma4 final : public Decoder {
 public:
  Gemma4(const Json& config, std::string_view source)
      : Decoder(config, source, {.tied = true, .activation = "gelu_pytorch_tanh"}),
        window_(read_window(source)) {
    const Json both_ways = json_get<Json>(config, "use_bidirectional_attention", source, Json());
    require(both_ways.is_null() || both_ways == "vision", Code::kUnimplemented,
            "{}: use_bidirectional_attention {} is not supported", source, json_line(both_ways));
    const Json cap = json_get<Json>(config, "final_logit_softcapping", source, Json());
    if (!cap.is_null()) softcap_ = json_get<double>(config, "final_logit_softcapping", source);
    read_layers(source);
    const auto rotary = [&](const char* kind, int64_t head_dim, double theta) {
      return RotaryPositions(rope_settings(config, source, theta, kind), head_dim, shape_.context_length,
                             source);
    };
    sliding_ = rotary("sliding_attention", shape_.head_dim, 1e4);
    full_ = rotary("full_attention", full_head_dim_, 1e6);
    if (config.contains("hidden_size_per_layer_input") && config["hidden_size_per_layer_input"] != 0) {
      layer_width_ = config_size(config, "hidden_size_per_layer_input", source);
      layer_vocabulary_ = config_size(config, "vocab_size_per_layer_input", source);
    }
    if (json_get<bool>(config, "enable_moe_block", source, false)) {
      shape_.experts = static_cast<int>(config_size(config, "num_experts", source, 1 << 16));
      shape_.experts_per_token =
          static_cast<int>(config_size(config, "top_k_experts", source, shape_.experts));
      expert_width_ = config_size(config, "moe_intermediate_size", source);
    }
    declare_all(json_get<bool>(config, "attention_bias", source, false) ? Bias::kYes : Bias::kNo);
  }

  double logit_softcap() const override { return softcap_; }
  StoredNames stored_names() const override;
  Value forward(ModelContext& context, Value tokens, Value positions) const override;
  void write_gguf(GgufContents& out) const;

 private:
  struct Layer {
    bool sees_all = false, keys_are_values = false;
    int64_t head_dim = 0, key_heads = 0, feed_forward = 0;
    int shares = -1;  // the layer whose keys and values it uses
  };
  struct KeysAndValues {
    Value k, v;
  };

  void read_layers(std::string_view source);
  void declare_all(Bias bias);
  void declare_experts_layer(const std::string& at);
  Value layer_inputs(ModelContext& context, Value tokens, Value x) const;
  Value mlp(ModelContext& context, Value x, const std::string& at) const;
  Value experts(ModelContext& context, Value x, const std::string& at) const;
  Value attention(ModelContext& context, int layer, Value h, Value positions,
                  std::map<int, KeysAndValues>& made) const;

  int64_t window_ = 0, full_head_dim_ = 0, layer_width_ = 0, layer_vocabulary_ = 0, expert_width_ = 0;
  double softcap_ = 0;
  RotaryPositions sliding_, full_;
  std::vector<Layer> layers_;
};

void Gemma4::read_layers(std::string_view source) {
  const auto types = read_layer_types(source, {"full_attention", "sliding_attention"}, [&](int i) {
    return (i + 1) % 6 == 0 || i + 1 == shape_.layers ? "full_attention" : "sliding_attention";
  });
  const bool keys_are_values = json_get<bool>(config_, "attention_k_eq_v", source, false);
  const bool double_wide = json_get<bool>(config_, "use_double_wide_mlp", source, false);
  const auto shared = json_get<int64_t>(config_, "num_kv_shared_layers", source, 0);
  require(shared >= 0 && shared < shape_.layers, "{}: num_kv_shared_layers is {}, 0 to {} was wanted", source,
          shared, shape_.layers - 1);
  // Either at the top, for all layers that see all, or layer by layer (as transformers 5 writes it).
  const Json by_layer = json_get<Json>(config_, "per_layer_config", source, Json::object());
  const auto size_of = [&](int i, const char* key, const char* global_key, int64_t fallback) {
    const auto own = by_layer.find(std::to_string(i));
    if (own != by_layer.end() && own->contains(key)) return config_size(*own, key, source);
    const bool given = config_.contains(global_key) && !config_[global_key].is_null();
    return given ? config_size(config_, global_key, source) : fallback;
  };
  full_head_dim_ = shape_.head_dim;
  std::map<bool, int> latest;  // the last layer of each kind that makes keys and values
  for (int i = 0; i < shape_.layers; ++i) {
    Layer& layer = layers_.emplace_back();
    layer.sees_all = types[static_cast<size_t>(i)] == "full_attention";
    layer.keys_are_values = keys_are_values && layer.sees_all;
    layer.head_dim = shape_.head_dim;
    layer.key_heads = shape_.key_value_heads;
    if (layer.sees_all) {
      layer.head_dim = full_head_dim_ =
          size_of(i, "head_dim", "global_head_dim", by_layer.empty() ? 512 : shape_.head_dim);
      if (keys_are_values)
        layer.key_heads =
            size_of(i, "num_key_value_heads", "num_global_key_value_heads", shape_.key_value_heads);
    }
    require(shape_.heads % layer.key_heads == 0,
            "{}: num_attention_heads {} is no multiple of {} in layer {}", source, shape_.heads,
            layer.key_heads, i);
    if (i < shape_.layers - shared) {
      latest[layer.sees_all] = i;
    } else {
      require(latest.contains(layer.sees_all),
              "{}: layer {} is to share keys, but no layer of its kind makes any", source, i);
      layer.shares = latest[layer.sees_all];
    }
    layer.feed_forward = double_wide && layer.shares >= 0 ? 2 * feed_forward_ : feed_forward_;
  }
}

void Gemma4::declare_all(Bias bias) {
  const int64_t E = shape_.embedding, P = layer_width_;
  declare_embedding();
  if (P > 0) {
    declare({"model.embed_tokens_per_layer.weight",
             {layer_vocabulary_, shape_.layers * P},
             {Axis::kVocabulary, Axis::kNone},
             Role::kEmbedding,
             inner_initializer()});
    declare_matrix("model.per_layer_model_projection", {shape_.layers * P, E, Axis::kNone, Axis::kEmbedding});
    declare_norm("model.per_layer_projection_norm", P, Axis::kNone);
  }
  for (int i = 0; i < shape_.layers; ++i) {
    const Layer& layer = layers_[static_cast<size_t>(i)];
    const std::string at = layer_name(i), attention = at + "self_attn.";
    const int64_t D = layer.head_dim, HD = shape_.heads * D, KD = layer.key_heads * D;
    declare_norm(at + "input_layernorm");
    declare_matrix(attention + "q_proj", {HD, E, Axis::kHeads, Axis::kEmbedding}, bias);
    declare_norm(attention + "q_norm", D, Axis::kNone);
    if (layer.shares < 0) {
      declare_matrix(attention + "k_proj", {KD, E, Axis::kKeyValueHeads, Axis::kEmbedding}, bias);
      declare_norm(attention + "k_norm", D, Axis::kNone);
      if (!layer.keys_are_values)
        declare_matrix(attention + "v_proj", {KD, E, Axis::kKeyValueHeads, Axis::kEmbedding}, bias);
    }
    declare_matrix(attention + "o_proj", {E, HD, Axis::kEmbedding, Axis::kHeads, true}, bias);
    declare_norm(at + "post_attention_layernorm");
    declare_norm(at + "pre_feedforward_layernorm");
    declare_gated_mlp(at + "mlp.", layer.feed_forward);
    declare_norm(at + "post_feedforward_layernorm");
    if (shape_.experts > 0) declare_experts_layer(at);
    if (P > 0) {
      declare_matrix(at + "per_layer_input_gate", {P, E, Axis::kNone, Axis::kEmbedding});
      declare_matrix(at + "per_layer_projection", {E, P, Axis::kEmbedding, Axis::kNone, true});
      declare_norm(at + "post_per_layer_input_norm");
    }
    declare({at + "layer_scalar", {1}, {Axis::kNone}, Role::kVector, Initializer::ones()});
  }
  declare_norm("model.norm");
  declare_head();
}

void Gemma4::declare_experts_layer(const std::string& at) {
  const int64_t E = shape_.embedding, F = expert_width_, X = shape_.experts;
  declare_matrix(at + "router.proj", {X, E, Axis::kNone, Axis::kEmbedding});
  declare({at + "router.scale", {E}, {Axis::kEmbedding}, Role::kVector, Initializer::ones()});
  declare({at + "router.per_expert_scale", {X}, {Axis::kNone}, Role::kVector, Initializer::ones()});
  declare_experts(at + "experts.gate_up_proj", {2 * F, E, Axis::kNone, Axis::kEmbedding}, {});
  declare_experts(at + "experts.down_proj", {E, F, Axis::kEmbedding, Axis::kFeedForward, true}, {});
  for (const char* name :
       {"post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"})
    declare_norm(at + name);
}

// Files keep matrices of keys and values for layers that share those of others.
StoredNames Gemma4::stored_names() const {
  StoredNames out = Decoder::stored_names();
  for (int i = 0; i < shape_.layers; ++i) {
    if (layers_[static_cast<size_t>(i)].shares < 0) continue;
    for (const char* name : {"k_proj.", "v_proj.", "k_norm.", "v_norm."})
      out.ignored.push_back(layer_name(i) + "self_attn." + name);
  }
  return out;
}

void Gemma4::write_gguf(GgufContents& out) const {
  const std::string& source = out.metadata.source();
  const auto set = [&](const char* key, GgufValue value) {
    out.metadata.set(std::string("gemma4.") + key, std::move(value));
  };
  std::vector<int64_t> windowed, key_heads, widths;
  for (const Layer& layer : layers_) {
    windowed.push_back(!layer.sees_all);
    key_heads.push_back(layer.key_heads);
    widths.push_back(layer.feed_forward);
  }
  set("attention.sliding_window", GgufValue::u32(window_));
  set("attention.sliding_window_pattern", GgufValue{GgufType::kBool, std::move(windowed)});
  set("attention.head_count_kv", GgufValue::i32s(std::move(key_heads)));
  set("feed_forward_length", GgufValue::i32s(std::move(widths)));
  for (const char* key : {"attention.key_length", "attention.value_length"}) {
    set(key, GgufValue::u32(full_head_dim_));
    set((std::string(key) + "_swa").c_str(), GgufValue::u32(shape_.head_dim));
  }
  set("attention.shared_kv_layers",
      GgufValue::u32(json_get<int64_t>(config_, "num_kv_shared_layers", source, 0)));
  set("embedding_length_per_layer_input", GgufValue::u32(layer_width_));
  Json full = rope_settings(config_, source, 1e6, "full_attention");
  // Of a kind of its own: readers expect factors for every pair of the whole head.
  if (full["rope_type"] == "default") full["rope_type"] = "proportional";
  write_gguf_rope(full, full_head_dim_, shape_.context_length, source, out);
  const Json sliding = rope_settings(config_, source, 1e4, "sliding_attention");
  require(sliding["rope_type"] == "default", Code::kUnimplemented,
          "{}: rope_type '{}' of layers with a window is not written to GGUF", source,
          json_line(sliding["rope_type"]));
  const auto part = json_get<double>(sliding, "partial_rotary_factor", source, 1.0);
  set("rope.dimension_count_swa",
      GgufValue::u32(static_cast<int64_t>(static_cast<double>(shape_.head_dim) * part)));
  set("rope.freq_base_swa", GgufValue::f32(sliding_.theta()));
}

// What each layer adds of the token itself: [N, layers, P], from the small embedding and the large one's x
// [N, E].
Value Gemma4::layer_inputs(ModelContext& context, Value tokens, Value x) const {
  const Shape by_layer = {tokens.shape().dim(0), shape_.layers, layer_width_};
  const Value own = multiply(embedding(context.parameter("model.embed_tokens_per_layer.weight"), tokens),
                             std::sqrt(static_cast<double>(layer_width_)));
  const Value projected = multiply(project(context, x, "model.per_layer_model_projection"),
                                   1 / std::sqrt(static_cast<double>(shape_.embedding)));
  const Value normed = norm(context, reshape(projected, by_layer), "model.per_layer_projection_norm");
  return multiply(add(normed, reshape(own, by_layer)), std::sqrt(0.5));
}

Value Gemma4::attention(ModelContext& context, int layer, Value h, Value positions,
                        std::map<int, KeysAndValues>& made) const {
  const Layer& l = layers_[static_cast<size_t>(layer)];
  const std::string at = layer_name(layer) + "self_attn.";
  const RotaryPositions& rotary = l.sees_all ? full_ : sliding_;
  const auto heads = [&](const std::string& name) {
    return project_to_heads(context, h, at + name, l.head_dim);
  };
  const Value q = rotary(context, norm(context, heads("q_proj"), at + "q_norm"), positions);  // [N, H, D]
  if (l.shares < 0) {
    const Value k = heads("k_proj"), v = l.keys_are_values ? k : heads("v_proj");  // [N, K, D]
    const Value ones = full(context.graph(), {l.head_dim}, 1);
    made[layer] = {rotary(context, norm(context, k, at + "k_norm"), positions),
                   rms_norm(v, ones, norm_epsilon_)};
  }
  const KeysAndValues& kv = made.at(l.shares < 0 ? layer : l.shares);
  const Value out = context.attend(layer, q, kv.k, kv.v,
                                   {.scale = 1, .window = l.sees_all ? 0 : window_, .cache_layer = l.shares});
  return project_heads(context, out, at + "o_proj");
}

// x [N, E] through the experts chosen for each token.
Value Gemma4::experts(ModelContext& context, Value x, const std::string& at) const {
  const Value scale =
      multiply(context.parameter(at + "router.scale"), 1 / std::sqrt(static_cast<double>(shape_.embedding)));
  const Value scores = project(context, rms_norm(x, scale, norm_epsilon_), at + "router.proj");
  const TopK best = top_k(softmax(scores), shape_.experts_per_token);  // [N, A]
  const Value sum = broadcast_in_dim(reduce_sum(best.values, {1}), best.values.shape(), {0});
  const Value weights = multiply(
      divide(best.values, sum), gather_rows(context.parameter(at + "router.per_expert_scale"), best.indices));
  const auto product = [&](Value rows, const std::string& name) {
    return expert_linear(rows, context.parameter(at + "experts." + name), best.indices, {},
                         context.compute());
  };
  const int64_t F = expert_width_;
  const Value both =
      product(norm(context, x, at + "pre_feedforward_layernorm_2"), "gate_up_proj");  // [N, A, 2 F]
  const Value hidden = multiply(activate(slice_axis(both, 2, 0, F)), slice_axis(both, 2, F, 2 * F));
  return mix(product(hidden, "down_proj"), weights);
}

Value Gemma4::mlp(ModelContext& context, Value x, const std::string& at) const {
  const Value y = gated_mlp(context, norm(context, x, at + "pre_feedforward_layernorm"), at + "mlp.");
  if (shape_.experts == 0) return y;
  return add(norm(context, y, at + "post_feedforward_layernorm_1"),
             norm(context, experts(context, x, at), at + "post_feedforward_layernorm_2"));
}

Value Gemma4::forward(ModelContext& context, Value tokens, Value positions) const {
  const int64_t P = layer_width_;
  Value x = context.residual(
      multiply(embed(context, tokens), std::sqrt(static_cast<double>(shape_.embedding))));  // [N, E]
  const Value inputs = P > 0 ? layer_inputs(context, tokens, x) : Value{};
  std::map<int, KeysAndValues> made;
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const Value y = attention(context, i, norm(context, x, at + "input_layernorm"), positions, made);
      x = context.residual(add(x, norm(context, y, at + "post_attention_layernorm")));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value y = mlp(context, x, at);
      x = context.residual(add(x, norm(context, y, at + "post_feedforward_layernorm")));
    }
    if (P > 0) {
      const Graph::Scope scope(context.graph(), "token");
      const Value own = reshape(slice_axis(inputs, 1, i, i + 1), {x.shape().dim(0), P});
      const Value gate = activate(project(context, x, at + "per_layer_input_gate"));
      const Value y = project(context, multiply(gate, own), at + "per_layer_projection");
      x = add(x, norm(context, y, at + "post_per_layer_input_norm"));
    }
    x = context.residual(multiply(x, context.parameter(at + "layer_scalar")));
  }
  return norm(context, x, "model.norm");
}

}  // namespace

// A folder with vision beside text nests the text's settings; a folder of text alone has them at the top.
std::unique_ptr<Model> make_gemma4(const Json& config, std::string_view source) {
  return std::make_unique<Gemma4>(text_part(config, source), source);
}

namespace {

// The number that all layers with, or all without a window have.
int64_t number_of_kind(const GgufMetadata& metadata, const std::string& key,
                       const std::vector<int64_t>& windowed, bool with_window) {
  std::optional<int64_t> out;
  const std::vector<int64_t> values = gguf_by_layer(metadata, key, static_cast<int64_t>(windowed.size()));
  require(!values.empty(), Code::kDataLoss, "'{}': the metadata lack {}", metadata.source(), key);
  for (size_t i = 0; i < windowed.size(); ++i) {
    if ((windowed[i] != 0) != with_window) continue;
    require(!out || *out == values[i], Code::kUnimplemented,
            "'{}': {} is {} and {} in layers that {} a window: one number for these was wanted",
            metadata.source(), key, out.value_or(0), values[i], with_window ? "have" : "lack");
    out = values[i];
  }
  return out.value_or(values[0]);
}

Json read_gguf_rotary(const GgufFile& file, const Json& config) {
  const GgufMetadata& metadata = file.metadata();
  const auto number = [&](const char* key, double fallback) {
    return gguf_number_of(metadata.number(std::string("gemma4.rope.") + key).value_or(fallback));
  };
  Json full = {{"rope_type", "proportional"}, {"rope_theta", number("freq_base", 1e6)}};
  Json sliding = {{"rope_type", "default"}, {"rope_theta", number("freq_base_swa", 1e4)}};
  const auto of_head = [](double count, const Json& head_dim) { return count / head_dim.get<double>(); };
  if (const double turns = number("dimension_count_swa", 0); turns > 0)
    sliding["partial_rotary_factor"] = of_head(turns, config["head_dim"]);
  full["partial_rotary_factor"] = 1.0;
  // Pairs at rest have a factor beyond all measure.
  if (const GgufEntry* entry = file.find("rope_freqs.weight"); entry != nullptr) {
    require(is_float(entry->type.dtype), Code::kDataLoss,
            "'{}': rope_freqs.weight has type {}, f32 was wanted", metadata.source(),
            dtype_name(entry->type.dtype));
    const Tensor factors = file.read(*entry);
    int64_t turning = 0;
    while (turning < factors.elements() && factors.at(turning) == 1) ++turning;
    for (int64_t i = turning; i < factors.elements(); ++i) {
      require(factors.at(i) > 1e20, Code::kUnimplemented,
              "'{}': rope_freqs.weight[{}] is {}; 1 for pairs that turn, then 1e30 was wanted",
              metadata.source(), i, factors.at(i));
    }
    full["partial_rotary_factor"] = of_head(2 * static_cast<double>(turning), config["global_head_dim"]);
  }
  return {{"full_attention", full}, {"sliding_attention", sliding}};
}

void read_gguf_gemma4(const GgufFile& file, Json& config) {
  const GgufMetadata& metadata = file.metadata();
  const auto layers = config["num_hidden_layers"].get<int64_t>();
  const std::vector<int64_t> windowed =
      gguf_by_layer(metadata, "gemma4.attention.sliding_window_pattern", layers);
  require(!windowed.empty(), Code::kDataLoss,
          "'{}': the metadata lack gemma4.attention.sliding_window_pattern", metadata.source());
  read_gguf_windows(file, 6, config);
  if (!config.contains("global_head_dim")) config["global_head_dim"] = config["head_dim"];
  const std::string heads = "gemma4.attention.head_count_kv", widths = "gemma4.feed_forward_length";
  config["num_key_value_heads"] = number_of_kind(metadata, heads, windowed, true);
  const std::vector<int64_t> width = gguf_by_layer(metadata, widths, layers);
  require(!width.empty(), Code::kDataLoss, "'{}': the metadata lack {}", metadata.source(), widths);
  config["intermediate_size"] = width.front();
  config["use_double_wide_mlp"] = width.back() != width.front();
  config["attention_k_eq_v"] = false;
  for (int64_t i = 0; i < layers; ++i) {
    const bool has_keys = file.find(fmt::format("blk.{}.attn_k.weight", i)) != nullptr;
    if (windowed[static_cast<size_t>(i)] == 0 && has_keys &&
        file.find(fmt::format("blk.{}.attn_v.weight", i)) == nullptr)
      config["attention_k_eq_v"] = true;
  }
  if (config["attention_k_eq_v"] == true)
    config["num_global_key_value_heads"] = number_of_kind(metadata, heads, windowed, false);
  const auto* experts = metadata.find("gemma4.expert_count");
  config["enable_moe_block"] = experts != nullptr && metadata.integer("gemma4.expert_count").value_or(0) > 0;
  if (const GgufEntry* own = file.find("per_layer_token_embd.weight"))
    config["vocab_size_per_layer_input"] = own->type.shape[0];
  config["rope_parameters"] = read_gguf_rotary(file, config);
}

// Files keep keys and values of layers that use those of others.
bool is_unused_in_gemma4(std::string_view name, const Json& config) {
  const int64_t layers = config["num_hidden_layers"].get<int64_t>(),
                shared = json_get<int64_t>(config, "num_kv_shared_layers", "config", 0);
  for (int64_t i = layers - shared; i < layers; ++i) {
    for (const char* each : {"attn_k.weight", "attn_v.weight", "attn_k_norm.weight"}) {
      if (name == fmt::format("blk.{}.{}", i, each)) return true;
    }
  }
  return false;
}

}  // namespace

const GgufArchitecture& gguf_gemma4() {
  static const GgufArchitecture out = {
      .architecture = "gemma4",
      .model_type = "gemma4_text",
      .class_name = "Gemma4ForCausalLM",
      .outside = joined(gguf_decoder_outside(), {{"model.embed_tokens_per_layer", "per_layer_token_embd"},
                                                 {"model.per_layer_model_projection", "per_layer_model_proj"},
                                                 {"model.per_layer_projection_norm", "per_layer_proj_norm"}}),
      .inside = joined(gguf_post_norm_inside(), {{"per_layer_input_gate", "inp_gate"},
                                                 {"per_layer_projection", "proj"},
                                                 {"post_per_layer_input_norm", "post_norm"},
                                                 {"layer_scalar", "layer_output_scale.weight"},
                                                 {"router.proj", "ffn_gate_inp"},
                                                 {"router.scale", "ffn_gate_inp.scale"},
                                                 {"router.per_expert_scale", "ffn_down_exps.scale"},
                                                 {"experts.gate_up_proj", "ffn_gate_up_exps.weight"},
                                                 {"experts.down_proj", "ffn_down_exps.weight"},
                                                 {"post_feedforward_layernorm_1", "post_ffw_norm_1"},
                                                 {"post_feedforward_layernorm_2", "post_ffw_norm_2"},
                                                 {"pre_feedforward_layernorm_2", "pre_ffw_norm_2"}}),
      .keys = {{"num_hidden_layers", "block_count", true},
               {"max_position_embeddings", "context_length", true},
               {"hidden_size", "embedding_length", true},
               {"num_attention_heads", "attention.head_count", true},
               {"rms_norm_eps", "attention.layer_norm_rms_epsilon"},
               {"head_dim", "attention.key_length_swa", true},
               {"global_head_dim", "attention.key_length", true},
               {"num_kv_shared_layers", "attention.shared_kv_layers", true},
               {"hidden_size_per_layer_input", "embedding_length_per_layer_input", true},
               {"final_logit_softcapping", "final_logit_softcapping"},
               {"num_experts", "expert_count", true},
               {"top_k_experts", "expert_used_count", true},
               {"moe_intermediate_size", "expert_feed_forward_length", true}},
      .settings = R"({"hidden_activation": "gelu_pytorch_tanh", "attention_bias": false})",
      .rotary = false,
      .read = read_gguf_gemma4,
      .write = [](const Model& model,
                  GgufContents& out) { static_cast<const Gemma4&>(model).write_gguf(out); },
      .ignores = is_unused_in_gemma4};
  return out;
}

}  // namespace vertebra
