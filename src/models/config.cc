#include "models/config.h"

#include <algorithm>

#include "base/error.h"

namespace vertebra {

void refuse_flags(const Json& config, std::initializer_list<const char*> keys, std::string_view source) {
  for (const char* key : keys) {
    require(!json_get<bool>(config, key, source, false), Code::kUnimplemented,
            "{}: {} = true is not supported", source, key);
  }
}

RecipeSizes read_recipe_sizes(const Json& sizes, int64_t default_depth) {
  constexpr const char* kSource = "recipe [model]";
  RecipeSizes out;
  out.depth = json_get<int64_t>(sizes, "depth", kSource, default_depth);
  out.embedding = json_get<int64_t>(sizes, "embedding", kSource, 64 * out.depth);
  out.heads = json_get<int64_t>(sizes, "heads", kSource, std::max<int64_t>(1, out.embedding / 64));
  require(sizes.contains("head_dim") || (out.heads > 0 && out.embedding % out.heads == 0),
          "model.embedding {} is no multiple of model.heads {}; choose a divisor, or set model.head_dim",
          out.embedding, out.heads);
  if (sizes.contains("feed_forward")) out.feed_forward = json_get<int64_t>(sizes, "feed_forward", kSource);
  out.initializer_range = json_get<double>(sizes, "initializer_range", kSource, out.initializer_range);
  out.norm_epsilon = json_get<double>(sizes, "norm_epsilon", kSource, out.norm_epsilon);
  out.tied = json_get<bool>(sizes, "tied", kSource, out.tied);
  return out;
}

}  // namespace vertebra
