// The recipe's table [model]: which architecture, in which sizes. Read by every stage that depends on it.
#pragma once

#include <memory>
#include <string>

#include "models/model.h"
#include "recipe/stage.h"

namespace vertebra {

struct ModelSettings {
  std::string architecture;
  int64_t context_length = 0;
  Json resolved = Json::object();  // for the manifest

  // Throws invalid_argument for keys that are unknown, out of bounds, or fit no model together.
  static ModelSettings read(const RunContext& context);
  std::unique_ptr<Model> make(int64_t vocabulary) const;
  // The vocabulary that suits the model (recipe/dial.h).
  int64_t suitable_vocabulary() const;
};

// The key `vocabulary` of the recipe's table [tokenizer]: the number of tokens to learn (text may give
// fewer).
int64_t read_vocabulary(Settings& tokenizer, const ModelSettings& model);

}  // namespace vertebra
