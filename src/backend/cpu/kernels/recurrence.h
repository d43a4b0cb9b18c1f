// One token of a recurrent layer, for one head or a range of channels.
#pragma once

#include <cstdint>

namespace vertebra {

struct RecurrenceKernels {
  // The gated delta rule of one head (Yang et al. 2024): state [D, M] = decay * state, then state += k (beta
  // (v - state^T k))^T, out [M] = state^T q. `change`: scratch for M floats.
  void (*delta_step)(float* state, const float* q, const float* k, const float* v, float decay, float beta,
                     int64_t D, int64_t M, float* out, float* change);
  // out[c] += weight[c * stride] * x[c]
  void (*add_weighted)(const float* weight, int64_t stride, const float* x, int64_t size, float* out);
};

}  // namespace vertebra
