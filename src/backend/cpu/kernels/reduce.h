// Sums and maxima of rows of f32. The order of a sum depends on the row's length alone.
#pragma once

#include <cstdint>

namespace vertebra {

struct ReduceKernels {
  // Chunks of 1024 elements, added pairwise.
  float (*sum)(const float* x, int64_t size);
  float (*sum_of_squares)(const float* x, int64_t size);
  // -infinity for an empty row; NaN when there is one.
  float (*max)(const float* x, int64_t size);
};

}  // namespace vertebra
