// Conversion of rows between element types; used wherever a tensor changes its dtype.
#pragma once

#include <cstdint>

namespace vertebra {

struct ConvertKernels {
  // Round to nearest even, NaN stays NaN, subnormals kept: the same bits on every instruction set.
  void (*f32_to_bf16)(const float* from, uint16_t* to, int64_t size);
  void (*bf16_to_f32)(const uint16_t* from, float* to, int64_t size);
};

}  // namespace vertebra
