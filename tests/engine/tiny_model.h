// A model with random weights, large enough that kernels meet whole tiles and edges, small enough for tests.
#pragma once

#include "backend/buffer_set.h"
#include "backend/cpu/cpu_backend.h"
#include "engine/engine.h"
#include "models/model.h"

namespace vertebra {

inline constexpr int64_t kTinyContext = 192;
inline constexpr int64_t kTinyVocabulary = 301;

struct TinyModel {
  std::unique_ptr<Model> model;
  BufferSet parameters;

  TinyModel(Backend& backend, const std::string& type, int64_t vocabulary = kTinyVocabulary) {
    Json sizes = {{"depth", 2},          {"embedding", 72},           {"heads", 4},
                  {"feed_forward", 200}, {"initializer_range", 0.15}, {"key_value_heads", 2}};
    if (type == "gpt2") sizes.erase("key_value_heads");
    model = make_model(default_config(type, sizes, vocabulary, kTinyContext), "test");
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
