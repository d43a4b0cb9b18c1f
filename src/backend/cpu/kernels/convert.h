// Conversion of rows between element types; used wherever a tensor changes its dtype.
#pragma once

#include <cstdint>

namespace vertebra {

struct ConvertKernels {
  // Round to nearest even, NaN stays NaN, subnormals kept: the same bits on every instruction set.
  void (*f32_to_bf16)(const float* from, uint16_t* to, int64_t size);
  void (*bf16_to_f32)(const uint16_t* from, float* to, int64_t size);
  void (*f32_to_f16)(const float* from, uint16_t* to, int64_t size);
  // Whole blocks of 32: codes to nearest, the largest is 127 of its block's scale. Blocks below 1e-30 are
  // zeros.
  void (*f32_to_i8)(const float* from, int8_t* codes, float* scales, int64_t size);
};

}  // namespace vertebra
