// What kernel files build on: Highway as static vector types (namespace hn), and what it lacks or does
// wrongly in version 1.0.3: bf16 rounding to nearest even (its DemoteTo truncates). Included by kernels/*.cc
// only. Traps: the baseline x86 build has no SSE2 vectors but emulated 128-bit ones (plain loops the compiler
// turns into SSE2), so raw intrinsics stand under #if on __AVX512F__, __AVX2__, __ARM_NEON; MulAdd is fused
// on AVX2 and up only.
#pragma once

#include <hwy/highway.h>

#include <cstdint>

#if !defined(VERTEBRA_ISA)
#error \
    "kernel files are compiled per instruction set, with VERTEBRA_ISA defined: see src/backend/cpu/CMakeLists.txt"
#endif

namespace vertebra::VERTEBRA_ISA {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

template <class T>
HWY_INLINE constexpr T min_of(T a, T b) {
  return b < a ? b : a;
}
template <class T>
HWY_INLINE constexpr T max_of(T a, T b) {
  return a < b ? b : a;
}

[[maybe_unused]] HWY_INLINE float float_of_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
[[maybe_unused]] HWY_INLINE uint32_t bits_of_float(float value) {
  return __builtin_bit_cast(uint32_t, value);
}

[[maybe_unused]] HWY_INLINE float widen_bf16(uint16_t bits) {
  return float_of_bits(static_cast<uint32_t>(bits) << 16);
}
// Round to nearest even; NaN stays NaN; subnormals kept. The same bits as tensor/dtype.h's float_to_bf16.
[[maybe_unused]] HWY_INLINE uint16_t round_to_bf16(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

[[maybe_unused]] HWY_INLINE float widen_f16(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // The exponent is 112 too small: a product makes it right, of subnormals too.
  const float value = float_of_bits(magnitude << 13) * 0x1p112f;
  return float_of_bits(sign | bits_of_float(value));
}
// Round to nearest even; NaN stays NaN; subnormals kept. The same bits as tensor/dtype.h's float_to_f16.
[[maybe_unused]] HWY_INLINE uint16_t round_to_f16(float value) {
  const uint32_t bits = bits_of_float(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t out;
  if (magnitude > 0x7f800000u) {
    out = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
    out = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: multiples of 2^-24, which adding 2^-1 rounds to
    out = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    out = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  }
  return static_cast<uint16_t>(sign | out);
}

// Half a vector of bf16 bits -> a vector of floats, and back (as above).
template <class DF, class VH>
HWY_INLINE hn::Vec<DF> widen_bf16(DF df, VH half) {
  const hn::RebindToUnsigned<DF> du;
  return hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, half)));
}
template <class DF>
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, DF>> round_to_bf16(DF, hn::Vec<DF> value) {
  const hn::RebindToUnsigned<DF> du;
  const hn::Rebind<uint16_t, DF> dh;
  const auto bits = hn::BitCast(du, value);
  const auto high = hn::ShiftRight<16>(bits);
  const auto even = hn::And(high, hn::Set(du, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(bits, hn::Set(du, 0x7fff)), even));
  const auto nan = hn::RebindMask(du, hn::IsNaN(value));
  return hn::TruncateTo(dh, hn::IfThenElse(nan, hn::Or(high, hn::Set(du, 0x40)), rounded));
}

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
