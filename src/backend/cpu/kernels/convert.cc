#include "backend/cpu/kernels/convert.h"

#include "backend/cpu/kernels/simd.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

void f32_to_bf16(const float* from, uint16_t* to, int64_t size) {
  const hn::ScalableTag<float> df;
  const hn::Rebind<uint16_t, decltype(df)> dh;
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) hn::StoreU(round_to_bf16(df, hn::LoadU(df, from + i)), dh, to + i);
  for (; i < size; ++i) to[i] = round_to_bf16(from[i]);
}

void bf16_to_f32(const uint16_t* from, float* to, int64_t size) {
  const hn::ScalableTag<float> df;
  const hn::Rebind<uint16_t, decltype(df)> dh;
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) hn::StoreU(widen_bf16(df, hn::LoadU(dh, from + i)), df, to + i);
  for (; i < size; ++i) to[i] = widen_bf16(from[i]);
}

}  // namespace

constinit extern const ConvertKernels convert_kernels = {.f32_to_bf16 = f32_to_bf16,
                                                         .bf16_to_f32 = bf16_to_f32};

}  // namespace vertebra::VERTEBRA_ISA
