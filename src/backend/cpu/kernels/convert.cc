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

void f32_to_f16(const float* from, uint16_t* to, int64_t size) {
  int64_t i = 0;
#if defined(__F16C__) || defined(__ARM_NEON)
  const hn::ScalableTag<float> df;
  const hn::Rebind<hwy::float16_t, decltype(df)> dh;
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  for (; i + lanes <= size; i += lanes)
    hn::StoreU(hn::DemoteTo(dh, hn::LoadU(df, from + i)), dh, reinterpret_cast<hwy::float16_t*>(to + i));
#endif
  for (; i < size; ++i) to[i] = round_to_f16(from[i]);
}

void f32_to_i8(const float* from, int8_t* codes, float* scales, int64_t size) {
  const hn::CappedTag<float, 16> df;
  const hn::Rebind<int8_t, decltype(df)> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  for (int64_t block = 0; block < size / 32; ++block, from += 32, codes += 32) {
    auto most = hn::Zero(df);
    for (int64_t i = 0; i < 32; i += lanes) most = hn::Max(most, hn::Abs(hn::LoadU(df, from + i)));
    const float largest = hn::GetLane(hn::MaxOfLanes(df, most));
    const bool some = largest > 1e-30f;
    scales[block] = some ? largest * (1.0f / 127) : 0.0f;
    const auto inverse = hn::Set(df, some ? 127.0f / largest : 0.0f);
    for (int64_t i = 0; i < 32; i += lanes)
      hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(hn::Mul(hn::LoadU(df, from + i), inverse))), d8, codes + i);
  }
}

}  // namespace

constinit extern const ConvertKernels convert_kernels = {
    .f32_to_bf16 = f32_to_bf16, .bf16_to_f32 = bf16_to_f32, .f32_to_f16 = f32_to_f16, .f32_to_i8 = f32_to_i8};

}  // namespace vertebra::VERTEBRA_ISA
