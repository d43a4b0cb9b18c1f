// Vector exp, log, tanh, erf, logistic, sine and cosine in f32, for kernels/*.cc only. Each is a pure
// function of the element: whole vectors and tails (load_part / store_part below) give the same bits wherever
// an element lies. Errors, against the exact value over the whole range: exp 1 ulp, log 1 ulp, the others 2
// ulp (tested in tests/backend/math_test.cc); NaN gives NaN, infinities their limits, subnormal arguments and
// results are kept. The polynomials are our own weighted minimax fits (Lawson's iteration), errors below 0.02
// half-ulps.
#pragma once

#include "backend/cpu/kernels/simd.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

// The first `count` < Lanes(d) elements; the rest of the vector is zero.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load_part(D d, const T* from, int64_t count) {
  HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(T)] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = from[i];
  return hn::Load(d, buffer);
}
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_part(D d, hn::Vec<D> value, T* to, int64_t count) {
  HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(T)];
  hn::Store(value, d, buffer);
  for (int64_t i = 0; i < count; ++i) to[i] = buffer[i];
}

// c0 + x (c1 + x (c2 + ...)).
template <class D>
HWY_INLINE hn::Vec<D> polynomial(D d, hn::Vec<D>, float c0) {
  return hn::Set(d, c0);
}
template <class D, class... Rest>
HWY_INLINE hn::Vec<D> polynomial(D d, hn::Vec<D> x, float c0, Rest... rest) {
  return hn::MulAdd(polynomial(d, x, rest...), x, hn::Set(d, c0));
}

// ln 2 in two parts; the first has 9 bits, so that its products with exponents are exact.
inline constexpr float kLn2High = 0x1.63p-1f, kLn2Low = -0x1.bd0106p-13f;

// exp(x) = 2^n exp(r), |r| <= ln2 / 2. The power of two is applied in two steps, so that results down to the
// smallest subnormal are rounded once.
template <class D>
HWY_INLINE hn::Vec<D> exp_of(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto clamped = hn::Min(hn::Max(x, hn::Set(d, -104.0f)), hn::Set(d, 89.0f));
  const auto n = hn::NearestInt(hn::Mul(clamped, hn::Set(d, 0x1.715476p0f)));
  const auto nf = hn::ConvertTo(d, n);
  auto r = hn::NegMulAdd(nf, hn::Set(d, kLn2High), clamped);
  r = hn::NegMulAdd(nf, hn::Set(d, kLn2Low), r);
  const auto p = polynomial(d, r, 0x1p-1f, 0x1.555554p-3f, 0x1.55548cp-5f, 0x1.111272p-7f, 0x1.6d8ddcp-10f,
                            0x1.9f07eep-13f);
  const auto y = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(d, 1.0f));
  const auto half = hn::ShiftRight<1>(n);
  const auto bias = hn::Set(di, 127);
  const auto scale1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const auto scale2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(n, half), bias)));
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Mul(hn::Mul(y, scale1), scale2));
}

// log(x) = e ln 2 + log(1 + f), 1 + f in [sqrt(1/2), sqrt(2)).
template <class D>
HWY_INLINE hn::Vec<D> log_of(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto tiny = hn::Lt(x, hn::Set(d, 0x1p-126f));
  const auto normal = hn::IfThenElse(tiny, hn::Mul(x, hn::Set(d, 0x1p23f)), x);
  const auto bits = hn::BitCast(di, normal);
  const auto exponent = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3f3504f3)));
  const auto f = hn::Sub(hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(exponent))), hn::Set(d, 1.0f));
  const auto e = hn::Sub(hn::ConvertTo(d, exponent), hn::IfThenElseZero(tiny, hn::Set(d, 23.0f)));
  const auto p = polynomial(d, f, 0x1.555548p-2f, -0x1.000006p-2f, 0x1.99a4b6p-3f, -0x1.555c4ep-3f,
                            0x1.233768p-3f, -0x1.fc2208p-4f, 0x1.e6f06ap-4f, -0x1.de3c16p-4f, 0x1.1457a6p-4f);
  const auto f2 = hn::Mul(f, f);
  auto y = hn::MulAdd(e, hn::Set(d, kLn2Low), hn::Mul(hn::Mul(f2, f), p));
  y = hn::NegMulAdd(hn::Set(d, 0.5f), f2, y);
  y = hn::MulAdd(e, hn::Set(d, kLn2High), hn::Add(f, y));
  const auto infinity = hn::Set(d, float_of_bits(0x7f800000));
  y = hn::IfThenElse(hn::Eq(x, infinity), x, y);
  y = hn::IfThenElse(hn::Eq(x, hn::Zero(d)), hn::Neg(infinity), y);
  y = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Set(d, float_of_bits(0x7fc00000)), y);
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

// 1 / (1 + exp(-x)), written so that neither tail loses digits.
template <class D>
HWY_INLINE hn::Vec<D> logistic_of(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0f);
  const auto e = exp_of(d, hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}

template <class D>
HWY_INLINE hn::Vec<D> tanh_of(D d, hn::Vec<D> x) {
  const auto a = hn::Abs(x);
  const auto x2 = hn::Mul(x, x);
  const auto p = polynomial(d, x2, -0x1.555554p-2f, 0x1.111066p-3f, -0x1.b9ee9p-5f, 0x1.638b58p-6f,
                            -0x1.0bf4fep-7f, 0x1.18e1ep-9f);
  const auto small = hn::MulAdd(hn::Mul(x2, p), x, x);
  const auto one = hn::Set(d, 1.0f);
  const auto large = hn::Sub(one, hn::Div(hn::Set(d, 2.0f), hn::Add(exp_of(d, hn::Add(a, a)), one)));
  return hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.625f)), small, hn::CopySign(large, x));
}

// Below 0.93 an odd polynomial, above 1 - exp(q(|x|)) with q = log(erfc).
template <class D>
HWY_INLINE hn::Vec<D> erf_of(D d, hn::Vec<D> x) {
  const auto a = hn::Abs(x);
  const auto x2 = hn::Mul(x, x);
  const auto p = polynomial(d, x2, 0x1.06eba8p-3f, -0x1.812742p-2f, 0x1.ce2e0ap-4f, -0x1.b80e92p-6f,
                            0x1.54c7f8p-8f, -0x1.aa3f4ap-11f, 0x1.5cd4fep-14f);
  const auto small = hn::MulAdd(x, p, x);
  const auto t = hn::Min(a, hn::Set(d, 4.0f));  // erf(4) rounds to 1
  const auto q = polynomial(d, t, -0x1.20ef1cp0f, -0x1.45328ep-1f, -0x1.b32570p-4f, 0x1.85514ep-6f,
                            -0x1.dd6c98p-9f, 0x1.527be6p-12f, -0x1.78dbd6p-17f);
  const auto large = hn::Sub(hn::Set(d, 1.0f), exp_of(d, hn::Mul(t, q)));
  const auto y = hn::IfThenElse(hn::Lt(a, hn::Set(d, 0.93f)), small, hn::CopySign(large, x));
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

// Both at once, for |x| <= 2^30 (the reduction by pi/2 runs in double precision); NaN beyond.
template <class D>
HWY_INLINE void sine_cosine_of(D d, hn::Vec<D> x, hn::Vec<D>& sine, hn::Vec<D>& cosine) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> dh;
  const hn::Rebind<int32_t, decltype(dd)> dhi;
  const hn::RebindToSigned<D> di;
  HWY_ALIGN float parts[HWY_MAX_BYTES / sizeof(float)];
  HWY_ALIGN int32_t quadrants[HWY_MAX_BYTES / sizeof(int32_t)];
  const auto in_domain = hn::Le(hn::Abs(x), hn::Set(d, 0x1p30f));
  hn::Store(hn::IfThenElseZero(in_domain, x), d, parts);
  for (size_t i = 0; i < hn::Lanes(d); i += hn::Lanes(dd)) {
    const auto v = hn::PromoteTo(dd, hn::Load(dh, parts + i));
    const auto k = hn::Round(hn::Mul(v, hn::Set(dd, 0x1.45f306dc9c883p-1)));
    const auto rest = hn::NegMulAdd(k, hn::Set(dd, 0x1.1a62633145c07p-54),
                                    hn::NegMulAdd(k, hn::Set(dd, 0x1.921fb54442d18p0), v));
    hn::Store(hn::DemoteTo(dh, rest), dh, parts + i);
    hn::Store(hn::DemoteTo(dhi, k), dhi, quadrants + i);
  }
  const auto r = hn::Load(d, parts);
  const auto quadrant = hn::Load(di, quadrants);
  const auto r2 = hn::Mul(r, r);
  const auto s = hn::MulAdd(hn::Mul(hn::Mul(r2, r), polynomial(d, r2, -0x1.555556p-3f, 0x1.111108p-7f,
                                                               -0x1.a00f7ep-13f, 0x1.6cd19ep-19f)),
                            hn::Set(d, 1.0f), r);
  const auto c =
      hn::MulAdd(hn::Mul(r2, r2), polynomial(d, r2, 0x1.55554ap-5f, -0x1.6c0c32p-10f, 0x1.99eb32p-16f),
                 hn::NegMulAdd(hn::Set(d, 0.5f), r2, hn::Set(d, 1.0f)));
  const auto one = hn::Set(di, 1), two = hn::Set(di, 2);
  const auto swap = hn::RebindMask(d, hn::Eq(hn::And(quadrant, one), one));
  const auto sine_sign = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(quadrant, two)));
  const auto cosine_sign = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(hn::Add(quadrant, one), two)));
  const auto nan = hn::Set(d, float_of_bits(0x7fc00000));
  sine = hn::IfThenElse(in_domain, hn::Xor(hn::IfThenElse(swap, c, s), sine_sign), nan);
  cosine = hn::IfThenElse(in_domain, hn::Xor(hn::IfThenElse(swap, s, c), cosine_sign), nan);
}

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
