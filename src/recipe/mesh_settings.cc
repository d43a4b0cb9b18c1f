#include "recipe/mesh_settings.h"

#include "base/error.h"

namespace vertebra {

Mesh read_mesh(const Recipe& recipe) {
  constexpr int64_t kMost = 1 << 16;  // devices along an axis, and in all
  Settings table = recipe.table("mesh");
  Mesh out;
  out.data = table.integer("data", 1, 1, kMost);
  out.fsdp = table.integer("fsdp", 1, 1, kMost);
  out.tensor = table.integer("tensor", 1, 1, kMost);
  table.finish();
  require(out.devices() <= kMost, "{}: mesh has {} devices, at most {} were wanted", recipe.file.string(),
          out.devices(), kMost);
  return out;
}

}  // namespace vertebra
