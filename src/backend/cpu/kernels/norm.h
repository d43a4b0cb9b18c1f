// RMS and layer normalisation of rows of f32 and their gradients. y may be x; dx may be x or dy.
#pragma once

#include <cstdint>

namespace vertebra {

struct NormKernels {
  // y = x / sqrt(mean(x^2) + epsilon) * weight.
  void (*rms_norm)(const float* x, const float* weight, float* y, int64_t rows, int64_t size, float epsilon);
  // dx, and dweight[size] += the sum over the rows, one after the other.
  void (*rms_norm_grad)(const float* x, const float* weight, const float* dy, float* dx, float* dweight,
                        int64_t rows, int64_t size, float epsilon);
  // y = (x - mean) / sqrt(var + epsilon) * weight + bias.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float* y, int64_t rows,
                     int64_t size, float epsilon);
  void (*layer_norm_grad)(const float* x, const float* weight, const float* dy, float* dx, float* dweight,
                          float* dbias, int64_t rows, int64_t size, float epsilon);
  // to[i] = from[i] + from[stride + i] + ..., added in that order.
  void (*add_partials)(const float* from, int64_t stride, int64_t count, int64_t size, float* to);
};

}  // namespace vertebra
