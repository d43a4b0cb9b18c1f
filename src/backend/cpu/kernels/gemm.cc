// Register tiles of matrix multiplication: rows x columns of C stay in registers over one block of K.
#include "backend/cpu/kernels/gemm.h"

#include "backend/cpu/kernels/gemm_finish.h"
#include "backend/cpu/kernels/gemm_pack.h"
#include "backend/cpu/kernels/vector_f32.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

// kTileRows x kTileVectors accumulators, one B vector each and a broadcast fit the register file.
#if defined(__AVX512F__)
constexpr int kTileRows = 14, kTileVectors = 2;
#elif defined(__AVX2__)
constexpr int kTileRows = 6, kTileVectors = 2;
#elif defined(__aarch64__)
constexpr int kTileRows = 6, kTileVectors = 4;
#else
constexpr int kTileRows = 4, kTileVectors = 2;
#endif
constexpr int kTileWidth = (kTileRows + kLanes - 1) / kLanes * kLanes;
constexpr int kPanelWidth = kTileVectors * kLanes;
// 512 steps: C is read and written once per 512 multiply-adds, a B panel of 64 KB streams from the
// second-level cache at 128 bytes per 14 cycles.
constexpr int kBlockSteps = 512;

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA

#include "backend/cpu/kernels/gemm_direct.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

// With few rows, several panels at once keep enough independent sums in flight to hide the latency, and
// enough streams of B to fill the memory's queue.
constexpr int panels_at_once(int rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }

struct TileArgs {
  int64_t steps;
  const char* a;
  int64_t a_stride;  // direct: bytes between rows
  const float* b;
  int64_t b_stride;  // floats between panels
  float alpha;
  const float* in;
  int64_t in_stride;
  float* out;
  int64_t out_stride;
  // Read later: the next panel of B, fetched while this one is used, `prefetch_step` bytes a step.
  const char* prefetch;
  int64_t prefetch_step;
};

// The word of A for row r: steps are `step` bytes apart.
template <int kRows, bool kDirect>
struct RowReader {
  const char* base[(kRows + 3) / 4];
  int64_t stride;
  HWY_INLINE RowReader(const char* a, int64_t stride_in) : stride(stride_in) {
#pragma GCC unroll 4
    for (int g = 0; g < (kRows + 3) / 4; ++g) base[g] = a + (kDirect ? g * 4 * stride : 0);
  }
  HWY_INLINE float word(int row, int64_t offset) const {
    float v;
    if constexpr (kDirect) {
      __builtin_memcpy(&v, base[row / 4] + (row % 4) * stride + offset, 4);
    } else {
      __builtin_memcpy(&v, base[0] + row * 4 + offset, 4);
    }
    return v;
  }
};

template <GemmForm kForm, int kRows, int kPanels, bool kDirect>
void tile(const TileArgs& t) {
  constexpr int kVectors = kPanels * kTileVectors;
  constexpr int64_t kAStep = kDirect ? 4 : 4 * kTileWidth;
  VecF acc[kRows][kVectors];
  unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
    unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA { acc[r][v] = VecF{}; });
  });
  const RowReader<kRows, kDirect> rows(t.a, t.a_stride);
  const float* b = t.b;
  const int64_t b_stride = t.b_stride;
  const int64_t steps = t.steps;
  const char* prefetch = t.prefetch;
  const int64_t prefetch_step = t.prefetch_step;
  // C's rows lie far apart; without this every tile waits for 28 cache misses at its end.
  unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
    unroll<(kVectors * kLanes + 15) / 16>([&](auto line) VERTEBRA_INLINE_LAMBDA {
      __builtin_prefetch(t.out + r * t.out_stride + line * 16, 1);
    });
  });
  int64_t offset = 0;
  for (int64_t step = 0; step < steps; ++step, b += kPanelWidth) {
    __builtin_prefetch(prefetch, 0, 2);
    prefetch += prefetch_step;
    VecF words[kVectors];
    unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA {
      words[v] = load<VecF>(b + (v / kTileVectors) * b_stride + (v % kTileVectors) * kLanes);
    });
    // A step of kF32ByBf16 is two k: first the low halves, then the high ones.
    unroll<kForm == GemmForm::kF32ByBf16 ? 2 : 1>([&](auto half) VERTEBRA_INLINE_LAMBDA {
      VecF bv[kVectors];
      unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA {
        if constexpr (kForm == GemmForm::kF32ByBf16) {
          bv[v] = half == 0 ? low_bf16(words[v]) : high_bf16(words[v]);
        } else {
          bv[v] = words[v];
        }
      });
      unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
        VecF x = splat(rows.word(r, offset));
        pin(x);
        unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA {
          if constexpr (kForm == GemmForm::kBf16Pairs) {
            acc[r][v] = bf16_pair_dot(acc[r][v], x, bv[v]);
          } else {
            acc[r][v] = multiply_add(x, bv[v], acc[r][v]);
          }
          pin(acc[r][v]);
        });
      });
      offset += kAStep;
    });
  }
  const VecF alpha = splat(t.alpha);
  const bool add = t.in != nullptr;
  unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
    unroll<kVectors>([&](auto v) VERTEBRA_INLINE_LAMBDA {
      VecF x = acc[r][v] * alpha;
      if (add) x = load<VecF>(t.in + r * t.in_stride + v * kLanes) + x;
      store(x, t.out + r * t.out_stride + v * kLanes);
    });
  });
}

using TileFunction = void (*)(const TileArgs&);

// [rows - 1][1, 2, 4 panels, or as many as there may be at once][packed, direct]
struct TileTable {
  TileFunction f[kTileRows][3][2];
};

template <GemmForm kForm, int kRows>
constexpr void fill_tiles(TileTable& table) {
  constexpr int kMost = panels_at_once(kRows), kTwo = kMost > 2 ? 2 : kMost;
  table.f[kRows - 1][0][0] = tile<kForm, kRows, 1, false>;
  table.f[kRows - 1][0][1] = tile<kForm, kRows, 1, true>;
  table.f[kRows - 1][1][0] = tile<kForm, kRows, kTwo, false>;
  table.f[kRows - 1][1][1] = tile<kForm, kRows, kTwo, true>;
  table.f[kRows - 1][2][0] = tile<kForm, kRows, kMost, false>;
  table.f[kRows - 1][2][1] = tile<kForm, kRows, kMost, true>;
  if constexpr (kRows > 1) fill_tiles<kForm, kRows - 1>(table);
}

template <GemmForm kForm>
constexpr TileTable make_tiles() {
  TileTable table = {};
  fill_tiles<kForm, kTileRows>(table);
  return table;
}

constexpr TileTable kF32Tiles = make_tiles<GemmForm::kF32>();
constexpr TileTable kF32ByBf16Tiles = make_tiles<GemmForm::kF32ByBf16>();
#if defined(VERTEBRA_BF16_DOT)
constexpr TileTable kBf16Tiles = make_tiles<GemmForm::kBf16Pairs>();
#endif

HWY_INLINE const TileTable& tiles_of(GemmForm form) {
#if defined(VERTEBRA_BF16_DOT)
  if (form == GemmForm::kBf16Pairs) return kBf16Tiles;
#endif
  return form == GemmForm::kF32 ? kF32Tiles : kF32ByBf16Tiles;
}

// Sums of the largest tile: one row takes 4 panels, 2 and 3 rows 2 panels each.
constexpr int kTileSums = (kTileRows > 6 ? kTileRows : 6) * kPanelWidth;

struct Prefetch {
  const char* from;
  int64_t step;
};

// One tile of C: rows [i, i + rows), columns [j, j + panels * kPanelWidth) as far as the matrix goes.
void do_tile(const GemmBlock& g, const TileTable& tiles, int64_t i, int64_t rows, int64_t j, int panels,
             Prefetch prefetch) {
  const int64_t width = static_cast<int64_t>(panels) * kPanelWidth;
  const int64_t columns = min_of(width, g.cols - j);
  TileArgs t;
  t.steps = steps_of(g);
  const int64_t a_size = g.form == GemmForm::kBf16Pairs ? 2 : 4;
  t.a = static_cast<const char*>(g.a) +
        (g.a_direct ? i * g.a_stride * a_size : i / g.tile_rows * g.a_stride * 4);
  t.a_stride = g.a_stride * a_size;
  t.b = static_cast<const float*>(g.b) + j / kPanelWidth * g.b_stride;
  t.b_stride = g.b_stride;
  t.alpha = g.alpha;
  t.prefetch = prefetch.from;
  t.prefetch_step = prefetch.step;
  const TileFunction f = tiles.f[rows - 1][panels / 2][g.a_direct];
  const float* in = g.partial_in == nullptr ? nullptr : g.partial_in + i * g.partial_in_stride + j;
  if (columns == width && g.finish == nullptr) {
    t.in = in;
    t.in_stride = g.partial_in_stride;
    t.out = g.partial_out + i * g.partial_out_stride + j;
    t.out_stride = g.partial_out_stride;
    f(t);
    return;
  }
  alignas(64) float buffer[kTileSums];
  t.in = columns == width ? in : nullptr;
  t.in_stride = g.partial_in_stride;
  t.out = buffer;
  t.out_stride = width;
  f(t);
  const float* add = columns == width ? nullptr : in;
  for (int64_t r = 0; r < rows; ++r) {
    float* row = buffer + r * width;
    if (add != nullptr) {
      for (int64_t c = 0; c < columns; ++c) row[c] = add[r * g.partial_in_stride + c] + row[c];
    }
    if (g.finish != nullptr) {
      finish_row(*g.finish, i + r, j, columns, row);
    } else {
      __builtin_memcpy(g.partial_out + (i + r) * g.partial_out_stride + j, row,
                       static_cast<size_t>(columns) * 4);
    }
  }
}

// The part of the next panel of B that the tile of rows i .. fetches, or nothing.
HWY_INLINE Prefetch next_panel(const GemmBlock& g, int64_t i, int64_t j) {
  const auto* b = static_cast<const char*>(g.b) + j / kPanelWidth * g.b_stride * 4;
  if (j + kPanelWidth >= g.cols) return {b, 0};
  const int64_t step_bytes = kPanelWidth * 4;
  const int64_t steps = steps_of(g);
  const int64_t tiles = (g.rows + g.tile_rows - 1) / g.tile_rows;
  const int64_t step = (step_bytes + tiles - 1) / tiles;
  return {b + g.b_stride * 4 + i / g.tile_rows * step * steps, step};
}

void block(const GemmBlock& g) {
  if (g.b_layout != GemmB::kPanels) return direct_block(g);
  const TileTable& tiles = tiles_of(g.form);
  if (g.rows_outer) {
    for (int64_t i = 0; i < g.rows; i += g.tile_rows) {
      const int64_t rows = min_of(g.tile_rows, g.rows - i);
      const Prefetch none = {static_cast<const char*>(g.b), 0};
      int64_t j = 0;
      for (int group = panels_at_once(static_cast<int>(rows)); group > 1; group /= 2) {
        for (; j + (group - 1) * kPanelWidth < g.cols; j += group * kPanelWidth) {
          do_tile(g, tiles, i, rows, j, group, none);
        }
      }
      for (; j < g.cols; j += kPanelWidth) do_tile(g, tiles, i, rows, j, 1, none);
    }
    return;
  }
  for (int64_t j = 0; j < g.cols; j += kPanelWidth) {
    for (int64_t i = 0; i < g.rows; i += g.tile_rows) {
      do_tile(g, tiles, i, min_of(g.tile_rows, g.rows - i), j, 1, next_panel(g, i, j));
    }
  }
}

}  // namespace

constinit extern const GemmKernels gemm_kernels = {
    .tile_rows = kTileRows,
    .tile_width = kTileWidth,
    .panel_width = kPanelWidth,
    .block_steps = kBlockSteps,
    .direct_rows = kDirectRows,
    .direct_a_rows = kDirectARows,
    .direct_sums = kDirectSums,
#if defined(VERTEBRA_BF16_DOT)
    .bf16_dot = true,
#else
    .bf16_dot = false,
#endif
    .pack = pack,
    .block = block,
};

}  // namespace vertebra::VERTEBRA_ISA
