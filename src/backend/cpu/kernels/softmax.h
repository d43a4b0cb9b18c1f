// Softmax of rows of f32, its gradient, and the loss row of cross-entropy. y may be x; dx may be y or dy.
#pragma once

#include <cstdint>

namespace vertebra {

struct SoftmaxKernels {
  void (*softmax)(const float* x, float* y, int64_t rows, int64_t size);
  // dx = y (dy - sum(dy y))
  void (*softmax_grad)(const float* y, const float* dy, float* dx, int64_t rows, int64_t size);
  // log(sum(exp(logits))) - logits[label].
  float (*loss)(const float* logits, int64_t size, int64_t label);
  // The same, and dlogits = (softmax(logits) - onehot(label)) * weight in place of the logits.
  float (*loss_grad)(float* logits, int64_t size, int64_t label, float weight);
};

}  // namespace vertebra
