// Plain vectors of the widest native size as compiler vector types, with the few operations that differ by
// instruction set. For kernels that must be fast on SSE2 too, where Highway 1.0.3 has only emulated vectors.
// Included by kernels/*.cc only.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace vertebra::VERTEBRA_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float VecF __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecH __attribute__((vector_size(kLanes * 2)));

template <class V>
HWY_INLINE V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <class V>
HWY_INLINE void store(V v, void* to) {
  __builtin_memcpy(to, &v, sizeof v);
}

HWY_INLINE VecF splat(float x) {
#if defined(__AVX512F__)
  return (VecF)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (VecF)_mm256_set1_ps(x);
#elif defined(__SSE2__)
  return (VecF)_mm_set1_ps(x);
#else
  return (VecF)vdupq_n_f32(x);
#endif
}

HWY_INLINE VecU splat_u32(uint32_t x) { return (VecU)splat(float_of_bits(x)); }

// a * b + c: fused, except on SSE2.
HWY_INLINE VecF multiply_add(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
  return (VecF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__SSE2__)
  return a * b + c;
#else
  return (VecF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#endif
}

// Calls body(Index<0>{}), ... body(Index<count - 1>{}), inlined: arrays indexed by it become registers, which
// a loop under an unroll pragma does not reach in GCC 12. The lambda is marked VERTEBRA_INLINE_LAMBDA.
#define VERTEBRA_INLINE_LAMBDA __attribute__((always_inline))
template <int kValue>
struct Index {
  HWY_INLINE constexpr operator int() const { return kValue; }  // NOLINT: implicit on purpose
};
template <int kCount, int kFirst = 0, class Body>
HWY_INLINE void unroll(Body&& body) {
  if constexpr (kFirst < kCount) {
    body(Index<kFirst>{});
    unroll<kCount, kFirst + 1>(body);
  }
}

// Keeps a value in a register at this point: GCC 12 otherwise spills accumulators or repeats a broadcast as a
// memory operand of each use.
HWY_INLINE void pin(VecF& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#else
  asm("" : "+w"(v));
#endif
}

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define VERTEBRA_BF16_DOT 1
// c + a.low * b.low + a.high * b.high in every 32-bit lane.
HWY_INLINE VecF bf16_pair_dot(VecF c, VecF a, VecF b) {
#if defined(__AVX512BF16__)
  return (VecF)_mm512_dpbf16_ps((__m512)c, (__m512bh)(__m512)a, (__m512bh)(__m512)b);
#else
  return (VecF)vbfdotq_f32((float32x4_t)c, (bfloat16x8_t)(float32x4_t)a, (bfloat16x8_t)(float32x4_t)b);
#endif
}
#endif

// The two floats of each pair of bf16.
HWY_INLINE VecF low_bf16(VecF pairs) { return (VecF)((VecU)pairs << 16); }
HWY_INLINE VecF high_bf16(VecF pairs) { return (VecF)((VecU)pairs & splat_u32(0xffff0000u)); }

HWY_INLINE VecF widen_bf16(VecH half) { return (VecF)(__builtin_convertvector(half, VecU) << 16); }
// Round to nearest even; NaN stays NaN.
HWY_INLINE VecH round_to_bf16(VecF value) {
  const VecU bits = (VecU)value;
  const VecU high = bits >> 16;
  const VecU rounded = (bits + splat_u32(0x7fffu) + (high & splat_u32(1u))) >> 16;
  const VecI nan = (value != value);
  const VecU chosen = ((VecU)nan & (high | splat_u32(0x40u))) | (~(VecU)nan & rounded);
  return __builtin_convertvector(chosen, VecH);
}

// Transposes kLanes x kLanes 32-bit words in place.
#if defined(__AVX512F__)
HWY_INLINE void transpose(VecF (&rows)[16]) {
  __m512 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps((__m512)rows[i], (__m512)rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps((__m512)rows[i], (__m512)rows[i + 1]);
  }
  __m512 u[16];  // u[4g + c]: columns c, c+4, c+8, c+12 (one per 128-bit lane) of rows 4g .. 4g+3
#pragma GCC unroll 16
  for (int g = 0; g < 16; g += 4) {
    u[g] = (__m512)_mm512_unpacklo_pd((__m512d)t[g], (__m512d)t[g + 2]);
    u[g + 1] = (__m512)_mm512_unpackhi_pd((__m512d)t[g], (__m512d)t[g + 2]);
    u[g + 2] = (__m512)_mm512_unpacklo_pd((__m512d)t[g + 1], (__m512d)t[g + 3]);
    u[g + 3] = (__m512)_mm512_unpackhi_pd((__m512d)t[g + 1], (__m512d)t[g + 3]);
  }
#pragma GCC unroll 16
  for (int c = 0; c < 4; ++c) {
    const __m512 low01 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x44);
    const __m512 high01 = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xee);
    const __m512 low23 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x44);
    const __m512 high23 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xee);
    rows[c] = (VecF)_mm512_shuffle_f32x4(low01, low23, 0x88);
    rows[c + 4] = (VecF)_mm512_shuffle_f32x4(low01, low23, 0xdd);
    rows[c + 8] = (VecF)_mm512_shuffle_f32x4(high01, high23, 0x88);
    rows[c + 12] = (VecF)_mm512_shuffle_f32x4(high01, high23, 0xdd);
  }
}
#elif defined(__AVX2__)
HWY_INLINE void transpose(VecF (&rows)[8]) {
  __m256 u[8];
#pragma GCC unroll 8
  for (int g = 0; g < 8; g += 4) {
    const __m256 t0 = _mm256_unpacklo_ps((__m256)rows[g], (__m256)rows[g + 1]);
    const __m256 t1 = _mm256_unpackhi_ps((__m256)rows[g], (__m256)rows[g + 1]);
    const __m256 t2 = _mm256_unpacklo_ps((__m256)rows[g + 2], (__m256)rows[g + 3]);
    const __m256 t3 = _mm256_unpackhi_ps((__m256)rows[g + 2], (__m256)rows[g + 3]);
    u[g] = _mm256_shuffle_ps(t0, t2, 0x44);
    u[g + 1] = _mm256_shuffle_ps(t0, t2, 0xee);
    u[g + 2] = _mm256_shuffle_ps(t1, t3, 0x44);
    u[g + 3] = _mm256_shuffle_ps(t1, t3, 0xee);
  }
#pragma GCC unroll 8
  for (int c = 0; c < 4; ++c) {
    rows[c] = (VecF)_mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
    rows[c + 4] = (VecF)_mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
  }
}
#else
HWY_INLINE void transpose(VecF (&rows)[4]) {
  const VecF t0 = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  const VecF t1 = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  const VecF t2 = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  const VecF t3 = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  rows[0] = __builtin_shufflevector(t0, t2, 0, 1, 4, 5);
  rows[1] = __builtin_shufflevector(t0, t2, 2, 3, 6, 7);
  rows[2] = __builtin_shufflevector(t1, t3, 0, 1, 4, 5);
  rows[3] = __builtin_shufflevector(t1, t3, 2, 3, 6, 7);
}
#endif

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
