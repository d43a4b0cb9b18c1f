// Vectors of bytes for products of 8-bit integers: a vector holds four consecutive codes of each of its
// columns (rows of a weight), a sum and a float for each column. The instruction sets differ in the width and
// in how four products are added up. Included by kernels/*.cc only.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels/vector_f32.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

#if defined(__AVX512VNNI__)
constexpr int kColumns = 16;
#elif defined(__AVX2__)
constexpr int kColumns = 8;
#else
constexpr int kColumns = 4;
#endif

typedef uint8_t Bytes __attribute__((vector_size(kColumns * 4)));
typedef int16_t Words16 __attribute__((vector_size(kColumns * 4)));
typedef uint16_t UWords16 __attribute__((vector_size(kColumns * 4)));
typedef int32_t Sums __attribute__((vector_size(kColumns * 4)));
typedef float Floats __attribute__((vector_size(kColumns * 4)));
typedef uint8_t ByteOfColumn __attribute__((vector_size(kColumns)));
typedef int8_t SignedOfColumn __attribute__((vector_size(kColumns)));
typedef uint16_t HalfOfColumn __attribute__((vector_size(kColumns * 2)));

HWY_INLINE Floats splat_float(float x) {
#if defined(__AVX512VNNI__)
  return (Floats)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (Floats)_mm256_set1_ps(x);
#elif defined(__SSE2__)
  return (Floats)_mm_set1_ps(x);
#else
  return (Floats)vdupq_n_f32(x);
#endif
}
HWY_INLINE Sums splat_sum(int32_t x) {
#if defined(__AVX512VNNI__)
  return (Sums)_mm512_set1_epi32(x);
#elif defined(__AVX2__)
  return (Sums)_mm256_set1_epi32(x);
#elif defined(__SSE2__)
  return (Sums)_mm_set1_epi32(x);
#else
  return (Sums)vdupq_n_s32(x);
#endif
}
HWY_INLINE Bytes splat_byte(uint8_t x) { return (Bytes)splat_sum(static_cast<int32_t>(x * 0x01010101u)); }

// a * b + c: fused, except on SSE2.
HWY_INLINE Floats fused(Floats a, Floats b, Floats c) {
#if defined(__AVX512VNNI__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__SSE2__)
  return a * b + c;
#else
  return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#endif
}

HWY_INLINE Floats to_floats(Sums x) {
#if defined(__AVX512VNNI__)
  return (Floats)_mm512_cvtepi32_ps((__m512i)x);
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps((__m256i)x);
#else
  return __builtin_convertvector(x, Floats);
#endif
}

// One value of each column; `part` picks the columns.
HWY_INLINE Floats bytes_as_floats(const uint8_t* from, int part) {
#if defined(__AVX512VNNI__)
  return to_floats(
      (Sums)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + kColumns * part))));
#elif defined(__AVX2__)
  return to_floats(
      (Sums)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8 * part))));
#else
  return to_floats(__builtin_convertvector(load<ByteOfColumn>(from + kColumns * part), Sums));
#endif
}
HWY_INLINE Floats bytes_as_floats(const int8_t* from, int part) {
#if defined(__AVX512VNNI__)
  return to_floats(
      (Sums)_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + kColumns * part))));
#elif defined(__AVX2__)
  return to_floats(
      (Sums)_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8 * part))));
#else
  return to_floats(__builtin_convertvector(load<SignedOfColumn>(from + kColumns * part), Sums));
#endif
}
// f16 as floats: exact.
HWY_INLINE Floats halves_as_floats(const uint16_t* from, int part) {
#if defined(__AVX512VNNI__)
  return (Floats)_mm512_cvtph_ps(
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + kColumns * part)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8 * part)));
#elif defined(__SSE2__)
  // Shifted to a float's place, the exponent is 112 too small, which a product mends (subnormals too); what
  // was infinite or NaN gets the largest exponent.
  const Sums bits = __builtin_convertvector(load<HalfOfColumn>(from + kColumns * part), Sums);
  const Sums magnitude = (bits & splat_sum(0x7fff)) << 13;
  const Floats scaled = (Floats)magnitude * splat_float(float_of_bits(0x77800000u));  // 2^112
  const Sums special = (Sums)((bits & splat_sum(0x7c00)) == splat_sum(0x7c00));
  const Sums value = (special & (magnitude | splat_sum(0x7f800000))) | (~special & (Sums)scaled);
  return (Floats)(value | ((bits & splat_sum(0x8000)) << 16));
#else
  return (Floats)vcvt_f32_f16((float16x4_t)vld1_u16(from + kColumns * part));
#endif
}

// Of the 64 bytes at `from`, those of the columns of `part`.
HWY_INLINE Bytes load_codes(const void* from, int part) {
  return load<Bytes>(static_cast<const uint8_t*>(from) + part * kColumns * 4);
}

template <int kBits>
HWY_INLINE Bytes shift_right(Bytes x) {  // bits of neighbouring bytes come in: mask them
#if defined(__AVX512VNNI__)
  return (Bytes)_mm512_srli_epi16((__m512i)x, kBits);
#else
  return (Bytes)((UWords16)x >> kBits);
#endif
}
template <int kBits>
HWY_INLINE Bytes shift_left(Bytes x) {
#if defined(__AVX512VNNI__)
  return (Bytes)_mm512_slli_epi16((__m512i)x, kBits);
#else
  return (Bytes)((UWords16)x << kBits);
#endif
}
// Bit kFrom and the kCount - 1 above it, brought to bit kTo of each byte.
template <int kFrom, int kTo, int kCount>
HWY_INLINE Bytes move_bits(Bytes x) {
  constexpr uint8_t mask = static_cast<uint8_t>(((1 << kCount) - 1) << kTo);
  if constexpr (kFrom > kTo) {
    return shift_right<kFrom - kTo>(x) & splat_byte(mask);
  } else if constexpr (kFrom < kTo) {
    return shift_left<kTo - kFrom>(x) & splat_byte(mask);
  } else {
    return x & splat_byte(mask);
  }
}

// table[code] for codes of four bits.
HWY_INLINE Bytes look_up(const uint8_t (&table)[16], Bytes codes) {
#if defined(__AVX512VNNI__)
  return (Bytes)_mm512_shuffle_epi8(
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), (__m512i)codes);
#elif defined(__AVX2__)
  return (Bytes)_mm256_shuffle_epi8(
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))), (__m256i)codes);
#elif defined(__SSE2__)
  Bytes out = codes;
  for (int i = 0; i < 16; ++i) out[i] = table[codes[i]];
  return out;
#else
  return (Bytes)vqtbl1q_u8(vld1q_u8(table), (uint8x16_t)codes);
#endif
}

// ---- Sums of four products in each column --------------------------------------------------------

// Where codes of 8 bits are multiplied as signed bytes, 128 less, nothing has to be subtracted later.
#if defined(__AVX512VNNI__)
constexpr bool kSignedCodes = false;
#else
constexpr bool kSignedCodes = true;
#endif

// Sums of kSteps times four products in each column: sum + w[0] x[0] + ... codes of at most kBits bits times
// signed bytes, x of a step broadcast from 4 bytes. AVX2 adds pairs of products in 16 bits, as many as fit.
template <int kBits>
struct Dot {
#if defined(__AVX512VNNI__)
  static HWY_INLINE Sums add(Sums sum, Bytes w, int32_t x) {
    return (Sums)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(x));
  }
#elif defined(__AVX2__)
  static HWY_INLINE __m256i pairs(Bytes w, int32_t x) {
    const __m256i four = _mm256_set1_epi32(x);
    if constexpr (kBits < 8) return _mm256_maddubs_epi16((__m256i)w, four);
    const __m256i code = (__m256i)(w ^ splat_byte(0x80));
    return _mm256_maddubs_epi16(_mm256_abs_epi8(code), _mm256_sign_epi8(four, code));
  }
  static HWY_INLINE Sums add_pairs(Sums sum, __m256i pairs) {
    return sum + (Sums)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  static HWY_INLINE Sums add(Sums sum, Bytes w, int32_t x) { return add_pairs(sum, pairs(w, x)); }
#elif defined(__ARM_FEATURE_DOTPROD)
  static HWY_INLINE Sums add(Sums sum, Bytes w, int32_t x) {
    const Bytes code = kBits < 8 ? w : w ^ splat_byte(0x80);
    return (Sums)vdotq_s32((int32x4_t)sum, (int8x16_t)code, vreinterpretq_s8_s32(vdupq_n_s32(x)));
  }
#elif defined(__SSE2__)
  static HWY_INLINE Sums add(Sums sum, Bytes w, int32_t x) {
    const __m128i code = (__m128i)(kBits < 8 ? w : w ^ splat_byte(0x80)), zero = _mm_setzero_si128();
    const __m128i four = _mm_set1_epi32(x);
    const auto widen = [&](__m128i low, __m128i high) {
      return _mm_srai_epi16(_mm_unpacklo_epi8(low, high), 8);
    };
    const __m128i wide_x = widen(zero, four);
    const __m128i low = _mm_madd_epi16(_mm_srai_epi16(_mm_unpacklo_epi8(zero, code), 8), wide_x);
    const __m128i high = _mm_madd_epi16(_mm_srai_epi16(_mm_unpackhi_epi8(zero, code), 8), wide_x);
    // Two sums of pairs for each column, side by side.
    const __m128 even = _mm_shuffle_ps((__m128)low, (__m128)high, 0x88);
    const __m128 odd = _mm_shuffle_ps((__m128)low, (__m128)high, 0xdd);
    return sum + (Sums)even + (Sums)odd;
  }
#else
  static HWY_INLINE Sums add(Sums sum, Bytes w, int32_t x) {
    const int8x16_t code = (int8x16_t)(kBits < 8 ? w : w ^ splat_byte(0x80));
    const int8x8_t four = vreinterpret_s8_s32(vdup_n_s32(x));
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(code), four));
    const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(code), four));
    const int32x4_t both = vcombine_s32(vpadd_s32(vget_low_s32(low), vget_high_s32(low)),
                                        vpadd_s32(vget_low_s32(high), vget_high_s32(high)));
    return sum + (Sums)both;
  }
#endif
};

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
