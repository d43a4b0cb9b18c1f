#include "recipe/model_settings.h"

#include "recipe/dial.h"

namespace vertebra {

constexpr int64_t kAnyVocabulary = 512;  // where the question is not about the vocabulary

ModelSettings ModelSettings::read(const RunContext& context) {
  ModelSettings out;
  Settings table = context.recipe.table("model");
  out.architecture = table.choice("architecture", "llama", sizable_model_types());
  for (const char* key : {"depth", "embedding", "heads", "key_value_heads", "head_dim", "feed_forward"}) {
    if (table.has(key)) table.integer(key, std::nullopt, 1, 1 << 24);
  }
  for (const char* key : {"initializer_range", "norm_epsilon", "rope_theta"}) {
    if (table.has(key)) table.number(key, std::nullopt, 1e-12, 1e12);
  }
  if (table.has("tied")) table.flag("tied", std::nullopt);
  out.resolved = table.resolved();
  out.context_length = dial_length(256);
  out.context_length =
      table.integer("context_length", dial_length(out.make(kAnyVocabulary)->shape().embedding), 8, 1 << 24);
  table.finish();
  out.resolved = table.resolved();
  return out;
}

std::unique_ptr<Model> ModelSettings::make(int64_t vocabulary) const {
  return make_model(default_config(architecture, resolved, vocabulary, context_length), "recipe [model]");
}

int64_t ModelSettings::suitable_vocabulary() const {
  const auto model = make(kAnyVocabulary);
  return dial_vocabulary(count_inner_parameters(*model), model->shape().embedding);
}

int64_t read_vocabulary(Settings& tokenizer, const ModelSettings& model) {
  return tokenizer.integer("vocabulary", model.suitable_vocabulary(), 257, 1 << 20);
}

}  // namespace vertebra
