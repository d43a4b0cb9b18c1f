// The last steps of a row of C: act(sum + bias) + residual, rounding; included by gemm.cc and
// block_product.cc only.
#pragma once

#include "backend/cpu/kernels/gemm.h"
#include "backend/cpu/kernels/math.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

template <class D>
HWY_INLINE hn::Vec<D> activate(D d, hn::Vec<D> x, GemmActivation activation) {
  switch (activation) {
    case GemmActivation::kNone:
      return x;
    case GemmActivation::kSilu:
      return hn::Mul(x, logistic_of(d, x));
    case GemmActivation::kGeluTanh: {
      // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
      const auto cube = hn::Mul(hn::Mul(x, x), x);
      const auto inner =
          hn::Mul(hn::Set(d, 0.79788456080286535588f), hn::MulAdd(hn::Set(d, 0.044715f), cube, x));
      return hn::Mul(hn::Mul(hn::Set(d, 0.5f), x), hn::Add(hn::Set(d, 1.0f), tanh_of(d, inner)));
    }
    case GemmActivation::kGeluErf:
      // x/2 (1 + erf(x / sqrt(2)))
      return hn::Mul(hn::Mul(hn::Set(d, 0.5f), x),
                     hn::Add(hn::Set(d, 1.0f), erf_of(d, hn::Mul(x, hn::Set(d, 0.70710678118654752440f)))));
  }
  return x;
}

template <class D>
HWY_INLINE hn::Vec<D> load_as_f32(D d, const void* from, bool is_bf16, int64_t at, int64_t count) {
  const bool whole = count >= static_cast<int64_t>(hn::Lanes(d));
  if (is_bf16) {
    const hn::Rebind<uint16_t, D> dh;
    const auto* p = static_cast<const uint16_t*>(from) + at;
    return widen_bf16(d, whole ? hn::LoadU(dh, p) : load_part(dh, p, count));
  }
  const auto* p = static_cast<const float*>(from) + at;
  return whole ? hn::LoadU(d, p) : load_part(d, p, count);
}

// `sums` holds the row's `columns` sums from column `column` on, readable up to a whole vector.
void finish_row(const GemmFinish& finish, int64_t row, int64_t column, int64_t columns, const float* sums) {
  const hn::ScalableTag<float> d;
  const hn::Rebind<uint16_t, decltype(d)> dh;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < columns; c += lanes) {
    const int64_t count = columns - c;
    auto x = hn::LoadU(d, sums + c);
    if (finish.bias != nullptr) {
      x = hn::Add(x, load_as_f32(d, finish.bias, finish.bias_is_bf16, column + c, count));
    }
    x = activate(d, x, finish.activation);
    if (finish.residual != nullptr) {
      x = hn::Add(x, load_as_f32(d, finish.residual, finish.residual_is_bf16,
                                 row * finish.residual_stride + column + c, count));
    }
    const int64_t at = row * finish.out_stride + column + c;
    if (finish.out_is_bf16) {
      auto* out = static_cast<uint16_t*>(finish.out) + at;
      const auto half = round_to_bf16(d, x);
      if (count >= lanes) {
        hn::StoreU(half, dh, out);
      } else {
        store_part(dh, half, out, count);
      }
    } else {
      auto* out = static_cast<float*>(finish.out) + at;
      if (count >= lanes) {
        hn::StoreU(x, d, out);
      } else {
        store_part(d, x, out, count);
      }
    }
  }
}

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
