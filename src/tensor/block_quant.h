// Block quantization: the layouts of weights in GGUF files, bit for bit, and the reference that turns them
// into floats. A block holds codes of a few bits, a scale (and offset) in f16, and in the K types 6-bit or
// 8-bit scales of the sub-blocks. The kernels that multiply packed blocks are the CPU backend's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace vertebra {

inline constexpr int64_t kMaxBlockElements = 256;

// Blocks as they lie in memory, without padding. d: scale, m or dmin: offset, both f16 bits. Of the types
// with 32 elements a byte of qs holds element j in its low half and element j + 16 in its high half.
#pragma pack(push, 1)
struct BlockQ8_0 {  // d q
  uint16_t d;
  int8_t qs[32];
};
struct BlockQ4_0 {  // d (q - 8)
  uint16_t d;
  uint8_t qs[16];
};
struct BlockQ4_1 {  // d q + m
  uint16_t d, m;
  uint8_t qs[16];
};
struct BlockQ5_0 {  // d (q - 16); bit j of qh is the fifth bit of element j
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ5_1 {  // d q + m
  uint16_t d, m;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ2_K {  // d (scale & 15) q - dmin (scale >> 4), a scale for 16 elements
  uint8_t scales[16];
  uint8_t qs[64];
  uint16_t d, dmin;
};
struct BlockQ3_K {  // d (scale - 32) (q - 4), q of 2 bits in qs and one in hmask; 6-bit scales for 16
                    // elements
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  uint16_t d;
};
struct BlockQ4_K {  // d scale q - dmin min; 6-bit scales and mins for 32 elements
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};
struct BlockQ5_K {
  uint16_t d, dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
struct BlockQ6_K {  // d scale (q - 32), q of 4 bits in ql and two in qh; scales for 16 elements
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};
struct BlockIQ4_NL {  // d kIQ4Values[q]
  uint16_t d;
  uint8_t qs[16];
};
struct BlockMXFP4 {  // 2^(e - 127) times an E2M1 value (OCP microscaling formats 1.0)
  uint8_t e;
  uint8_t qs[16];
};
#pragma pack(pop)

inline constexpr int8_t kIQ4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
// Twice the E2M1 values, so that they are integers.
inline constexpr int8_t kE2M1Twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 6-bit scale and min of sub-block j (0 to 7) of Q4_K and Q5_K.
struct ScaleMin {
  uint8_t scale, min;
};
constexpr ScaleMin k_scale_min(const uint8_t (&scales)[12], int j) {
  if (j < 4) return {static_cast<uint8_t>(scales[j] & 63), static_cast<uint8_t>(scales[j + 4] & 63)};
  return {static_cast<uint8_t>((scales[j + 4] & 15) | (scales[j - 4] >> 6 << 4)),
          static_cast<uint8_t>((scales[j + 4] >> 4) | (scales[j] >> 6 << 4))};
}
// 6-bit scale of sub-block j (0 to 15) of Q3_K, still 32 too large.
constexpr uint8_t q3_k_scale(const uint8_t (&scales)[12], int j) {
  const int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
  return static_cast<uint8_t>(low | ((scales[8 + j % 4] >> (2 * (j / 4))) & 3) << 4);
}

// Whole blocks at `blocks` (any alignment) to values.size() floats, a multiple of the block's elements;
// rounded as GGUF's reference does: products in f32, sub-scale times scale first.
void dequantize(DType dtype, const void* blocks, std::span<float> values);

// The inverse: whole blocks of the values, whose count is a multiple of the block's elements. Scales are
// searched for the least squared error, of large values more than of small ones in the types of few bits. Not
// finite values count as 0.
void quantize(DType dtype, std::span<const float> values, void* blocks);

}  // namespace vertebra
