// Rotary position embedding on rows of f32.
#pragma once

#include <cstdint>

namespace vertebra {

struct RopeKernels {
  // One token: x [heads, dim] -> y (may be x), (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), where x1 and
  // x2 are the halves of a head and the angle is position * frequencies[i]. `table`: scratch for dim floats.
  void (*rotate)(const float* x, float* y, int64_t heads, int64_t dim, int32_t position,
                 const float* frequencies, float* table);
};

}  // namespace vertebra
