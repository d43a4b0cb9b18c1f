// Least-squares fits of a few values by scaled integer codes, which the quantizers of block_quantize.cc and
// block_quantize_k.cc share. The codes that minimise the error for a given scale are the nearest ones, and
// the scale that minimises it for given codes follows from sums; so a few scales are tried, each improved so
// once, and the best pair is improved until nothing changes any more.
#pragma once

#include <algorithm>
#include <cmath>

#include "tensor/dtype.h"

namespace vertebra {

// f16 bits of a scale, never infinite.
inline uint16_t f16_scale(float value) { return float_to_f16(std::clamp(value, -65504.0f, 65504.0f)); }
// 1 / value, or 0 where nothing can be divided.
inline float inverse_or_zero(float value) {
  const float out = 1.0f / value;
  return value != 0 && std::isfinite(out) ? out : 0.0f;
}

// Nearest whole number, |value| < 2^22; in this form compilers use SIMD.
inline float nearest(float value) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (value + kShift) - kShift;
}

// Sum of f(i) in eight lanes, N a multiple of 8.
template <int N, class F>
float lane_sum(F f) {
  float lanes[8] = {};
  for (int i = 0; i < N; i += 8) {
    for (int j = 0; j < 8; ++j) lanes[j] += f(i + j);
  }
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// x ~ scale * q with q in [low, high], low < 0: the scale of the least squared error with weights w.
template <int N>
float fit_scale(const float* x, const float* w, float low, float high) {
  float largest = 0;
  for (int i = 0; i < N; ++i) largest = std::max(largest, std::abs(x[i]));
  if (largest < 1e-30f) return 0;
  float best_gain = 0, best = 0;
  const auto improve = [&](float inverse) {
    float q[N];
    for (int i = 0; i < N; ++i) q[i] = nearest(std::min(std::max(x[i] * inverse, low), high));
    const float xq = lane_sum<N>([&](int i) { return w[i] * x[i] * q[i]; });
    const float qq = lane_sum<N>([&](int i) { return w[i] * q[i] * q[i]; });
    if (!(qq > 0) || !(xq * xq > best_gain * qq)) return false;
    best_gain = xq * xq / qq;
    best = xq / qq;
    return true;
  };
  // The largest value at the outermost code, at one somewhat beyond it, or within: on both sides, as the
  // codes reach one step further down than up.
  for (int step = -9; step <= 9; ++step) {
    const float inverse = (-low + 0.1f * static_cast<float>(step)) / largest;
    improve(inverse);
    improve(-inverse);
  }
  for (int round = 0; round < 4 && improve(inverse_or_zero(best)); ++round) {
  }
  return best;
}

// x ~ scale * q + offset with q in [0, high].
struct Affine {
  float scale = 0, offset = 0;
};
template <int N>
Affine fit_affine(const float* x, const float* w, float high, bool offset_at_most_zero) {
  float low_x = x[0], high_x = x[0];
  for (int i = 1; i < N; ++i) {
    low_x = std::min(low_x, x[i]);
    high_x = std::max(high_x, x[i]);
  }
  if (offset_at_most_zero) low_x = std::min(low_x, 0.0f);
  if (!(high_x - low_x > 1e-30f)) return {0, low_x};
  const float sum_w = lane_sum<N>([&](int i) { return w[i]; });
  const float sum_x = lane_sum<N>([&](int i) { return w[i] * x[i]; });
  Affine best{(high_x - low_x) / high, low_x};
  float best_error = INFINITY;
  const auto improve = [&](float inverse, float offset) {
    float q[N];
    for (int i = 0; i < N; ++i) q[i] = nearest(std::min(std::max((x[i] - offset) * inverse, 0.0f), high));
    const float sum_q = lane_sum<N>([&](int i) { return w[i] * q[i]; });
    const float sum_qq = lane_sum<N>([&](int i) { return w[i] * q[i] * q[i]; });
    const float sum_xq = lane_sum<N>([&](int i) { return w[i] * x[i] * q[i]; });
    const float determinant = sum_w * sum_qq - sum_q * sum_q;
    if (!(determinant > 0)) return false;
    Affine found{(sum_w * sum_xq - sum_x * sum_q) / determinant,
                 (sum_qq * sum_x - sum_q * sum_xq) / determinant};
    if (offset_at_most_zero && found.offset > 0) found = {sum_xq / sum_qq, 0};
    const float error = lane_sum<N>([&](int i) {
      const float difference = found.scale * q[i] + found.offset - x[i];
      return w[i] * difference * difference;
    });
    if (!(error < best_error)) return false;
    best_error = error;
    best = found;
    return true;
  };
  for (int step = -10; step <= 10; ++step) {
    improve((high + 0.1f * static_cast<float>(step)) / (high_x - low_x), low_x);
  }
  for (int round = 0; round < 4 && improve(inverse_or_zero(best.scale), best.offset); ++round) {
  }
  return best;
}

}  // namespace vertebra
