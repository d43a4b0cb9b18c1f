// Gemma 3, text (Gemma team 2025): norms before and after attention and MLP, all of them 1 + weight; five
// layers that see a window to one that sees all, each kind with rotary frequencies of its own.
#include <cmath>

#include "models/decoder.h"
#include "models/gguf_architecture.h"

namespace vertebra {
namespace {

class Gemma3 final : public Decoder {
 public:
  Gemma3(const Json& config, std::string_view source)
      : Decoder(config, source, {.tied = true, .activation = "gelu_pytorch_tanh"}),
        window_(read_window(source)) {
    centered_norms_ = true;
    for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      require(json_get<Json>(config, key, source, Json()).is_null(), Code::kUnimplemented,
              "{}: {} is not supported in Gemma 3; null was wanted", source, key);
    }
    refuse_flags(config, {"use_bidirectional_attention"}, source);
    read_rotary(source);
    const auto pattern = json_get<int64_t>(config, "sliding_window_pattern", source,
                                           json_get<int64_t>(config, "_sliding_window_pattern", source, 6));
    require(pattern > 0, "{}: sliding_window_pattern is {}, at least 1 was wanted", source, pattern);
    types_ = read_layer_types(source, {"full_attention", "sliding_attention"}, [&](int i) {
      return (i + 1) % pattern == 0 ? "full_attention" : "sliding_attention";
    });
    const auto scalar = json_get<double>(config, "query_pre_attn_scalar", source, 256.0);
    require(scalar > 0, "{}: query_pre_attn_scalar is {}, a number above 0 was wanted", source, scalar);
    scale_ = 1 / std::sqrt(scalar);
    const Bias bias = json_get<bool>(config, "attention_bias", source, false) ? Bias::kYes : Bias::kNo;
    declare_embedding();
    for (int i = 0; i < shape_.layers; ++i) {
      const std::string at = layer_name(i);
      declare_norm(at + "input_layernorm");
      declare_attention(at + "self_attn.", bias, bias);
      declare_norm(at + "self_attn.q_norm", shape_.head_dim, Axis::kNone);
      declare_norm(at + "self_attn.k_norm", shape_.head_dim, Axis::kNone);
      declare_norm(at + "post_attention_layernorm");
      declare_norm(at + "pre_feedforward_layernorm");
      declare_gated_mlp(at + "mlp.", feed_forward_);
      declare_norm(at + "post_feedforward_layernorm");
    }
    declare_norm("model.norm");
    declare_head();
  }

  Value forward(ModelContext& context, Value tokens, Value positions) const override;
  void write_gguf(GgufContents& out) const;

 private:
  // Nested by kind of layer (transformers 5), or rope_theta with rope_scaling for the layers that see all and
  // rope_local_base_freq for those with a window.
  void read_rotary(std::string_view source) {
    const auto make = [&](const Json& settings) {
      return RotaryPositions(settings, shape_.head_dim, shape_.context_length, source);
    };
    full_ = make(rope_settings(config_, source, 1e6, "full_attention"));
    if (config_.contains("rope_parameters")) {
      sliding_ = make(rope_settings(config_, source, 1e4, "sliding_attention"));
    } else {
      const double theta = json_get<double>(config_, "rope_local_base_freq", source, 1e4);
      sliding_ = make({{"rope_type", "default"}, {"rope_theta", theta}});
    }
  }

  RotaryPositions full_, sliding_;
  int64_t window_ = 0;
  double scale_ = 0;
  std::vector<std::string> types_;
};

Value Gemma3::forward(ModelContext& context, Value tokens, Value positions) const {
  const double width = std::sqrt(static_cast<double>(shape_.embedding));
  Value x = context.residual(multiply(embed(context, tokens), width));  // [N, E]
  for (int i = 0; i < shape_.layers; ++i) {
    const Graph::Scope layer(context.graph(), fmt::format("layers.{}", i));
    const std::string at = layer_name(i);
    {
      const Graph::Scope scope(context.graph(), "attention");
      const bool sees_all = types_[static_cast<size_t>(i)] == "full_attention";
      const RotaryPositions& rotary = sees_all ? full_ : sliding_;
      const Value h = norm(context, x, at + "input_layernorm");
      const auto normed_heads = [&](const std::string& name) {
        const Value heads = project_to_heads(context, h, at + "self_attn." + name + "_proj");
        return norm(context, heads, at + "self_attn." + name + "_norm");
      };
      const Value q = rotary(context, normed_heads("q"), positions);  // [N, H, D]
      const Value k = rotary(context, normed_heads("k"), positions);  // [N, K, D]
      const Value v = project_to_heads(context, h, at + "self_attn.v_proj");
      const Value out = context.attend(i, q, k, v, {.scale = scale_, .window = sees_all ? 0 : window_});
      const Value y = project_heads(context, out, at + "self_attn.o_proj");
      x = context.residual(add(x, norm(context, y, at + "post_attention_layernorm")));
    }
    {
      const Graph::Scope scope(context.graph(), "mlp");
      const Value h = norm(context, x, at + "pre_feedforward_layernorm");
      const Value y = gated_mlp(context, h, at + "mlp.");
      x = context.residual(add(x, norm(context, y, at + "post_feedforward_layernorm")));
    }
  }
  return norm(context, x, "model.norm");
}

// What readers of GGUF files divide scores by the root of, which no key says: the 27B model's width over its
// heads, in the others the size of a head.
int64_t usual_query_scalar(const ModelShape& shape) {
  return shape.layers == 62 ? shape.embedding / shape.heads : shape.head_dim;
}

void Gemma3::write_gguf(GgufContents& out) const {
  const std::string& source = out.metadata.source();
  const double scalar = json_get<double>(config_, "query_pre_attn_scalar", source, 256.0);
  require(scalar == static_cast<double>(usual_query_scalar(shape_)), Code::kUnimplemented,
          "{}: query_pre_attn_scalar is {}: readers of GGUF files take {} for a model of this shape", source,
          scalar, usual_query_scalar(shape_));
  std::vector<int64_t> windows;
  for (const std::string& type : types_) windows.push_back(type == "sliding_attention" ? window_ : 0);
  write_gguf_windows(windows, 6, out);
  out.metadata.set("gemma3.rope.freq_base_swa", GgufValue::f32(sliding_.theta()));
}

// Files leave out what equals the configuration class's defaults.
Json with_defaults(const Json& config) {
  Json out = {{"vocab_size", 262208},
              {"hidden_size", 2304},
              {"intermediate_size", 9216},
              {"num_hidden_layers", 26},
              {"num_attention_heads", 8},
              {"num_key_value_heads", 4},
              {"head_dim", 256},
              {"sliding_window", 4096},
              {"max_position_embeddings", 131072},
              {"query_pre_attn_scalar", 256}};
  out.update(config);
  return out;
}

}  // namespace

// A folder with vision beside text nests the text's settings; a folder of text alone has them at the top.
std::unique_ptr<Model> make_gemma3(const Json& config, std::string_view source) {
  return std::make_unique<Gemma3>(with_defaults(text_part(config, source)), source);
}

void read_gguf_gemma3(const GgufFile& file, Json& config) {
  const GgufMetadata& metadata = file.metadata();
  read_gguf_windows(file, 6, config);
  const ModelShape shape = {.layers = config["num_hidden_layers"].get<int>(),
                            .embedding = config["hidden_size"].get<int64_t>(),
                            .heads = config["num_attention_heads"].get<int64_t>(),
                            .head_dim = config["head_dim"].get<int64_t>()};
  config["query_pre_attn_scalar"] = usual_query_scalar(shape);
  config["rope_local_base_freq"] = gguf_number_of(metadata.number("gemma3.rope.freq_base_swa").value_or(1e4));
}

const GgufArchitecture& gguf_gemma3() {
  static const GgufArchitecture out = {
      .architecture = "gemma3",
      .model_type = "gemma3_text",
      .class_name = "Gemma3ForCausalLM",
      .outside = gguf_decoder_outside(&kGgufNormPlusOne),
      .inside = gguf_post_norm_inside(&kGgufNormPlusOne),
      .keys = gguf_decoder_keys(),
      .settings = R"({"hidden_activation": "gelu_pytorch_tanh", "attention_bias": false})",
      .rope_theta = 1e6,
      .rope_layers = "full_attention",
      .read = read_gguf_gemma3,
      .write = [](const Model& model, GgufContents& out) {
        static_cast<const Gemma3&>(model).write_gguf(out);
      }};
  return out;
}

}  // namespace vertebra
