// LFM2 (Liquid AI 2025): most layers are gated short convolutions, which remember the last few tokens only;
// the others are attention with normed queries and keys.
#include <algorithm>

#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Lfm2 final : public Decoder {
 public:
  Lfm2(const Json& config, std::string_view source)
      : Decoder(config, source, {.tied = true, .norm_epsilon = 1e-5, .norm_epsilon_key = "norm_eps"}),
        rotary_(rope_settings(config, source, 1e6), shape_.head_dim, shape_.context_length, source),
        width_(config_size(config, "conv_L_cache", source, 64)) {
    require(width_ >= 2, "{}: conv_L_cache is {}, at least 2 was wanted", source, width_);
    adjust_feed_forward(source);
    const Json attention = json_get<Json>(config, "full_attn_idxs", source, Json());
    types_ = read_layer_types(source, {"full_attention", "conv"}, [&](int i) {
      const bool all = !attention.is_array();
      return all || std::find(attention.begin(), attention.end(), Json(i)) != attention.end()
                 ? "full_attention"
                 : "conv";
    });
    const int64_t E = shape_.embedding;
    const Bias bias = json_get<bool>(config, "conv_bias", source, false) ? Bias::kYes : Bias::kNo;
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "operator_norm");
      if (types_[static_cast<size_t>(i)] == "conv") {
        declare_matrix(at + "conv.in_proj", {3 * E, E, Axis::kNone, Axis::kEmbedding}, bias);
        declare({at + "conv.conv.weight",
                 {E, 1, width_},
                 {Axis::kNone, Axis::kNone, Axis::kNone},
                 Role::kMatrix,
                 inner_initializer()});
        if (bias == Bias::kYes)
          declare({at + "conv.conv.bias", {E}, {Axis::kNone}, Role::kVector, Initializer::zeros()});
        declare_matrix(at + "conv.out_proj", {E, E, Axis::kEmbedding, Axis::kNone, true}, bias);
      } else {
        declare_attention_layer(at + "self_attn.");
      }
      declare_norm(at + "ffn_norm");
      declare_matrix(at + "feed_forward.w1", {feed_forward_, E, Axis::kFeedForward, Axis::kEmbedding});
      declare_matrix(at + "feed_forward.w3", {feed_forward_, E, Axis::kFeedForward, Axis::kEmbedding});
      declare_matrix(at + "feed_forward.w2", {E, feed_forward_, Axis::kEmbedding, Axis::kFeedForward, true});
    }
    declare_norm("model.embedding_norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;
  void write_gguf(GgufContents& out) const;

 private:
  // The width that the configuration means by intermediate_size.
  void adjust_feed_forward(std::string_view source) {
    if (!json_get<bool>(config_, "block_auto_adjust_ff_dim", source, true)) return;
    const auto multiplier = json_get<double>(config_, "block_ffn_dim_multiplier", source, 1.0);
    require(multiplier > 0 && multiplier < 1e6,
            "{}: block_ffn_dim_multiplier is {}, a number above 0 was wanted", source, multiplier);
    const int64_t multiple = config_size(config_, "block_multiple_of", source);
    feed_forward_ = static_cast<int64_t>(multiplier * static_cast<double>(2 * feed_forward_ / 3));
    feed_forward_ = (feed_forward_ + multiple - 1) / multiple * multiple;
  }

  void declare_attention_layer(const std::string& at) {
    const int64_t E = shape_.embedding, D = shape_.head_dim, HD = shape_.heads * D,
                  KD = shape_.key_value_heads * D;
    declare_matrix(at + "q_proj", {HD, E, Axis::kHeads, Axis::kEmbedding});
    declare_matrix(at + "k_proj", {KD, E, Axis::kKeyValueHeads, Axis::kEmbedding});
    declare_matrix(at + "v_proj", {KD, E, Axis::kKeyValueHeads, Axis::kEmbedding});
    declare_matrix(at + "out_proj", {E, HD, Axis::kEmbedding, Axis::kHeads, true});
    declare_norm(at + "q_layernorm", D, Axis::kNone);
    declare_norm(at + "k_layernorm", D, Axis::kNone);
  }

  Value convolution(ModelContext& context, int layer, Value h, const std::string& at) const;
  Value attention(ModelContext& context, int layer, Value h, Value positions, const std::string& at) const;

  RotaryPositions rotary_;
  int64_t width_;
  std::vector<std::string> types_;
};

// A layer without keys is one that convolves.
void Lfm2::write_gguf(GgufContents& out) const {
  std::vector<int64_t> heads;
  for (const std::string& type : types_) heads.push_back(type == "conv" ? 0 : shape_.key_value_heads);
  out.metadata.set("lfm2.attention.head_count_kv", GgufValue::i32s(std::move(heads)));
  out.metadata.set("lfm2.feed_forward_length", GgufValue::u32(feed_forward_));
}

// h [N, E] -> out(c * convolution(b * x)), of which b, c and x are parts of in(h).
Value Lfm2::convolution(ModelContext& context, int layer, Value h, const std::string& at) const {
  const int64_t E = shape_.embedding;
  const Value parts = project(context, h, at + "in_proj");  // [N, 3 E]
  const Value b = slice_axis(parts, 1, 0, E), c = slice_axis(parts, 1, E, 2 * E),
              x = slice_axis(parts, 1, 2 * E, 3 * E);
  const LayerState state = context.state(layer, "convolution", {width_ - 1, E});
  const Value weight = reshape(context.parameter(at + "conv.weight"), {E, width_});
  const Recurrence y = short_convolution(multiply(b, x), weight, state.value, state.request, state.positions);
  context.keep_state(layer, "convolution", y.state);
  const Value mixed = declares(at + "conv.bias") ? add(y.out, context.parameter(at + "conv.bias")) : y.out;
  return project(context, multiply(c, mixed), at + "out_proj");
}

Value Lfm2::attention(ModelContext& context, int layer, Value h, Value positions,
                      const std::string& at) const {
  const auto normed_heads = [&](const std::string& name) {
    return norm(context, project_to_heads(context, h, at + name + "_proj"), at + name + "_layernorm");
  };
  const Value q = rotary_(context, normed_heads("q"), positions);  // [N, H, D]
  const Value k = rotary_(context, normed_heads("k"), positions);  // [N, K, D]
  const Value v = project_to_heads(context, h, at + "v_proj");
  return project_heads(context, context.attend(layer, q, k, v), at + "out_proj");
}

Value Lfm2::forward(ModelContext& context, Value tokens, Value positions) const {
  Value x = context.residual(embed(context, tokens));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const bool convolves = types_[static_cast<size_t>(i)] == "conv";
      const Graph::Scope scope(context.graph(), convolves ? "convolution" : "attention");
      const Value h = norm(context, x, at + "operator_norm");
      const Value y = convolves ? convolution(context, i, h, at + "conv.")
                                : attention(context, i, h, positions, at + "self_attn.");
      x = context.residual(add(x, y));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value h = norm(context, x, at + "ffn_norm");
      const auto weight = [&](const char* name) { return context.parameter(at + "feed_forward." + name); };
      x = context.residual(add(x, vertebra::gated_mlp(h, weight("w1.weight"), weight("w3.weight"),
                                                      weight("w2.weight"), context.compute())));
    }
  }
  return norm(context, x, "model.embedding_norm");
}

// Names that the first files had.
Json with_present_names(const Json& config) {
  Json out = config;
  if (config.contains("block_ff_dim")) out["intermediate_size"] = config["block_ff_dim"];
  if (config.contains("tie_embedding")) out["tie_word_embeddings"] = config["tie_embedding"];
  return out;
}

}  // namespace

std::unique_ptr<Model> make_lfm2(const Json& config, std::string_view source) {
  return std::make_unique<Lfm2>(with_present_names(config), source);
}

void read_gguf_lfm2(const GgufFile& file, Json& config) {
  const GgufMetadata& metadata = file.metadata();
  const auto layers = config["num_hidden_layers"].get<int64_t>();
  const std::vector<int64_t> heads = gguf_by_layer(metadata, "lfm2.attention.head_count_kv", layers);
  require(!heads.empty(), Code::kDataLoss, "'{}': the metadata lack lfm2.attention.head_count_kv",
          metadata.source());
  Json types = Json::array();
  for (int64_t i = 0; i < layers; ++i) {
    const int64_t count = heads[static_cast<size_t>(i)];
    types.push_back(count == 0 ? "conv" : "full_attention");
    if (count != 0) config["num_key_value_heads"] = count;
  }
  config["layer_types"] = types;
  config["block_auto_adjust_ff_dim"] = false;  // the file has the adjusted width
}

const GgufArchitecture& gguf_lfm2() {
  static const GgufArchitecture out = {
      .architecture = "lfm2",
      .model_type = "lfm2",
      .class_name = "Lfm2ForCausalLM",
      .outside = {{"model.embed_tokens", "token_embd"},
                  {"model.embedding_norm", "token_embd_norm"},
                  {"lm_head", "output"}},
      .inside = {{"operator_norm", "attn_norm"},
                 {"ffn_norm", "ffn_norm"},
                 {"conv.in_proj", "shortconv.in_proj"},
                 {"conv.conv.weight", "shortconv.conv.weight", &kGgufFlatKernel},
                 {"conv.out_proj", "shortconv.out_proj"},
                 {"self_attn.q_proj", "attn_q"},
                 {"self_attn.k_proj", "attn_k"},
                 {"self_attn.v_proj", "attn_v"},
                 {"self_attn.out_proj", "attn_output"},
                 {"self_attn.q_layernorm", "attn_q_norm"},
                 {"self_attn.k_layernorm", "attn_k_norm"},
                 {"feed_forward.w1", "ffn_gate"},
                 {"feed_forward.w2", "ffn_down"},
                 {"feed_forward.w3", "ffn_up"}},
      .keys = gguf_decoder_keys(
          {{"norm_eps", "attention.layer_norm_rms_epsilon"}, {"conv_L_cache", "shortconv.l_cache", true}}),
      .settings = R"({"conv_bias": false})",
      .rope_theta = 1e6,
      .read = read_gguf_lfm2,
      .write = [](const Model& model, GgufContents& out) {
        static_cast<const Lfm2&>(model).write_gguf(out);
      }};
  return out;
}

}  // namespace vertebra
