// Packing of one panel of A or B; included by gemm.cc only.
#pragma once

#include "backend/cpu/kernels/gemm.h"
#include "backend/cpu/kernels/vector_f32.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

HWY_INLINE VecF load_first(const float* from, int64_t count) {
#if defined(__AVX512F__)
  return (VecF)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#else
  VecF v = {};
  __builtin_memcpy(&v, from, static_cast<size_t>(count) * 4);
  return v;
#endif
}

HWY_INLINE VecH load_first(const uint16_t* from, int64_t count) {
#if defined(__AVX512F__)
  return (VecH)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), from);
#else
  VecH v = {};
  __builtin_memcpy(&v, from, static_cast<size_t>(count) * 2);
  return v;
#endif
}

// Packing reads many short rows at once, more streams than hardware prefetchers follow: what comes next is
// asked for by hand. Into the second-level cache: rows a multiple of 4 KiB apart share one set of the first,
// which would lose most lines before they are read (a 64 MB matrix: 8 instead of 15 GB/s).
HWY_INLINE void fetch_ahead(const void* at) { __builtin_prefetch(at, 0, 2); }

// kLanes pointers a fixed distance apart, made from every fourth: left to itself GCC 12 keeps all sixteen and
// spills them (2 to 3 times slower).
struct SpacedRows {
  char* base;
  int64_t stride;
  // Calls body(row, pointer) in ascending order.
  template <class Body>
  HWY_INLINE void each(Body&& body) const {
    char* at = base;
    const int64_t once = stride, twice = 2 * stride, thrice = 3 * stride, four = 4 * stride;
    unroll<kLanes / 4>([&](auto g) VERTEBRA_INLINE_LAMBDA {
      body(Index<g * 4>{}, at);
      body(Index<g * 4 + 1>{}, at + once);
      body(Index<g * 4 + 2>{}, at + twice);
      body(Index<g * 4 + 3>{}, at + thrice);
      at += four;
      asm("" : "+r"(at));
    });
  }
};

// kLanes words of each of `valid` slots become kLanes steps of kLanes slots.
template <bool kWiden, bool kAll>
HWY_INLINE void pack_square(const char* from, int64_t slot_bytes, int64_t valid, int64_t ahead_bytes,
                            float* to, int64_t width) {
  VecF rows[kLanes];
  const SpacedRows source = {const_cast<char*>(from), slot_bytes};
  source.each([&](auto r, const char* at) VERTEBRA_INLINE_LAMBDA {
    if (kAll || r < valid) {
      fetch_ahead(at + ahead_bytes);
      rows[r] = load<VecF>(at);
    } else {
      rows[r] = VecF{};
    }
  });
  transpose(rows);
  const SpacedRows target = {reinterpret_cast<char*>(to), (kWiden ? 2 : 1) * width * 4};
  target.each([&](auto r, char* at) VERTEBRA_INLINE_LAMBDA {
    if constexpr (kWiden) {
      store(low_bf16(rows[r]), at);
      store(high_bf16(rows[r]), at + width * 4);
    } else {
      store(rows[r], at);
    }
  });
}

// The last, fewer than kLanes words.
template <bool kWiden>
void pack_rest(const char* from, int64_t slot_bytes, int64_t valid, int64_t words, float* to, int64_t width) {
  VecF rows[kLanes];
  for (int r = 0; r < kLanes; ++r) {
    rows[r] = r < valid ? load_first(reinterpret_cast<const float*>(from + r * slot_bytes), words) : VecF{};
  }
  transpose(rows);
  for (int r = 0; r < words; ++r) {
    if constexpr (kWiden) {
      store(low_bf16(rows[r]), to + 2 * r * width);
      store(high_bf16(rows[r]), to + (2 * r + 1) * width);
    } else {
      store(rows[r], to + r * width);
    }
  }
}

// k contiguous, fp32 panel from fp32, or pairs from bf16: the same transposition of 32-bit words. kWiden
// splits each word into its two floats, one step each.
template <bool kWiden>
void pack_words(const char* source, int64_t slot_bytes, int64_t slots, int64_t words, int64_t width,
                int64_t ahead_bytes, float* panel) {
  const int64_t step = kWiden ? 2 * width : width, whole = words / kLanes * kLanes;
  for (int64_t group = 0; group < width; group += kLanes) {
    const int64_t valid = max_of<int64_t>(0, min_of<int64_t>(kLanes, slots - group));
    const char* first = source + group * slot_bytes;
    float* to = panel + group;
    for (int64_t word = 0; word < whole; word += kLanes) {
      if (valid == kLanes) {
        pack_square<kWiden, true>(first + word * 4, slot_bytes, valid, ahead_bytes, to + word * step, width);
      } else {
        pack_square<kWiden, false>(first + word * 4, slot_bytes, valid, ahead_bytes, to + word * step, width);
      }
    }
    if (whole < words) {
      pack_rest<kWiden>(first + whole * 4, slot_bytes, valid, words - whole, to + whole * step, width);
    }
  }
}

// The odd last k of a bf16 source, k contiguous.
inline __attribute__((always_inline)) void pack_odd_word(const uint16_t* last, int64_t slot_stride,
                                                         int64_t slots, int64_t width, bool widen,
                                                         float* to) {
  for (int64_t s = 0; s < width; ++s) {
    const uint32_t bits = s < slots ? last[s * slot_stride] : 0;
    to[s] = float_of_bits(widen ? bits << 16 : bits);
    if (widen) to[s + width] = 0;
  }
}

// Rows of k, fp32 to fp32.
void pack_rows_f32(const float* source, int64_t stride, int64_t slots, int64_t depth, int64_t width,
                   int64_t ahead, float* panel) {
  const int64_t full = slots / kLanes * kLanes;
  for (int64_t k = 0; k < depth; ++k) {
    const float* from = source + k * stride;
    float* to = panel + k * width;
    for (int64_t s = 0; s < slots; s += 16) fetch_ahead(from + ahead + s);
    for (int64_t s = 0; s < full; s += kLanes) store(load<VecF>(from + s), to + s);
    for (int64_t s = full; s < width; s += kLanes) {
      store(s < slots ? load_first(from + s, slots - s) : VecF{}, to + s);
    }
  }
}

// Rows of k, bf16 to pairs or to floats, two k at a time.
template <bool kWiden>
void pack_rows_bf16(const uint16_t* source, int64_t stride, int64_t slots, int64_t depth, int64_t width,
                    int64_t ahead, float* panel) {
  for (int64_t k = 0; k < depth; k += 2) {
    const uint16_t* even = source + k * stride;
    float* to = panel + (kWiden ? k : k / 2) * width;
    for (int64_t s = 0; s < slots; s += 32) {
      fetch_ahead(even + ahead + s);
      fetch_ahead(even + stride + ahead + s);
    }
    for (int64_t s = 0; s < width; s += kLanes) {
      const int64_t count = min_of<int64_t>(kLanes, slots - s);
      VecH first = {};
      VecH second = {};
      if (count == kLanes) {
        first = load<VecH>(even + s);
        if (k + 1 < depth) second = load<VecH>(even + stride + s);
      } else if (count > 0) {
        first = load_first(even + s, count);
        if (k + 1 < depth) second = load_first(even + stride + s, count);
      }
      if constexpr (kWiden) {
        store(widen_bf16(first), to + s);
        store(widen_bf16(second), to + width + s);
      } else {
        store(__builtin_convertvector(first, VecU) | __builtin_convertvector(second, VecU) << 16, to + s);
      }
    }
  }
}

void pack(const GemmPackJob& job) {
  float* panel = static_cast<float*>(job.panel);
  if (!job.source_is_bf16) {
    const auto* source = static_cast<const float*>(job.source);
    if (job.k_contiguous) {
      pack_words<false>(reinterpret_cast<const char*>(source), job.stride * 4, job.slots, job.depth,
                        job.width, job.ahead * 4, panel);
    } else {
      pack_rows_f32(source, job.stride, job.slots, job.depth, job.width, job.ahead, panel);
    }
    if (job.pad_even && job.depth % 2 != 0) {
      for (int64_t s = 0; s < job.width; ++s) panel[job.depth * job.width + s] = 0;
    }
    return;
  }
  const auto* source = static_cast<const uint16_t*>(job.source);
  if (!job.k_contiguous) {
    if (job.widen) {
      pack_rows_bf16<true>(source, job.stride, job.slots, job.depth, job.width, job.ahead, panel);
    } else {
      pack_rows_bf16<false>(source, job.stride, job.slots, job.depth, job.width, job.ahead, panel);
    }
    return;
  }
  const char* bytes = reinterpret_cast<const char*>(source);
  const int64_t words = job.depth / 2;
  if (job.widen) {
    pack_words<true>(bytes, job.stride * 2, job.slots, words, job.width, job.ahead * 2, panel);
  } else {
    pack_words<false>(bytes, job.stride * 2, job.slots, words, job.width, job.ahead * 2, panel);
  }
  if (job.depth % 2 != 0) {
    pack_odd_word(source + job.depth - 1, job.stride, job.slots, job.width, job.widen,
                  panel + words * job.width * (job.widen ? 2 : 1));
  }
}

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
