// What the decoder-only architectures share: the usual sizes of config.json, declarations of the usual
// parameters, and the usual pieces of a layer, each under the names of transformers. Owns no forward pass:
// every architecture writes its own, in one file that reads like its paper.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "models/config.h"
#include "models/model.h"
#include "models/rope.h"
#include "ops/ops.h"

namespace vertebra {

class Decoder : public Model {
 public:
  const Json& config() const override { return config_; }
  const ModelShape& shape() const override { return shape_; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  std::string_view head() const override { return tied_ ? kEmbedding : kHead; }
  StoredNames stored_names() const override;

 protected:
  static constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
  static constexpr std::string_view kHead = "lm_head.weight";

  // What differs between the architectures in reading the sizes.
  struct Defaults {
    bool tied = false;
    double norm_epsilon = 1e-6;
    std::string_view norm_epsilon_key = "rms_norm_eps";
    std::string_view activation = "silu";
  };
  Decoder(const Json& config, std::string_view source, const Defaults& defaults);

  // ---- Declarations. A bias comes beside its matrix as NAME.bias.
  enum class Bias { kNo, kYes };
  void declare_embedding();
  void declare_norm(const std::string& name, int64_t length, Axis axis = Axis::kEmbedding);
  void declare_norm(const std::string& name) { declare_norm(name, shape_.embedding); }
  struct Matrix {
    int64_t out, in;
    Axis out_axis, in_axis;
    bool writes_residual = false;  // starts smaller
  };
  void declare_matrix(const std::string& name, const Matrix& matrix, Bias bias = Bias::kNo);
  // q_proj, k_proj, v_proj, o_proj under `at` ("model.layers.0.self_attn.").
  void declare_attention(const std::string& at, Bias inner = Bias::kNo, Bias outer = Bias::kNo);
  // A matrix per expert, [experts, out, in], which lies in the folder as `stored` says.
  void declare_experts(const std::string& name, const Matrix& matrix, StoredForm stored);
  // gate_proj, up_proj, down_proj under `at`.
  void declare_gated_mlp(const std::string& at, int64_t feed_forward, Bias bias = Bias::kNo);
  void declare_head();  // unless it is tied to the embedding
  void declare(ParameterSpec spec);
  // Of what is drawn inside a layer, and of what writes into the residual stream.
  Initializer inner_initializer() const { return Initializer::normal(deviation_); }
  Initializer residual_initializer() const;

  // ---- Pieces of a forward pass, by the names of their parameters without ".weight".
  static std::string layer_name(int layer) { return fmt::format("model.layers.{}.", layer); }
  Value embed(ModelContext& context, Value tokens) const;
  Value norm(ModelContext& context, Value x, const std::string& name) const;
  // x [N, ...] -> [N, out], with a bias where one is declared.
  Value project(ModelContext& context, Value x, const std::string& name) const;
  // x [N, E] -> [N, heads, D]
  Value project_to_heads(ModelContext& context, Value x, const std::string& name, int64_t head_dim = 0) const;
  // The same, each head normed by itself: "at"_proj and "at"_norm.
  Value project_to_normed_heads(ModelContext& context, Value x, const std::string& at) const {
    return norm(context, project_to_heads(context, x, at + "_proj"), at + "_norm");
  }
  // x [N, H, D] -> [N, E]
  Value project_heads(ModelContext& context, Value x, const std::string& name) const;
  Value activate(Value x) const;
  // down(activation(gate(x)) * up(x))
  Value gated_mlp(ModelContext& context, Value x, const std::string& at) const;
  // Expert results y [N, A, E] added up by their weights [N, A] -> [N, E].
  static Value mix(Value y, Value weights);
  bool declares(const std::string& name) const { return names_.contains(name); }

  // ---- Settings.
  // The kind of every layer: layer_types where given (each one of `known`), otherwise `fallback` of its
  // number.
  template <class Fallback>
  std::vector<std::string> read_layer_types(std::string_view source, std::initializer_list<const char*> known,
                                            Fallback&& fallback) const {
    std::vector<std::string> out = given_layer_types(source, known);
    for (int i = static_cast<int>(out.size()); i < shape_.layers; ++i) out.emplace_back(fallback(i));
    return out;
  }
  // sliding_window, 0 for null or none.
  int64_t read_window(std::string_view source) const;
  // The window of every layer, 0 where it sees all: `window` in those that layer_types calls
  // sliding_attention, or `fallback` of their number where there is no such list.
  template <class Fallback>
  std::vector<int64_t> read_windows(int64_t window, std::string_view source, Fallback&& fallback) const {
    const auto types = read_layer_types(source, {"full_attention", "sliding_attention"}, [&](int i) {
      return window > 0 && fallback(i) ? "sliding_attention" : "full_attention";
    });
    std::vector<int64_t> out;
    for (const std::string& type : types) out.push_back(type == "sliding_attention" ? window : 0);
    return out;
  }
  // Those of Qwen: the first max_window_layers see all, where use_sliding_window is set at all.
  std::vector<int64_t> read_qwen_windows(std::string_view source) const;

  Json config_;
  ModelShape shape_;
  std::vector<ParameterSpec> parameters_;
  int64_t feed_forward_ = 0;
  double norm_epsilon_ = 1e-6, deviation_ = 0.02;
  bool tied_ = false;
  bool centered_norms_ = false;  // norms multiply by 1 + weight (Gemma)
  std::string activation_;

 private:
  std::vector<std::string> given_layer_types(std::string_view source,
                                             std::initializer_list<const char*> known) const;

  std::set<std::string, std::less<>> names_;
  bool part_of_larger_ = false;  // the folder's model has vision beside text
};

// The text part of a configuration that has vision and more beside it: text_config with what it needs from
// outside it, or the configuration itself.
Json text_part(const Json& config, std::string_view source);

}  // namespace vertebra
