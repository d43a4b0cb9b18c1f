#include "backend/cpu/kernels/block_product.h"

#include "backend/cpu/kernels/block_formats.h"
#include "backend/cpu/kernels/gemm_finish.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

constexpr int kParts = kPanelRows / kColumns;
constexpr int kTileRows = 8;

template <class Format>
struct Tag {
  using Type = Format;
};

// Calls body(Tag<Format>).
template <class Body>
HWY_INLINE void with_format(BlockFormat format, const Body& body) {
  switch (format) {
    case BlockFormat::kQ8_0:
      return body(Tag<FormatQ8_0>{});
    case BlockFormat::kQ4_0:
      return body(Tag<FormatQ4_0>{});
    case BlockFormat::kQ4_1:
      return body(Tag<FormatQ4_1>{});
    case BlockFormat::kQ5_0:
      return body(Tag<FormatQ5_0>{});
    case BlockFormat::kQ5_1:
      return body(Tag<FormatQ5_1>{});
    case BlockFormat::kQ2_K:
      return body(Tag<FormatQ2_K>{});
    case BlockFormat::kQ3_K:
      return body(Tag<FormatQ3_K>{});
    case BlockFormat::kQ4_K:
      return body(Tag<FormatQ4_K>{});
    case BlockFormat::kQ5_K:
      return body(Tag<FormatQ5_K>{});
    case BlockFormat::kQ6_K:
      return body(Tag<FormatQ6_K>{});
    case BlockFormat::kIQ4_NL:
      return body(Tag<FormatIQ4_NL>{});
    case BlockFormat::kMXFP4:
      return body(Tag<FormatMXFP4>{});
  }
}

// ---- Activations ---------------------------------------------------------------------------------

// One block of a row. Never inlined twice: compilers may fuse its products and sums in one place only.
template <int kElements>
__attribute__((noinline)) float quantize_block(const float* x, int8_t* codes) {
  uint32_t largest_bits = 0;  // of magnitudes as integers, in whose order NaN is the largest
  for (int i = 0; i < kElements; ++i) largest_bits = max_of(largest_bits, bits_of_float(x[i]) & 0x7fffffffu);
  const float largest = float_of_bits(largest_bits);
  constexpr float kTiny = 1e-30f;  // 127 / largest stays finite
  if (largest < kTiny) {
    for (int i = 0; i < kElements; ++i) codes[i] = 0;
    return 0;
  }
  const float inverse = 127.0f / largest;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the nearest integer
  for (int i = 0; i < kElements; ++i)
    codes[i] = static_cast<int8_t>(bits_of_float(x[i] * inverse + kRound) - bits_of_float(kRound));
  return largest / 127.0f;
}

template <class Format>
void quantize_rows(const float* x, int64_t x_stride, int64_t size, const QuantizedTile& tile) {
  constexpr int kGroups = Format::kElements / Format::kGroup;
  const int64_t rows = tile.rows;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < size / Format::kElements; ++b) {
      int8_t codes[Format::kElements];
      tile.scales[b * rows + r] =
          quantize_block<Format::kElements>(x + r * x_stride + b * Format::kElements, codes);
      for (int w = 0; w < Format::kElements / 4; ++w) {
        __builtin_memcpy(tile.codes + ((b * (Format::kElements / 4) + w) * rows + r) * 4, codes + 4 * w, 4);
      }
      for (int g = 0; g < kGroups; ++g) {
        int32_t sum = 0;
        for (int i = 0; i < Format::kGroup; ++i) sum += codes[g * Format::kGroup + i];
        int32_t& to = tile.sums[(b * kGroups + g) * rows + r];
        to = Format::kMin ? static_cast<int32_t>(bits_of_float(static_cast<float>(sum)))
                          : -Format::kOffset * sum;
      }
    }
  }
}

void quantize(BlockFormat format, const float* x, int64_t x_stride, int64_t size, QuantizedTile tile) {
  with_format(format,
              [&](auto tag) { quantize_rows<typename decltype(tag)::Type>(x, x_stride, size, tile); });
}

// ---- Weights as bytes ----------------------------------------------------------------------------

template <class Format>
__attribute__((noinline)) void expand_panel(const void* panel, int64_t blocks, const ExpandedPanel& to) {
  constexpr int kGroups = Format::kChunk / Format::kGroup;  // of a chunk
  const auto* from = static_cast<const typename Format::Panel*>(panel);
  uint8_t* codes = to.codes;
  float *scales = to.scales, *mins = to.mins;
  for (int64_t b = 0; b < blocks; ++b) {
    unroll<Format::kElements / Format::kChunk>([&](auto chunk) VERTEBRA_INLINE_LAMBDA {
      for (int part = 0; part < kParts; ++part) {
        Format::codes(from[b], chunk, part, [&](auto group, auto step, Bytes q) VERTEBRA_INLINE_LAMBDA {
          store(q, codes + (group * (Format::kGroup / 4) + step) * 64 + part * kColumns * 4);
        });
        for (int g = 0; g < kGroups; ++g) {
          store(Format::scale(from[b], chunk * kGroups + g, part), scales + g * kPanelRows + part * kColumns);
          if (Format::kMin)
            store(Format::min(from[b], chunk * kGroups + g, part), mins + g * kPanelRows + part * kColumns);
        }
      }
      codes += Format::kChunk * kPanelRows;
      scales += kGroups * kPanelRows;
      mins += kGroups * kPanelRows;
    });
  }
}

void expand(BlockFormat format, const void* panel, int64_t blocks, ExpandedPanel to) {
  with_format(format, [&](auto tag) { expand_panel<typename decltype(tag)::Type>(panel, blocks, to); });
}

// ---- Products ------------------------------------------------------------------------------------

HWY_INLINE void pin(Sums& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#else
  asm("" : "+w"(v));
#endif
}
HWY_INLINE void pin_floats(Floats& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#else
  asm("" : "+w"(v));
#endif
}

HWY_INLINE int32_t word_at(const int8_t* codes, int64_t word) {
  int32_t four;
  __builtin_memcpy(&four, codes + 4 * word, 4);
  return four;
}
HWY_INLINE float float_at(const int32_t* sums, int64_t at) {
  return float_of_bits(static_cast<uint32_t>(sums[at]));
}

// The sums of one group for kRows rows.
template <class Format, int kRows>
HWY_INLINE void add_group(const uint8_t* codes, const int8_t* x, Sums (&sums)[kRows]) {
  constexpr int kSteps = Format::kGroup / 4;
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
  // Pairs of products, of 2 * 127 * the largest code at most, are added in 16 bits.
  constexpr int kAdded = Format::kBits == 8 ? 1 : min_of(kSteps, 32767 / (254 * ((1 << Format::kBits) - 1)));
  constexpr int kTogether = kAdded >= 8 ? 8 : kAdded >= 4 ? 4 : kAdded >= 2 ? 2 : 1;
  unroll<kSteps / kTogether>([&](auto part) VERTEBRA_INLINE_LAMBDA {
    __m256i pairs[kRows];
    unroll<kTogether>([&](auto i) VERTEBRA_INLINE_LAMBDA {
      constexpr int step = part * kTogether + i;
      const Bytes w = load<Bytes>(codes + step * 64);
      unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
        const __m256i two = Dot<Format::kBits>::pairs(w, word_at(x, step * kRows + r));
        if constexpr (i == 0) {
          pairs[r] = two;
        } else {
          pairs[r] = _mm256_add_epi16(pairs[r], two);
        }
        asm("" : "+x"(pairs[r]));
      });
    });
    unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
      sums[r] = Dot<Format::kBits>::add_pairs(sums[r], pairs[r]);
      pin(sums[r]);
    });
  });
#else
  unroll<kSteps>([&](auto step) VERTEBRA_INLINE_LAMBDA {
    const Bytes w = load<Bytes>(codes + step * 64);
    unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
      sums[r] = Dot<Format::kBits>::add(sums[r], w, word_at(x, step * kRows + r));
      pin(sums[r]);
    });
  });
#endif
}

// kRows rows times the columns of a part, added to out [kRows][16].
template <class Format, int kRows>
HWY_INLINE void tile_part(const ExpandedPanel& panel, int part, int64_t size, const QuantizedTile& x,
                          float* out) {
  constexpr int kGroups = Format::kElements / Format::kGroup;
  const uint8_t* codes = panel.codes + part * kColumns * 4;
  const float *scales = panel.scales + part * kColumns, *mins = panel.mins + part * kColumns;
  const int8_t* x_codes = x.codes;
  const int32_t* x_sums = x.sums;
  Floats total[kRows];
  unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
    total[r] = load<Floats>(out + r * kPanelRows + part * kColumns);
  });
  for (int64_t b = 0; b < size / Format::kElements; ++b) {
    Floats of_block[kRows];
    for (int g = 0; g < kGroups; ++g) {
      Sums sums[kRows];
      unroll<kRows>([&](auto r)
                        VERTEBRA_INLINE_LAMBDA { sums[r] = Format::kMin ? Sums{} : splat_sum(x_sums[r]); });
      add_group<Format, kRows>(codes, x_codes, sums);
      const Floats scale = load<Floats>(scales), min = Format::kMin ? load<Floats>(mins) : Floats{};
      unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
        const Floats sum = to_floats(sums[r]);
        of_block[r] = g == 0 ? sum * scale : fused(sum, scale, of_block[r]);
        if constexpr (Format::kMin) of_block[r] = fused(min, splat_float(float_at(x_sums, r)), of_block[r]);
        pin_floats(of_block[r]);
      });
      codes += Format::kGroup * kPanelRows;
      scales += kPanelRows;
      mins += kPanelRows;
      x_codes += Format::kGroup * kRows;
      x_sums += kRows;
    }
    unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
      total[r] = fused(of_block[r], splat_float(x.scales[b * kRows + r]), total[r]);
      pin_floats(total[r]);
    });
  }
  unroll<kRows>([&](auto r)
                    VERTEBRA_INLINE_LAMBDA { store(total[r], out + r * kPanelRows + part * kColumns); });
}

template <class Format, int kRows>
void tile_of(const ExpandedPanel& panel, int64_t size, const QuantizedTile& x, float* out) {
  for (int part = 0; part < kParts; ++part) tile_part<Format, kRows>(panel, part, size, x, out);
}

// As bytes, formats of the same groups are the same.
struct ExpandedBytes : FormatShape<32, 32, 32, false, 8, 0> {};
struct ExpandedSmall : FormatShape<32, 32, 32, false, 5, 0> {};
struct ExpandedMin : FormatShape<32, 32, 32, true, 5, 0> {};
struct ExpandedK : FormatShape<256, 32, 32, true, 5, 0> {};
struct ExpandedK16 : FormatShape<256, 16, 16, false, 6, 0> {};
struct ExpandedKMin16 : FormatShape<256, 16, 16, true, 6, 0> {};

template <class Format>
void tile_rows(const ExpandedPanel& panel, int64_t size, const QuantizedTile& x, float* out) {
  switch (x.rows) {
    case 1:
      return tile_of<Format, 1>(panel, size, x, out);
    case 2:
      return tile_of<Format, 2>(panel, size, x, out);
    case 3:
      return tile_of<Format, 3>(panel, size, x, out);
    case 4:
      return tile_of<Format, 4>(panel, size, x, out);
    case 5:
      return tile_of<Format, 5>(panel, size, x, out);
    case 6:
      return tile_of<Format, 6>(panel, size, x, out);
    case 7:
      return tile_of<Format, 7>(panel, size, x, out);
    default:
      return tile_of<Format, kTileRows>(panel, size, x, out);
  }
}

// Adds to out [rows][16].
void add_tile(BlockFormat format, const ExpandedPanel& panel, int64_t size, const QuantizedTile& x,
              float* out) {
  const BlockTraits traits = block_traits(format);
  if (format == BlockFormat::kQ8_0 || format == BlockFormat::kIQ4_NL) {
    tile_rows<ExpandedBytes>(panel, size, x, out);
  } else if (traits.elements == 32) {
    traits.has_min ? tile_rows<ExpandedMin>(panel, size, x, out)
                   : tile_rows<ExpandedSmall>(panel, size, x, out);
  } else if (traits.group == 32) {
    tile_rows<ExpandedK>(panel, size, x, out);
  } else {
    traits.has_min ? tile_rows<ExpandedKMin16>(panel, size, x, out)
                   : tile_rows<ExpandedK16>(panel, size, x, out);
  }
}

struct TileSums {
  alignas(64) float values[kTileRows * kPanelRows];
  void clear() {
    for (float& value : values) value = 0;
  }
  void finish(const GemmFinish& how, int32_t rows, int64_t row, int64_t column, int64_t columns) const {
    for (int32_t r = 0; r < rows; ++r) finish_row(how, row + r, column, columns, values + r * kPanelRows);
  }
};

void tile(BlockFormat format, ExpandedPanel panel, int64_t size, QuantizedTile x, const GemmFinish& finish,
          int64_t row, int64_t column, int64_t columns) {
  TileSums sums;
  sums.clear();
  add_tile(format, panel, size, x, sums.values);
  sums.finish(finish, x.rows, row, column, columns);
}

// Types of a byte an element are computed nearly as fast as they arrive: fetched three blocks ahead, several
// rows of Q8_0 take 0.85 of the time. Types of half a byte gain nothing, Q4_K loses 6 %.
template <class Format>
constexpr bool kFetches = sizeof(typename Format::Panel) > Format::kElements* kPanelRows;
constexpr int64_t kFetchAhead = 1536;

// kRows rows straight from the blocks: what a chunk needs of sums must fit the registers.
template <class Format, int kRows>
HWY_INLINE void direct_part(const typename Format::Panel* panel, int part, int64_t blocks,
                            const QuantizedTile& x, Floats (&total)[kRows]) {
  constexpr int kChunkGroups = Format::kChunk / Format::kGroup;
  const int8_t* x_codes = x.codes;
  const int32_t* x_sums = x.sums;
  unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA { total[r] = Floats{}; });
  for (int64_t b = 0; b < blocks; ++b) {
    if constexpr (kRows > 1 && kFetches<Format>) {
      for (size_t at = 0; at < sizeof(*panel); at += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(panel + b) + kFetchAhead + at);
    }
    Floats of_block[kRows];
    unroll<Format::kElements / Format::kChunk>([&](auto chunk) VERTEBRA_INLINE_LAMBDA {
      Sums sums[kChunkGroups][kRows];
      unroll<kChunkGroups>([&](auto g) VERTEBRA_INLINE_LAMBDA {
        unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
          sums[g][r] = Format::kMin ? Sums{} : splat_sum(x_sums[g * kRows + r]);
        });
      });
      Format::codes(panel[b], chunk, part, [&](auto g, auto step, Bytes q) VERTEBRA_INLINE_LAMBDA {
        unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
          sums[g][r] = Dot<Format::kBits>::add(
              sums[g][r], q, word_at(x_codes, (g * (Format::kGroup / 4) + step) * kRows + r));
          if constexpr (kRows > 1) pin(sums[g][r]);
        });
      });
      unroll<kChunkGroups>([&](auto g) VERTEBRA_INLINE_LAMBDA {
        constexpr int group = chunk * kChunkGroups + g;
        const Floats scale = Format::scale(panel[b], group, part), min = Format::min(panel[b], group, part);
        unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
          const Floats sum = to_floats(sums[g][r]);
          of_block[r] = group == 0 ? sum * scale : fused(sum, scale, of_block[r]);
          if constexpr (Format::kMin)
            of_block[r] = fused(min, splat_float(float_at(x_sums, g * kRows + r)), of_block[r]);
          if constexpr (kRows > 1) pin_floats(of_block[r]);
        });
      });
      x_codes += Format::kChunk * kRows;
      x_sums += kChunkGroups * kRows;
    });
    unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
      total[r] = fused(of_block[r], splat_float(x.scales[b * kRows + r]), total[r]);
      if constexpr (kRows > 1) pin_floats(total[r]);
    });
  }
}

template <class Format, int kRows>
void direct_rows(const void* panels, int64_t size, const QuantizedTile& x, const GemmFinish& finish,
                 int64_t row, int64_t column, int64_t columns) {
  const int64_t blocks = size / Format::kElements;
  const auto* panel = static_cast<const typename Format::Panel*>(panels);
  TileSums sums;
  for (int64_t c = 0; c < columns; c += kPanelRows, panel += blocks) {
    for (int part = 0; part < kParts; ++part) {
      Floats total[kRows];
      direct_part<Format, kRows>(panel, part, blocks, x, total);
      unroll<kRows>([&](auto r) VERTEBRA_INLINE_LAMBDA {
        store(total[r], sums.values + r * kPanelRows + part * kColumns);
      });
    }
    sums.finish(finish, kRows, row, column + c, min_of<int64_t>(kPanelRows, columns - c));
  }
}

// Sums of a chunk and of a block for each of 8 rows, beside codes and scales, in 32 registers of 64 bytes.
template <class Format>
constexpr bool kDirect = kColumns == 16 && Format::kChunk / Format::kGroup <= 2;

// 8 KB of codes at a time.
constexpr int kPieceElements = 512;

// Each panel becomes bytes piece by piece, in the first-level cache.
template <class Format>
void expanded_rows(const void* panels, int64_t size, const QuantizedTile& x, const GemmFinish& finish,
                   int64_t row, int64_t column, int64_t columns) {
  constexpr int64_t kPieceBlocks = kPieceElements / Format::kElements;
  alignas(64) uint8_t codes[kPieceElements * kPanelRows];
  alignas(64) float scales[kPieceElements / Format::kGroup * kPanelRows],
      mins[kPieceElements / Format::kGroup * kPanelRows];
  const int64_t blocks = size / Format::kElements;
  const auto* panel = static_cast<const typename Format::Panel*>(panels);
  for (int64_t c = 0; c < columns; c += kPanelRows, panel += blocks) {
    TileSums sums;
    sums.clear();
    for (int64_t b = 0; b < blocks; b += kPieceBlocks) {
      const int64_t count = min_of(kPieceBlocks, blocks - b), k = b * Format::kElements;
      expand_panel<Format>(panel + b, count, {codes, scales, mins});
      const QuantizedTile piece = {x.codes + k * x.rows, x.scales + b * x.rows,
                                   x.sums + k / Format::kGroup * x.rows, x.rows};
      add_tile(Format::kFormat, {codes, scales, mins}, count * Format::kElements, piece, sums.values);
    }
    sums.finish(finish, x.rows, row, column + c, min_of<int64_t>(kPanelRows, columns - c));
  }
}

template <class Format>
void few_rows(const void* panels, int64_t size, const QuantizedTile& x, const GemmFinish& finish, int64_t row,
              int64_t column, int64_t columns) {
  if (x.rows == 1) return direct_rows<Format, 1>(panels, size, x, finish, row, column, columns);
  if constexpr (kDirect<Format>) {
    unroll<kTileRows - 1>([&](auto i) VERTEBRA_INLINE_LAMBDA {
      constexpr int kRows = i + 2;
      if (x.rows == kRows) direct_rows<Format, kRows>(panels, size, x, finish, row, column, columns);
    });
  } else {
    expanded_rows<Format>(panels, size, x, finish, row, column, columns);
  }
}

bool is_direct(BlockFormat format) {
  bool out = false;
  with_format(format, [&](auto tag) { out = kDirect<typename decltype(tag)::Type>; });
  return out;
}

void few(BlockFormat format, const void* panels, int64_t size, QuantizedTile x, const GemmFinish& finish,
         int64_t row, int64_t column, int64_t columns) {
  with_format(format, [&](auto tag) {
    few_rows<typename decltype(tag)::Type>(panels, size, x, finish, row, column, columns);
  });
}

}  // namespace

constinit extern const BlockProductKernels block_product_kernels = {.tile_rows = kTileRows,
                                                                    .quantize = quantize,
                                                                    .expand = expand,
                                                                    .tile = tile,
                                                                    .is_direct = is_direct,
                                                                    .few = few};

}  // namespace vertebra::VERTEBRA_ISA
