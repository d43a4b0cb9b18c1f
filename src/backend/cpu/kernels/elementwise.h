// Elementwise functions on rows of f32; the program runner of ops/elementwise_program.cc calls them on blocks
// that stay in the cache. An output may be the same memory as an input; otherwise they do not overlap.
#pragma once

#include <cstdint>

namespace vertebra {

using UnaryF32 = void (*)(const float* x, float* y, int64_t size);
using BinaryF32 = void (*)(const float* a, const float* b, float* y, int64_t size);
using CompareF32 = void (*)(const float* a, const float* b, uint8_t* y, int64_t size);

struct ElementwiseKernels {
  // exp, log, tanh, logistic, erf: see kernels/math.h for their errors.
  UnaryF32 negate, exponential, logarithm, square_root, reciprocal_square_root, tanh, logistic, erf, absolute,
      floor;
  // maximum and minimum give NaN when either operand is NaN.
  BinaryF32 add, subtract, multiply, divide, maximum, minimum;
  CompareF32 equal, not_equal, less, less_equal, greater, greater_equal;
  // y[i] = condition[i] != 0 ? a[i] : b[i].
  void (*select)(const uint8_t* condition, const float* a, const float* b, float* y, int64_t size);
};

}  // namespace vertebra
