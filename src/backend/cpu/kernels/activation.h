// Activations and their gradients on rows of f32. Results may be any of the operands' memory.
#pragma once

#include <cstdint>

namespace vertebra {

struct ActivationKernels {
  void (*silu)(const float* x, float* y, int64_t size);
  void (*gelu_tanh)(const float* x, float* y, int64_t size);
  void (*gelu_erf)(const float* x, float* y, int64_t size);
  void (*silu_grad)(const float* x, const float* dy, float* dx, int64_t size);
  void (*gelu_tanh_grad)(const float* x, const float* dy, float* dx, int64_t size);
  void (*gelu_erf_grad)(const float* x, const float* dy, float* dx, int64_t size);
  // y = silu(gate) * up
  void (*swiglu)(const float* gate, const float* up, float* y, int64_t size);
  void (*swiglu_grad)(const float* gate, const float* up, const float* dy, float* dgate, float* dup,
                      int64_t size);
};

}  // namespace vertebra
