// The quantizers of single blocks, for quantize() of block_quant.h: values are finite.
#pragma once

#include "tensor/block_quant.h"

namespace vertebra {

void encode(const float* x, BlockQ8_0& out);
void encode(const float* x, BlockQ4_0& out);
void encode(const float* x, BlockQ4_1& out);
void encode(const float* x, BlockQ5_0& out);
void encode(const float* x, BlockQ5_1& out);
void encode(const float* x, BlockIQ4_NL& out);
void encode(const float* x, BlockMXFP4& out);
void encode(const float* x, BlockQ2_K& out);
void encode(const float* x, BlockQ3_K& out);
void encode(const float* x, BlockQ4_K& out);
void encode(const float* x, BlockQ5_K& out);
void encode(const float* x, BlockQ6_K& out);

}  // namespace vertebra
