#include "tensor/block_quant.h"

#include <cmath>
#include <cstring>

#include "base/error.h"

namespace vertebra {
namespace {

template <class Block>
constexpr bool fits(DType dtype) {
  return sizeof(Block) == block_size(dtype).bytes;
}
static_assert(fits<BlockQ8_0>(DType::kQ8_0) && fits<BlockQ4_0>(DType::kQ4_0) &&
              fits<BlockQ4_1>(DType::kQ4_1) && fits<BlockQ5_0>(DType::kQ5_0) &&
              fits<BlockQ5_1>(DType::kQ5_1) && fits<BlockQ2_K>(DType::kQ2_K) &&
              fits<BlockQ3_K>(DType::kQ3_K) && fits<BlockQ4_K>(DType::kQ4_K) &&
              fits<BlockQ5_K>(DType::kQ5_K) && fits<BlockQ6_K>(DType::kQ6_K) &&
              fits<BlockIQ4_NL>(DType::kIQ4_NL) && fits<BlockMXFP4>(DType::kMXFP4));

// value(code) of the 32 codes of four bits.
template <class Value>
void four_bits(const uint8_t (&qs)[16], float* y, Value value) {
  for (int j = 0; j < 16; ++j) {
    y[j] = value(qs[j] & 15);
    y[j + 16] = value(qs[j] >> 4);
  }
}

template <class Value>
void five_bits(const uint8_t (&qs)[16], const uint8_t (&qh)[4], float* y, Value value) {
  const auto high = [&](int j) { return (qh[j / 8] >> (j % 8) & 1) << 4; };
  for (int j = 0; j < 16; ++j) {
    y[j] = value((qs[j] & 15) | high(j));
    y[j + 16] = value((qs[j] >> 4) | high(j + 16));
  }
}

void decode(const BlockQ8_0& b, float* y) {
  const float d = f16_to_float(b.d);
  for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(b.qs[j]) * d;
}

void decode(const BlockQ4_0& b, float* y) {
  const float d = f16_to_float(b.d);
  four_bits(b.qs, y, [&](int q) { return static_cast<float>(q - 8) * d; });
}

void decode(const BlockQ4_1& b, float* y) {
  const float d = f16_to_float(b.d), m = f16_to_float(b.m);
  four_bits(b.qs, y, [&](int q) { return static_cast<float>(q) * d + m; });
}

void decode(const BlockQ5_0& b, float* y) {
  const float d = f16_to_float(b.d);
  five_bits(b.qs, b.qh, y, [&](int q) { return static_cast<float>(q - 16) * d; });
}

void decode(const BlockQ5_1& b, float* y) {
  const float d = f16_to_float(b.d), m = f16_to_float(b.m);
  five_bits(b.qs, b.qh, y, [&](int q) { return static_cast<float>(q) * d + m; });
}

void decode(const BlockQ2_K& b, float* y) {
  const float d = f16_to_float(b.d), dmin = f16_to_float(b.dmin);
  for (int j = 0; j < 256; ++j) {
    const uint8_t scale = b.scales[j / 16];
    const int q = b.qs[j / 128 * 32 + j % 32] >> (2 * (j / 32 % 4)) & 3;
    y[j] = d * static_cast<float>(scale & 15) * static_cast<float>(q) - dmin * static_cast<float>(scale >> 4);
  }
}

void decode(const BlockQ3_K& b, float* y) {
  const float d = f16_to_float(b.d);
  for (int j = 0; j < 256; ++j) {
    const int q = b.qs[j / 128 * 32 + j % 32] >> (2 * (j / 32 % 4)) & 3;
    const int high = b.hmask[j % 32] >> (j / 32) & 1;
    y[j] = d * static_cast<float>(q3_k_scale(b.scales, j / 16) - 32) * static_cast<float>(q + 4 * high - 4);
  }
}

void decode(const BlockQ4_K& b, float* y) {
  const float d = f16_to_float(b.d), dmin = f16_to_float(b.dmin);
  for (int j = 0; j < 256; ++j) {
    const ScaleMin s = k_scale_min(b.scales, j / 32);
    const int q = b.qs[j / 64 * 32 + j % 32] >> (4 * (j / 32 % 2)) & 15;
    y[j] = d * s.scale * static_cast<float>(q) - dmin * s.min;
  }
}

void decode(const BlockQ5_K& b, float* y) {
  const float d = f16_to_float(b.d), dmin = f16_to_float(b.dmin);
  for (int j = 0; j < 256; ++j) {
    const ScaleMin s = k_scale_min(b.scales, j / 32);
    const int low = b.qs[j / 64 * 32 + j % 32] >> (4 * (j / 32 % 2)) & 15,
              high = b.qh[j % 32] >> (j / 32) & 1;
    y[j] = d * s.scale * static_cast<float>(low | high << 4) - dmin * s.min;
  }
}

void decode(const BlockQ6_K& b, float* y) {
  const float d = f16_to_float(b.d);
  for (int j = 0; j < 256; ++j) {
    const int quarter = j / 32 % 4;  // of a half of 128
    const int low = b.ql[j / 128 * 64 + quarter % 2 * 32 + j % 32] >> (quarter / 2 * 4) & 15;
    const int high = b.qh[j / 128 * 32 + j % 32] >> (2 * quarter) & 3;
    y[j] = d * static_cast<float>(b.scales[j / 16]) * static_cast<float>((low | high << 4) - 32);
  }
}

void decode(const BlockIQ4_NL& b, float* y) {
  const float d = f16_to_float(b.d);
  four_bits(b.qs, y, [&](int q) { return static_cast<float>(kIQ4Values[q]) * d; });
}

void decode(const BlockMXFP4& b, float* y) {
  const float d = std::ldexp(1.0f, b.e - 128);  // half of 2^(e - 127): the values are doubled
  four_bits(b.qs, y, [&](int q) { return static_cast<float>(kE2M1Twice[q]) * d; });
}

template <class Block>
void decode_all(const void* blocks, std::span<float> values, int64_t elements) {
  const auto* from = static_cast<const std::byte*>(blocks);
  for (size_t at = 0; at < values.size(); at += static_cast<size_t>(elements), from += sizeof(Block)) {
    Block block;
    std::memcpy(&block, from, sizeof(Block));
    decode(block, values.data() + at);
  }
}

}  // namespace

void dequantize(DType dtype, const void* blocks, std::span<float> values) {
  const int64_t elements = block_size(dtype).elements;
  VERTEBRA_CHECK(is_block_quantized(dtype) && values.size() % static_cast<size_t>(elements) == 0,
                 "dequantize of other than whole blocks");
  switch (dtype) {
    case DType::kQ8_0:
      return decode_all<BlockQ8_0>(blocks, values, elements);
    case DType::kQ4_0:
      return decode_all<BlockQ4_0>(blocks, values, elements);
    case DType::kQ4_1:
      return decode_all<BlockQ4_1>(blocks, values, elements);
    case DType::kQ5_0:
      return decode_all<BlockQ5_0>(blocks, values, elements);
    case DType::kQ5_1:
      return decode_all<BlockQ5_1>(blocks, values, elements);
    case DType::kQ2_K:
      return decode_all<BlockQ2_K>(blocks, values, elements);
    case DType::kQ3_K:
      return decode_all<BlockQ3_K>(blocks, values, elements);
    case DType::kQ4_K:
      return decode_all<BlockQ4_K>(blocks, values, elements);
    case DType::kQ5_K:
      return decode_all<BlockQ5_K>(blocks, values, elements);
    case DType::kQ6_K:
      return decode_all<BlockQ6_K>(blocks, values, elements);
    case DType::kIQ4_NL:
      return decode_all<BlockIQ4_NL>(blocks, values, elements);
    case DType::kMXFP4:
      return decode_all<BlockMXFP4>(blocks, values, elements);
    default:
      return;
  }
}

}  // namespace vertebra
