// Optimizer updates on rows of f32.
#pragma once

#include <cstdint>

namespace vertebra {

struct AdamWStep {
  float beta1, beta2, epsilon;
  float gradient_scale;  // 0: the gradient is taken to be 0
  float kept;            // 1 - learning rate * weight decay
  float rate;            // learning rate / (1 - beta1^step)
  float correction;      // 1 / (1 - beta2^step)
};

struct OptimizerKernels {
  // g = gradient_scale g, m = beta1 m + (1 - beta1) g, v = beta2 v + (1 - beta2) g^2,
  // p = p kept - rate m / (sqrt(v correction) + epsilon). Each result may be its operand's memory.
  void (*adamw)(const AdamWStep& step, const float* p, const float* g, const float* m, const float* v,
                float* p_out, float* m_out, float* v_out, int64_t size);
};

}  // namespace vertebra
