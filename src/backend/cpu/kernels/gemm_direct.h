// A block of C from a B as given, for a few rows of A: every element of B is used once for all rows, so
// packing it would cost more than the product. Included by gemm.cc only.
//
// Sums have the order of the packed tiles: one lane an output element, ascending k.
#pragma once

#include "backend/cpu/kernels/gemm.h"
#include "backend/cpu/kernels/gemm_finish.h"
#include "backend/cpu/kernels/gemm_pack.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

// Rows that share one pass over B's elements in registers: a sum each, beside kLanes words of B.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kDirectGroup = 8;
#else
constexpr int kDirectGroup = 4;
#endif
constexpr int64_t kDirectRows = 16, kDirectSums = 8192;
// More rows of A are packed: side by side they need one pointer and no more lines of the first-level cache
// than words (eight rows of 16 KB share one set: half the speed).
constexpr int kDirectARows = 2;
// B[N,K] is read this far ahead.
constexpr int64_t kDirectAheadBytes = 1024;
// Steps of B[K,N] taken at once. A 64 MB matrix of rows of 16 KB is read at the memory's full rate with 8, at
// half of it with 32.
constexpr int64_t kDirectSteps = 8;

HWY_INLINE int64_t steps_of(const GemmBlock& g) {
  return g.form == GemmForm::kF32 ? g.depth : (g.depth + 1) / 2;
}

// Rows of A from row i on: as given, or in a packed tile.
template <GemmForm kForm, bool kPacked>
struct DirectA {
  static constexpr int64_t kWords = kForm == GemmForm::kF32ByBf16 ? 2 : 1;  // of a step
  static constexpr int64_t kWord = kPacked ? 4 * kTileWidth : 4, kStep = kWords * kWord;
  const char* at;
  int64_t stride;

  DirectA(const GemmBlock& g, int64_t i) {
    if constexpr (kPacked) {
      at = static_cast<const char*>(g.a) + i / g.tile_rows * g.a_stride * 4 + i % g.tile_rows * 4;
    } else {
      stride = g.a_stride * (kForm == GemmForm::kBf16Pairs ? 2 : 4);
      at = static_cast<const char*>(g.a) + i * stride;
    }
  }
  HWY_INLINE VecF word(int row, int64_t offset) const {
    float x;
    __builtin_memcpy(&x, at + offset + (kPacked ? row * 4 : row * stride), 4);
    return splat(x);
  }
};

// acc[m][v] += the step at `offset` of A's row m times b[v].
template <GemmForm kForm, bool kPacked, int kRows, int kVectors>
HWY_INLINE void direct_step(VecF (&acc)[kRows][kVectors], const DirectA<kForm, kPacked>& a, int64_t offset,
                            const VecF (&b)[kVectors]) {
  unroll<kForm == GemmForm::kF32ByBf16 ? 2 : 1>([&](auto half) VERTEBRA_INLINE_LAMBDA {
    VecF bv[kVectors];
    unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA {
      if constexpr (kForm == GemmForm::kF32ByBf16) {
        bv[v] = half == 0 ? low_bf16(b[v]) : high_bf16(b[v]);
      } else {
        bv[v] = b[v];
      }
    });
    unroll<kRows>([&](auto m) VERTEBRA_INLINE_LAMBDA {
      const VecF x = a.word(m, offset + half * a.kWord);
      unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA {
#if defined(VERTEBRA_BF16_DOT)
        if constexpr (kForm == GemmForm::kBf16Pairs) {
          acc[m][v] = bf16_pair_dot(acc[m][v], x, bv[v]);
        } else {
          acc[m][v] = multiply_add(x, bv[v], acc[m][v]);
        }
#else
        acc[m][v] = multiply_add(x, bv[v], acc[m][v]);
#endif
        pin(acc[m][v]);
      });
    });
  });
}

// What follows a row's sums in columns [j, j + columns), readable up to a whole vector.
void finish_direct(const GemmBlock& g, int64_t row, int64_t j, int64_t columns, const float* sums) {
  if (g.finish != nullptr) {
    finish_row(*g.finish, row, j, columns, sums);
    return;
  }
  float* out = g.partial_out + row * g.partial_out_stride + j;
  if (columns == kLanes) {
    store(load<VecF>(sums), out);
  } else {
    __builtin_memcpy(out, sums, static_cast<size_t>(columns) * 4);
  }
}

// sums[m] = partial[m] + sums[m] for a strip of kLanes columns.
template <int kRows>
HWY_INLINE void add_partial(const GemmBlock& g, int64_t row, int64_t j, int64_t columns, float* sums) {
  for (int m = 0; m < kRows; ++m) {
    const float* in = g.partial_in + (row + m) * g.partial_in_stride + j;
    for (int64_t c = 0; c < columns; ++c) sums[m * kLanes + c] = in[c] + sums[m * kLanes + c];
  }
}

// kLanes words of `valid` columns of B[N,K], transposed: words[s] is step s of every column.
HWY_INLINE void column_words(const char* b, int64_t stride, int64_t valid, int64_t ahead,
                             VecF (&words)[kLanes]) {
  const SpacedRows rows = {const_cast<char*>(b), stride};
  rows.each([&](auto r, const char* at) VERTEBRA_INLINE_LAMBDA {
    if (r < valid) {
      fetch_ahead(at + ahead);
      words[r] = load<VecF>(at);
    } else {
      words[r] = VecF{};
    }
  });
  transpose(words);
}

// The same for the last `count` words of a row.
HWY_INLINE void last_column_words(const char* b, int64_t stride, int64_t valid, int64_t count,
                                  VecF (&words)[kLanes]) {
  for (int r = 0; r < kLanes; ++r) {
    words[r] = r < valid ? load_first(reinterpret_cast<const float*>(b + r * stride), count) : VecF{};
  }
  transpose(words);
}

// One group of rows from `row` on, kLanes columns of B[N,K] from j on, all of K: squares of B are transposed
// in registers and used there. The rows of B are read from end to end, because the prefetchers of the
// second-level cache follow no more than kLanes of them.
template <GemmForm kForm, bool kPacked, int kRows>
void direct_columns(const GemmBlock& g, int64_t row, int64_t j) {
  constexpr int64_t kSize = kForm == GemmForm::kF32 ? 4 : 2;
  // Blocks of K are counted in steps of a packed A: of one k in this form.
  constexpr int64_t kBlock = kForm == GemmForm::kF32ByBf16 ? kBlockSteps / 2 : kBlockSteps;
  const int64_t steps = steps_of(g), row_bytes = g.depth * kSize;
  const int64_t valid = min_of<int64_t>(kLanes, g.cols - j), stride = g.b_stride * kSize;
  DirectA<kForm, kPacked> a(g, row);
  const char* b = static_cast<const char*>(g.b) + j * stride;
  alignas(64) float sums[kRows * kLanes];
  int64_t step = 0;
  do {
    const int64_t end = min_of<int64_t>(step + kBlock, steps);
    VecF acc[kRows][1];
    unroll<kRows>([&](auto m) VERTEBRA_INLINE_LAMBDA { acc[m][0] = VecF{}; });
    const bool first = step == 0;
    for (; step + kLanes <= end; step += kLanes) {
      // Behind the end of the rows lie the next kLanes.
      const int64_t ahead = step * 4 + kDirectAheadBytes < row_bytes
                                ? kDirectAheadBytes
                                : kDirectAheadBytes - row_bytes + kLanes * stride;
      VecF words[kLanes];
      column_words(b + step * 4, stride, valid, ahead, words);
      unroll<kLanes>([&](auto s) VERTEBRA_INLINE_LAMBDA {
        const VecF one[1] = {words[s]};
        direct_step(acc, a, s * a.kStep, one);
      });
      a.at += kLanes * a.kStep;
    }
    if (step < end) {
      VecF words[kLanes];
      last_column_words(b + step * 4, stride, valid, end - step, words);
      unroll<kLanes>([&](auto s) VERTEBRA_INLINE_LAMBDA {
        if (step + s >= end) return;
        const VecF one[1] = {words[s]};
        direct_step(acc, a, s * a.kStep, one);
      });
      step = end;
    }
    const VecF alpha = splat(g.alpha);
    unroll<kRows>([&](auto m) VERTEBRA_INLINE_LAMBDA {
      const VecF x = acc[m][0] * alpha;
      store(first ? x : load<VecF>(sums + m * kLanes) + x, sums + m * kLanes);
    });
    if (first && g.partial_in != nullptr) add_partial<kRows>(g, row, j, valid, sums);
  } while (step < steps);
  for (int m = 0; m < kRows; ++m) finish_direct(g, row + m, j, valid, sums + m * kLanes);
}

// The words of one step of B[K,N] from `at` on, `count` columns.
template <GemmForm kForm, bool kWhole>
HWY_INLINE VecF row_words(const char* at, int64_t stride, int64_t count) {
  if constexpr (kForm == GemmForm::kF32) {
    return kWhole ? load<VecF>(at) : load_first(reinterpret_cast<const float*>(at), count);
  } else {
    const auto half = [&](const char* from) VERTEBRA_INLINE_LAMBDA {
      return kWhole ? load<VecH>(from) : load_first(reinterpret_cast<const uint16_t*>(from), count);
    };
    return (VecF)(__builtin_convertvector(half(at), VecU) | __builtin_convertvector(half(at + stride), VecU)
                                                                << 16);
  }
}

// One group of rows from `row` on, kVectors vectors of columns of B[K,N] from j on, `steps` steps from
// `first` on: adds to sums, rows `sum_stride` apart.
template <GemmForm kForm, bool kPacked, int kRows, int kVectors, bool kWhole>
void direct_rows(const GemmBlock& g, int64_t row, int64_t j, int64_t first, int64_t steps, float* sums,
                 int64_t sum_stride) {
  constexpr int64_t kSize = kForm == GemmForm::kF32 ? 4 : 2;
  const int64_t stride = g.b_stride * kSize, step_bytes = kForm == GemmForm::kF32 ? stride : 2 * stride;
  DirectA<kForm, kPacked> a(g, row);
  a.at += first * a.kStep;
  const char* b = static_cast<const char*>(g.b) + first * step_bytes + j * kSize;
  VecF acc[kRows][kVectors];
  unroll<kRows>([&](auto m) VERTEBRA_INLINE_LAMBDA {
    unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA {
      acc[m][v] = first > 0 ? load<VecF>(sums + m * sum_stride + v * kLanes) : VecF{};
    });
  });
  for (int64_t s = 0; s < steps; ++s, a.at += a.kStep, b += step_bytes) {
    const char* next = b + kDirectSteps * step_bytes;
    __builtin_prefetch(next, 0, 2);
    __builtin_prefetch(next + (kForm == GemmForm::kF32 ? kVectors * kLanes * 4 - 1 : stride), 0, 2);
    VecF words[kVectors];
    unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA {
      words[v] = row_words<kForm, kWhole>(b + v * kLanes * kSize, stride, g.cols - j);
    });
    direct_step(acc, a, 0, words);
  }
  unroll<kRows>([&](auto m) VERTEBRA_INLINE_LAMBDA {
    unroll<kVectors>([&](auto v)
                         VERTEBRA_INLINE_LAMBDA { store(acc[m][v], sums + m * sum_stride + v * kLanes); });
  });
}

// [A packed][rows - 1]
struct DirectTable {
  void (*columns[2][kDirectGroup])(const GemmBlock&, int64_t, int64_t);
  // Two whole vectors, one, or part of one.
  void (*rows[2][kDirectGroup][3])(const GemmBlock&, int64_t, int64_t, int64_t, int64_t, float*, int64_t);
};

template <GemmForm kForm, bool kPacked, int kRows>
constexpr void fill_direct(DirectTable& table) {
  table.columns[kPacked][kRows - 1] = direct_columns<kForm, kPacked, kRows>;
  table.rows[kPacked][kRows - 1][0] = direct_rows<kForm, kPacked, kRows, 2, true>;
  table.rows[kPacked][kRows - 1][1] = direct_rows<kForm, kPacked, kRows, 1, true>;
  table.rows[kPacked][kRows - 1][2] = direct_rows<kForm, kPacked, kRows, 1, false>;
  if constexpr (kRows > 1) fill_direct<kForm, kPacked, kRows - 1>(table);
}

template <GemmForm kForm>
constexpr DirectTable make_direct() {
  DirectTable table = {};
  fill_direct<kForm, false, kDirectARows>(table);
  fill_direct<kForm, true, kDirectGroup>(table);
  return table;
}

constexpr DirectTable kDirectF32 = make_direct<GemmForm::kF32>();
constexpr DirectTable kDirectF32ByBf16 = make_direct<GemmForm::kF32ByBf16>();
#if defined(VERTEBRA_BF16_DOT)
constexpr DirectTable kDirectBf16 = make_direct<GemmForm::kBf16Pairs>();
#endif

HWY_INLINE const DirectTable& direct_of(GemmForm form) {
#if defined(VERTEBRA_BF16_DOT)
  if (form == GemmForm::kBf16Pairs) return kDirectBf16;
#endif
  return form == GemmForm::kF32 ? kDirectF32 : kDirectF32ByBf16;
}

// Calls body(first row, rows) for groups of rows, none of them in two tiles.
template <class Body>
HWY_INLINE void for_direct_groups(const GemmBlock& g, Body&& body) {
  for (int64_t tile = 0; tile < g.rows; tile += g.tile_rows) {
    const int64_t end = min_of(tile + g.tile_rows, g.rows);
    for (int64_t i = tile; i < end; i += kDirectGroup) body(i, min_of<int64_t>(kDirectGroup, end - i));
  }
}

// B[K,N]: a few steps of all columns at a time, because memory gives long pieces of few rows fastest; the
// sums wait in the first-level cache.
void direct_rows_block(const GemmBlock& g, const DirectTable& table) {
  const int64_t steps = steps_of(g);
  const int64_t sum_stride = (g.cols + kLanes - 1) / kLanes * kLanes;
  alignas(64) float sums[kDirectSums];
  for (int64_t first = 0; first == 0 || first < steps; first += kDirectSteps) {
    const int64_t count = min_of(kDirectSteps, steps - first);
    for (int64_t j = 0; j < g.cols;) {
      const int64_t left = g.cols - j;
      const int kind = left >= 2 * kLanes ? 0 : left >= kLanes ? 1 : 2;
      for_direct_groups(g, [&](int64_t i, int64_t rows) {
        table.rows[!g.a_direct][rows - 1][kind](g, i, j, first, count, sums + i * sum_stride + j, sum_stride);
      });
      j += kind == 0 ? 2 * kLanes : kLanes;
    }
  }
  for (int64_t i = 0; i < g.rows; ++i) {
    float* row = sums + i * sum_stride;
    for (int64_t c = 0; c < g.cols; ++c) row[c] = row[c] * g.alpha;
    if (g.partial_in != nullptr) {
      const float* in = g.partial_in + i * g.partial_in_stride;
      for (int64_t c = 0; c < g.cols; ++c) row[c] = in[c] + row[c];
    }
    finish_direct(g, i, 0, g.cols, row);
  }
}

void direct_block(const GemmBlock& g) {
  const DirectTable& table = direct_of(g.form);
  if (g.b_layout == GemmB::kNContiguous) {
    direct_rows_block(g, table);
    return;
  }
  for (int64_t j = 0; j < g.cols; j += kLanes) {
    // A second group finds the rows of B in a cache.
    for_direct_groups(g, [&](int64_t i, int64_t rows) { table.columns[!g.a_direct][rows - 1](g, i, j); });
  }
}

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
