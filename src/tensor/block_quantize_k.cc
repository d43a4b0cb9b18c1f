// Quantizers of the K types: 256 elements in sub-blocks of 16 or 32, whose scales (and offsets) are
// themselves rounded to a few bits. Each sub-block is fitted alone, its large values weighing more; then the
// scales are rounded together, and the codes chosen for the rounded ones.
#include <array>

#include "tensor/block_fit.h"
#include "tensor/block_quantize.h"

namespace vertebra {
namespace {

constexpr int kSuper = 256;

template <int N>
std::array<float, N> squared_weights(const float* x) {
  std::array<float, N> out;
  for (int i = 0; i < N; ++i) out[static_cast<size_t>(i)] = x[i] * x[i];
  return out;
}

// |x| on top of the sub-block's root mean square: between equal and linear.
template <int N>
std::array<float, N> linear_weights(const float* x) {
  const float rms = std::sqrt(lane_sum<N>([&](int i) { return x[i] * x[i]; }) / N);
  std::array<float, N> out;
  for (int i = 0; i < N; ++i) out[static_cast<size_t>(i)] = rms + std::abs(x[i]) + 1e-30f;
  return out;
}

int rounded(float value, int low, int high) {
  return std::clamp(static_cast<int>(nearest(std::clamp(value, -1e6f, 1e6f))), low, high);
}

// Q2_K, Q4_K, Q5_K: scales and offsets of the sub-blocks, rounded to `high_scale` steps of d and dmin, and
// the codes.
template <int N>
struct AffineSuperBlock {
  static constexpr int kParts = kSuper / N;
  uint16_t d = 0, dmin = 0;
  uint8_t scales[kParts] = {}, mins[kParts] = {};
  uint8_t q[kSuper] = {};

  AffineSuperBlock(const float* x, int high, int high_scale) {
    float scale[kParts], minimum[kParts], max_scale = 0, max_minimum = 0;
    for (int p = 0; p < kParts; ++p) {
      const auto weights = linear_weights<N>(x + p * N);
      const Affine fit = fit_affine<N>(x + p * N, weights.data(), static_cast<float>(high), true);
      scale[p] = fit.scale;
      minimum[p] = -fit.offset;
      max_scale = std::max(max_scale, scale[p]);
      max_minimum = std::max(max_minimum, minimum[p]);
    }
    d = f16_scale(max_scale / static_cast<float>(high_scale));
    dmin = f16_scale(max_minimum / static_cast<float>(high_scale));
    const float inverse_d = inverse_or_zero(f16_to_float(d)),
                inverse_dmin = inverse_or_zero(f16_to_float(dmin));
    for (int p = 0; p < kParts; ++p) {
      choose(x + p * N, p, high, rounded(scale[p] * inverse_d, 0, high_scale),
             rounded(minimum[p] * inverse_dmin, 0, high_scale), high_scale);
    }
  }

 private:
  // Of the rounded pair and its neighbours, the one with the least error.
  void choose(const float* x, int part, int high, int scale, int minimum, int high_scale) {
    const auto weights = linear_weights<N>(x);
    float best_error = INFINITY;
    for (int s = std::max(0, scale - 1); s <= std::min(high_scale, scale + 1); ++s) {
      for (int m = std::max(0, minimum - 1); m <= std::min(high_scale, minimum + 1); ++m) {
        const float step = f16_to_float(d) * static_cast<float>(s),
                    offset = f16_to_float(dmin) * static_cast<float>(m);
        const float inverse = inverse_or_zero(step);
        float codes[N];
        for (int i = 0; i < N; ++i) {
          codes[i] = nearest(std::min(std::max((x[i] + offset) * inverse, 0.0f), static_cast<float>(high)));
        }
        const float error = lane_sum<N>([&](int i) {
          const float difference = step * codes[i] - offset - x[i];
          return weights[static_cast<size_t>(i)] * difference * difference;
        });
        if (!(error < best_error)) continue;
        best_error = error;
        scales[part] = static_cast<uint8_t>(s);
        mins[part] = static_cast<uint8_t>(m);
        for (int i = 0; i < N; ++i) q[part * N + i] = static_cast<uint8_t>(codes[i]);
      }
    }
  }
};

// Q3_K, Q6_K: signed scales of sub-blocks of 16, rounded to [-high_scale - 1, high_scale] steps of d.
struct SymmetricSuperBlock {
  uint16_t d = 0;
  int scales[16] = {};
  int q[kSuper] = {};

  SymmetricSuperBlock(const float* x, int half, int half_scale) {
    float scale[16], largest = 0;
    for (int p = 0; p < 16; ++p) {
      const auto weights = weights_of(x + p * 16, half);
      scale[p] =
          fit_scale<16>(x + p * 16, weights.data(), static_cast<float>(-half), static_cast<float>(half - 1));
      if (std::abs(scale[p]) > std::abs(largest)) largest = scale[p];
    }
    // The largest scale at the outermost step, which is negative.
    d = f16_scale(-largest / static_cast<float>(half_scale));
    const float inverse = inverse_or_zero(f16_to_float(d));
    for (int p = 0; p < 16; ++p)
      choose(x + p * 16, p, half, rounded(scale[p] * inverse, -half_scale, half_scale - 1), half_scale);
  }

 private:
  // Of eight codes too few would be left for the small values, were the large ones to weigh by their square.
  static std::array<float, 16> weights_of(const float* x, int half) {
    return half <= 4 ? linear_weights<16>(x) : squared_weights<16>(x);
  }
  void choose(const float* x, int part, int half, int scale, int half_scale) {
    const auto weights = weights_of(x, half);
    float best_error = INFINITY;
    for (int s = std::max(-half_scale, scale - 1); s <= std::min(half_scale - 1, scale + 1); ++s) {
      const float step = f16_to_float(d) * static_cast<float>(s), inverse = inverse_or_zero(step);
      float codes[16];
      for (int i = 0; i < 16; ++i) {
        codes[i] = nearest(
            std::min(std::max(x[i] * inverse, static_cast<float>(-half)), static_cast<float>(half - 1)));
      }
      const float error = lane_sum<16>([&](int i) {
        const float difference = step * codes[i] - x[i];
        return weights[static_cast<size_t>(i)] * difference * difference;
      });
      if (!(error < best_error)) continue;
      best_error = error;
      scales[part] = s;
      for (int i = 0; i < 16; ++i) q[part * 16 + i] = static_cast<int>(codes[i]) + half;
    }
  }
};

uint8_t joined(int byte, int bits, int shift) { return static_cast<uint8_t>(byte | bits << shift); }

// The inverse of k_scale_min (block_quant.h).
void pack_scales(const AffineSuperBlock<32>& from, uint8_t (&scales)[12]) {
  for (int j = 0; j < 4; ++j) {
    scales[j] = joined(from.scales[j], from.scales[j + 4] >> 4, 6);
    scales[j + 4] = joined(from.mins[j], from.mins[j + 4] >> 4, 6);
    scales[j + 8] = joined(from.scales[j + 4] & 15, from.mins[j + 4] & 15, 4);
  }
}

}  // namespace

void encode(const float* x, BlockQ2_K& out) {
  const AffineSuperBlock<16> found(x, 3, 15);
  out.d = found.d;
  out.dmin = found.dmin;
  for (int j = 0; j < 16; ++j) out.scales[j] = joined(found.scales[j], found.mins[j], 4);
  for (int j = 0; j < kSuper; ++j) {
    uint8_t& byte = out.qs[j / 128 * 32 + j % 32];
    byte = joined(byte, found.q[j], 2 * (j / 32 % 4));
  }
}

void encode(const float* x, BlockQ3_K& out) {
  const SymmetricSuperBlock found(x, 4, 32);
  out.d = found.d;
  for (int j = 0; j < 16; ++j) {
    const int scale = found.scales[j] + 32;
    uint8_t& low = out.scales[j % 8];
    low = joined(low, scale & 15, j < 8 ? 0 : 4);
    uint8_t& high = out.scales[8 + j % 4];
    high = joined(high, scale >> 4, 2 * (j / 4));
  }
  for (int j = 0; j < kSuper; ++j) {
    uint8_t& byte = out.qs[j / 128 * 32 + j % 32];
    byte = joined(byte, found.q[j] & 3, 2 * (j / 32 % 4));
    out.hmask[j % 32] = joined(out.hmask[j % 32], found.q[j] >> 2, j / 32);
  }
}

void encode(const float* x, BlockQ4_K& out) {
  const AffineSuperBlock<32> found(x, 15, 63);
  out.d = found.d;
  out.dmin = found.dmin;
  pack_scales(found, out.scales);
  for (int j = 0; j < kSuper; ++j) {
    uint8_t& byte = out.qs[j / 64 * 32 + j % 32];
    byte = joined(byte, found.q[j], 4 * (j / 32 % 2));
  }
}

void encode(const float* x, BlockQ5_K& out) {
  const AffineSuperBlock<32> found(x, 31, 63);
  out.d = found.d;
  out.dmin = found.dmin;
  pack_scales(found, out.scales);
  for (int j = 0; j < kSuper; ++j) {
    uint8_t& byte = out.qs[j / 64 * 32 + j % 32];
    byte = joined(byte, found.q[j] & 15, 4 * (j / 32 % 2));
    out.qh[j % 32] = joined(out.qh[j % 32], found.q[j] >> 4, j / 32);
  }
}

void encode(const float* x, BlockQ6_K& out) {
  const SymmetricSuperBlock found(x, 32, 128);
  out.d = found.d;
  for (int j = 0; j < 16; ++j) out.scales[j] = static_cast<int8_t>(found.scales[j]);
  for (int j = 0; j < kSuper; ++j) {
    const int quarter = j / 32 % 4;
    uint8_t& low = out.ql[j / 128 * 64 + quarter % 2 * 32 + j % 32];
    low = joined(low, found.q[j] & 15, quarter / 2 * 4);
    uint8_t& high = out.qh[j / 128 * 32 + j % 32];
    high = joined(high, found.q[j] >> 4, 2 * quarter);
  }
}

}  // namespace vertebra
