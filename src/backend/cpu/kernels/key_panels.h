// Keys of a narrow cache as attention reads them: widened and transposed in one go, which spares a pass over
// the block. The widened values are those of the pack functions. Included by kernels/attention.cc only.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels/attention.h"
#include "backend/cpu/kernels/vector_f32.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

constexpr int64_t kKeys = kAttentionKeys;

// kLanes words of each of kLanes rows, transposed: word w of all rows in vector w. Rows from `rows` on are
// zeros.
HWY_INLINE void load_words(const void* from, int64_t stride_bytes, int64_t rows, VecF (&words)[kLanes]) {
  const auto* at = static_cast<const char*>(from);
  for (int j = 0; j < kLanes; ++j) {
    // Strides of a few hundred bytes are beyond what processors fetch ahead by themselves.
    __builtin_prefetch(at + (j + kKeys) * stride_bytes);
    words[j] = j < rows ? load<VecF>(at + j * stride_bytes) : splat(0);
  }
  transpose(words);
}

bool transpose_bf16(const uint16_t* from, int64_t stride, int64_t rows, int64_t dim, float* to) {
  if (dim % (2 * kLanes) != 0) return false;
  for (int64_t j = 0; j < kKeys; j += kLanes) {
    for (int64_t d = 0; d < dim; d += 2 * kLanes) {
      VecF words[kLanes];
      load_words(from + j * stride + d, stride * 2, rows - j, words);
      float* out = to + d * kKeys + j;
      for (int w = 0; w < kLanes; ++w) {
        store(low_bf16(words[w]), out + 2 * w * kKeys);
        store(high_bf16(words[w]), out + (2 * w + 1) * kKeys);
      }
    }
  }
  return true;
}

// The signed byte of each word whose bits begin at `kShift`, as floats.
template <int kShift>
HWY_INLINE VecF byte_of(VecF words) {
  return __builtin_convertvector(((VecI)((VecU)words << (24 - kShift))) >> 24, VecF);
}

bool transpose_i8(const int8_t* from, int64_t stride, const float* scales, int64_t scale_stride, int64_t rows,
                  int64_t dim, float* to) {
  if (dim % (4 * kLanes) != 0) return false;
  for (int64_t j = 0; j < kKeys; j += kLanes) {
    for (int64_t d = 0; d < dim; d += 4 * kLanes) {
      VecF words[kLanes];
      load_words(from + j * stride + d, stride, rows - j, words);
      VecF scale = splat(0);
      for (int w = 0; w < kLanes; ++w) {
        const int64_t at = d + 4 * w;
        if (at % 32 == 0 || w == 0) {
          for (int i = 0; i < kLanes; ++i)
            scale[i] = j + i < rows ? scales[(j + i) * scale_stride + at / 32] : 0;
        }
        float* out = to + at * kKeys + j;
        store(byte_of<0>(words[w]) * scale, out);
        store(byte_of<8>(words[w]) * scale, out + kKeys);
        store(byte_of<16>(words[w]) * scale, out + 2 * kKeys);
        store(byte_of<24>(words[w]) * scale, out + 3 * kKeys);
      }
    }
  }
  return true;
}

}  // namespace

}  // namespace vertebra::VERTEBRA_ISA
