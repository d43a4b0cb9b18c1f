// What the architectures share in reading a configuration, and in making one of the sizes in a recipe's
// [model].
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "base/json.h"

namespace vertebra {

// Throws unimplemented for a flag that is set and would change what the model computes.
void refuse_flags(const Json& config, std::initializer_list<const char*> keys, std::string_view source);

struct RecipeSizes {
  int64_t depth = 0, embedding = 0, heads = 0;
  std::optional<int64_t> feed_forward;
  double initializer_range = 0.02, norm_epsilon = 1e-5;
  bool tied = true;
};

// Missing sizes follow from the depth: 64 of width a layer, heads of 64.
RecipeSizes read_recipe_sizes(const Json& sizes, int64_t default_depth);

}  // namespace vertebra
