// Quantizers of the types with 32 elements a block, and the choice between all of them.
#include "tensor/block_quantize.h"

#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "tensor/block_fit.h"

namespace vertebra {
namespace {

constexpr int kBlock = 32;

constexpr std::array<float, kBlock> kEqualWeights = [] {
  std::array<float, kBlock> out{};
  out.fill(1);
  return out;
}();

int code(float x, float inverse, int low, int high) {
  return std::clamp(static_cast<int>(nearest(std::clamp(x * inverse, -1e6f, 1e6f))), low, high);
}

// Large values weigh by their square, for outliers carry more than their share of a model: with equal
// weights, which err 4 % less, SmolLM2-135M in Q4_0 has a perplexity of 54.1 on a text where it has 49.1 so.
std::array<float, kBlock> squares(const float* x) {
  std::array<float, kBlock> out;
  for (int j = 0; j < kBlock; ++j) out[static_cast<size_t>(j)] = x[j] * x[j];
  return out;
}

// qs and the scale of d * (q - 2^(bits - 1)).
template <class Put>
uint16_t encode_symmetric(const float* x, int half, Put put) {
  const uint16_t d = f16_scale(
      fit_scale<kBlock>(x, squares(x).data(), static_cast<float>(-half), static_cast<float>(half - 1)));
  const float inverse = inverse_or_zero(f16_to_float(d));
  for (int j = 0; j < kBlock; ++j) put(j, code(x[j], inverse, -half, half - 1) + half);
  return d;
}

template <class Block, class Put>
void encode_affine(const float* x, int high, Block& out, Put put) {
  const Affine fit = fit_affine<kBlock>(x, kEqualWeights.data(), static_cast<float>(high), false);
  out.d = f16_scale(fit.scale);
  out.m = f16_scale(fit.offset);
  const float inverse = inverse_or_zero(f16_to_float(out.d)), m = f16_to_float(out.m);
  for (int j = 0; j < kBlock; ++j) put(j, code(x[j] - m, inverse, 0, high));
}

void put_low(uint8_t (&qs)[16], int j, int q) {
  qs[j % 16] = static_cast<uint8_t>(qs[j % 16] | (q & 15) << (j < 16 ? 0 : 4));
}
void put_fifth(uint8_t (&qh)[4], int j, int q) {
  qh[j / 8] = static_cast<uint8_t>(qh[j / 8] | (q >> 4) << (j % 8));
}

int nearest_iq4(float value) {
  int best = 0;
  for (int k = 1; k < 16; ++k) {
    if (std::abs(value - static_cast<float>(kIQ4Values[k])) <
        std::abs(value - static_cast<float>(kIQ4Values[best])))
      best = k;
  }
  return best;
}

// Of twice the values; 0 is written without a sign.
int nearest_e2m1(float twice) {
  int best = 0;
  for (int k = 1; k < 8; ++k) {
    if (std::abs(std::abs(twice) - static_cast<float>(kE2M1Twice[k])) <
        std::abs(std::abs(twice) - static_cast<float>(kE2M1Twice[best])))
      best = k;
  }
  return best > 0 && twice < 0 ? best + 8 : best;
}

template <class Block>
void encode_all(std::span<const float> values, void* blocks) {
  constexpr size_t kElements = std::is_same_v<Block, BlockQ2_K> || std::is_same_v<Block, BlockQ3_K> ||
                                       std::is_same_v<Block, BlockQ4_K> || std::is_same_v<Block, BlockQ5_K> ||
                                       std::is_same_v<Block, BlockQ6_K>
                                   ? 256
                                   : 32;
  auto* to = static_cast<std::byte*>(blocks);
  std::array<float, kElements> x;
  for (size_t at = 0; at < values.size(); at += kElements, to += sizeof(Block)) {
    for (size_t j = 0; j < kElements; ++j) x[j] = std::isfinite(values[at + j]) ? values[at + j] : 0.0f;
    Block block{};
    encode(x.data(), block);
    std::memcpy(to, &block, sizeof(Block));
  }
}

}  // namespace

void encode(const float* x, BlockQ8_0& out) {
  float largest = 0;
  for (int j = 0; j < kBlock; ++j) largest = std::max(largest, std::abs(x[j]));
  out.d = f16_scale(largest / 127);
  const float inverse = inverse_or_zero(f16_to_float(out.d));
  for (int j = 0; j < kBlock; ++j) out.qs[j] = static_cast<int8_t>(code(x[j], inverse, -127, 127));
}

void encode(const float* x, BlockQ4_0& out) {
  out.d = encode_symmetric(x, 8, [&](int j, int q) { put_low(out.qs, j, q); });
}

void encode(const float* x, BlockQ5_0& out) {
  out.d = encode_symmetric(x, 16, [&](int j, int q) {
    put_low(out.qs, j, q);
    put_fifth(out.qh, j, q);
  });
}

void encode(const float* x, BlockQ4_1& out) {
  encode_affine(x, 15, out, [&](int j, int q) { put_low(out.qs, j, q); });
}

void encode(const float* x, BlockQ5_1& out) {
  encode_affine(x, 31, out, [&](int j, int q) {
    put_low(out.qs, j, q);
    put_fifth(out.qh, j, q);
  });
}

void encode(const float* x, BlockIQ4_NL& out) {
  float largest = 0;
  for (int j = 0; j < kBlock; ++j) largest = std::max(largest, std::abs(x[j]));
  if (largest < 1e-30f) {
    for (uint8_t& pair : out.qs) pair = 8 | 8 << 4;
    return;
  }
  // As fit_scale, over values that are not evenly spaced; the outermost is -127.
  float best_gain = 0, best = 0;
  const auto improve = [&](float inverse) {
    float xq = 0, qq = 0;
    for (int j = 0; j < kBlock; ++j) {
      const auto q = static_cast<float>(kIQ4Values[nearest_iq4(x[j] * inverse)]);
      xq += x[j] * q;
      qq += q * q;
    }
    if (!(qq > 0) || !(xq * xq > best_gain * qq)) return false;
    best_gain = xq * xq / qq;
    best = xq / qq;
    return true;
  };
  for (int step = -6; step <= 6; ++step) {
    const float inverse = (127 + 3 * static_cast<float>(step)) / largest;
    improve(inverse);
    improve(-inverse);
  }
  for (int round = 0; round < 4 && improve(inverse_or_zero(best)); ++round) {
  }
  out.d = f16_scale(best);
  const float inverse = inverse_or_zero(f16_to_float(out.d));
  for (int j = 0; j < kBlock; ++j) put_low(out.qs, j, nearest_iq4(x[j] * inverse));
}

// The scale is a power of two: that by which the largest value comes within 4 to 8, as the format's paper has
// it (where more than 6 becomes 6), or the next, whichever errs less: 1.8 % less than the first alone, of
// normally distributed values.
void encode(const float* x, BlockMXFP4& out) {
  float largest = 0;
  for (int j = 0; j < kBlock; ++j) largest = std::max(largest, std::abs(x[j]));
  if (largest == 0) return;
  const int first = std::clamp(std::ilogb(largest) - 2 + 127, 0, 253);
  double least = -1;
  for (int e = first; e <= first + 1; ++e) {
    BlockMXFP4 tried{};
    tried.e = static_cast<uint8_t>(e);
    double error = 0;
    for (int j = 0; j < kBlock; ++j) {
      const auto value = static_cast<float>(std::ldexp(static_cast<double>(x[j]), 128 - e));
      const int q = nearest_e2m1(value);
      error +=
          std::pow(static_cast<double>(x[j]) - std::ldexp(static_cast<double>(kE2M1Twice[q]), e - 128), 2);
      put_low(tried.qs, j, q);
    }
    if (least >= 0 && error >= least) continue;
    least = error;
    out = tried;
  }
}

void quantize(DType dtype, std::span<const float> values, void* blocks) {
  VERTEBRA_CHECK(
      is_block_quantized(dtype) && values.size() % static_cast<size_t>(block_size(dtype).elements) == 0,
      "quantize to a type that has no quantizer, or of other than whole blocks");
  switch (dtype) {
    case DType::kQ8_0:
      return encode_all<BlockQ8_0>(values, blocks);
    case DType::kQ4_0:
      return encode_all<BlockQ4_0>(values, blocks);
    case DType::kQ4_1:
      return encode_all<BlockQ4_1>(values, blocks);
    case DType::kQ5_0:
      return encode_all<BlockQ5_0>(values, blocks);
    case DType::kQ5_1:
      return encode_all<BlockQ5_1>(values, blocks);
    case DType::kQ2_K:
      return encode_all<BlockQ2_K>(values, blocks);
    case DType::kQ3_K:
      return encode_all<BlockQ3_K>(values, blocks);
    case DType::kQ4_K:
      return encode_all<BlockQ4_K>(values, blocks);
    case DType::kQ5_K:
      return encode_all<BlockQ5_K>(values, blocks);
    case DType::kQ6_K:
      return encode_all<BlockQ6_K>(values, blocks);
    case DType::kIQ4_NL:
      return encode_all<BlockIQ4_NL>(values, blocks);
    case DType::kMXFP4:
      return encode_all<BlockMXFP4>(values, blocks);
    default:
      return;
  }
}

}  // namespace vertebra
