// A model with random weights, large enough that kernels meet whole tiles and edges, small enough for tests.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "backend/buffer_set.h"
#include "backend/cpu/cpu_backend.h"
#include "engine/engine.h"
#include "models/model.h"

namespace vertebra {

inline constexpr int64_t kTinyContext = 192;
inline constexpr int64_t kTinyVocabulary = 301;

// Configurations of architectures that no recipe makes: memories of several kinds and shapes, windows, shared
// caches.
inline Json tiny_config(const std::string& type) {
  Json out = {{"model_type", type},
              {"vocab_size", kTinyVocabulary},
              {"hidden_size", 72},
              {"intermediate_size", 96},
              {"num_hidden_layers", 3},
              {"num_attention_heads", 4},
              {"num_key_value_heads", 2},
              {"head_dim", 18},
              {"max_position_embeddings", kTinyContext},
              {"initializer_range", 0.15},
              {"tie_word_embeddings", true},
              {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000.0}}}};
  const auto add = [&](const Json& more) { out.update(more); };
  if (type == "lfm2") {
    out.erase("head_dim");
    add({{"layer_types", {"conv", "full_attention", "conv"}},
         {"conv_L_cache", 3},
         {"block_auto_adjust_ff_dim", false},
         {"norm_eps", 1e-5}});
  } else if (type == "qwen3_5_text") {
    add({{"layer_types", {"linear_attention", "full_attention", "linear_attention"}},
         {"linear_conv_kernel_dim", 4},
         {"linear_num_key_heads", 2},
         {"linear_num_value_heads", 4},
         {"linear_key_head_dim", 20},
         {"linear_value_head_dim", 34}});
  } else if (type == "gpt_oss") {
    add({{"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}},
         {"sliding_window", 24},
         {"num_local_experts", 6},
         {"num_experts_per_tok", 2}});
  } else if (type == "gemma4_text") {
    const Json rope = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
    add({{"layer_types", {"sliding_attention", "full_attention", "sliding_attention", "full_attention"}},
         {"num_hidden_layers", 4},
         {"num_kv_shared_layers", 2},
         {"attention_k_eq_v", true},
         {"num_global_key_value_heads", 1},
         {"global_head_dim", 32},
         {"sliding_window", 24},
         {"hidden_size_per_layer_input", 0},
         {"rope_parameters", {{"full_attention", rope}, {"sliding_attention", rope}}}});
  }
  return out;
}

inline std::unique_ptr<Model> make_tiny_model(const std::string& type, int64_t vocabulary) {
  const std::vector<std::string> sizable = sizable_model_types();
  if (std::find(sizable.begin(), sizable.end(), type) == sizable.end())
    return make_model(tiny_config(type), "test");
  Json sizes = {{"depth", 2},          {"embedding", 72},           {"heads", 4},
                {"feed_forward", 200}, {"initializer_range", 0.15}, {"key_value_heads", 2}};
  if (type == "gpt2") sizes.erase("key_value_heads");
  return make_model(default_config(type, sizes, vocabulary, kTinyContext), "test");
}

struct TinyModel {
  std::unique_ptr<Model> model;
  BufferSet parameters;

  TinyModel(Backend& backend, const std::string& type, int64_t vocabulary = kTinyVocabulary) {
    model = make_tiny_model(type, vocabulary);
    for (const ParameterSpec& spec : model->parameters())
      parameters.set(spec.name, backend.upload(initial_value(spec, 7)));
  }
};

// A prompt of its own for every `number`.
inline std::vector<int32_t> tiny_prompt(int number, int64_t length) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < length; ++i)
    out.push_back(static_cast<int32_t>((i * i * 31 + 17 * i + 101 * number) % kTinyVocabulary));
  return out;
}

}  // namespace vertebra
