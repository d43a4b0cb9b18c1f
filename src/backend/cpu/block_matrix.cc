#include "backend/cpu/block_matrix.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/mapped_pages.h"
#include "tensor/block_quant.h"

namespace vertebra {
namespace {

static_assert(static_cast<int>(DType::kMXFP4) - static_cast<int>(DType::kQ8_0) ==
              static_cast<int>(BlockFormat::kMXFP4));

// ---- Each type: put(block, panel, row) and take(panel, row, block) -------------------------------

void put_word(const uint8_t* bytes, int w, uint32_t& word) { std::memcpy(&word, bytes + 4 * w, 4); }
void take_word(const uint32_t& word, int w, uint8_t* bytes) { std::memcpy(bytes + 4 * w, &word, 4); }

template <int kWords, size_t kBytes>
void put_words(const uint8_t (&bytes)[kBytes], PanelWords<kWords>& words, int row) {
  static_assert(kBytes == 4 * kWords);
  for (int w = 0; w < kWords; ++w) std::memcpy(&words[w][row], bytes + 4 * w, 4);
}
template <int kWords, size_t kBytes>
void take_words(const PanelWords<kWords>& words, int row, uint8_t (&bytes)[kBytes]) {
  static_assert(kBytes == 4 * kWords);
  for (int w = 0; w < kWords; ++w) std::memcpy(bytes + 4 * w, &words[w][row], 4);
}

void put(const BlockQ8_0& b, PanelQ8_0& p, int row) {
  p.d[row] = b.d;
  for (int w = 0; w < 8; ++w) {
    uint32_t word;
    std::memcpy(&word, b.qs + 4 * w, 4);
    p.qs[w][row] = word ^ 0x80808080u;
  }
}
void take(const PanelQ8_0& p, int row, BlockQ8_0& b) {
  b.d = p.d[row];
  for (int w = 0; w < 8; ++w) {
    const uint32_t word = p.qs[w][row] ^ 0x80808080u;
    std::memcpy(b.qs + 4 * w, &word, 4);
  }
}

template <class Block>
void put_four_bits(const Block& b, PanelQ4_0& p, int row) {
  p.d[row] = b.d;
  put_words<4>(b.qs, p.qs, row);
}
template <class Block>
void take_four_bits(const PanelQ4_0& p, int row, Block& b) {
  b.d = p.d[row];
  take_words<4>(p.qs, row, b.qs);
}
void put(const BlockQ4_0& b, PanelQ4_0& p, int row) { put_four_bits(b, p, row); }
void take(const PanelQ4_0& p, int row, BlockQ4_0& b) { take_four_bits(p, row, b); }
void put(const BlockIQ4_NL& b, PanelQ4_0& p, int row) { put_four_bits(b, p, row); }
void take(const PanelQ4_0& p, int row, BlockIQ4_NL& b) { take_four_bits(p, row, b); }

void put(const BlockQ4_1& b, PanelQ4_1& p, int row) {
  p.d[row] = b.d;
  p.m[row] = b.m;
  put_words<4>(b.qs, p.qs, row);
}
void take(const PanelQ4_1& p, int row, BlockQ4_1& b) {
  b.d = p.d[row];
  b.m = p.m[row];
  take_words<4>(p.qs, row, b.qs);
}

void put(const BlockMXFP4& b, PanelMXFP4& p, int row) {
  p.e[row] = b.e;
  put_words<4>(b.qs, p.qs, row);
}
void take(const PanelMXFP4& p, int row, BlockMXFP4& b) {
  b.e = p.e[row];
  take_words<4>(p.qs, row, b.qs);
}

// Bit 4t + i of `bits` to bit 8i + t, and back.
uint32_t spread_fifth_bits(uint32_t bits) {
  uint32_t out = 0;
  for (int t = 0; t < 8; ++t) {
    for (int i = 0; i < 4; ++i) out |= (bits >> (4 * t + i) & 1u) << (8 * i + t);
  }
  return out;
}
uint32_t gather_fifth_bits(uint32_t bits) {
  uint32_t out = 0;
  for (int t = 0; t < 8; ++t) {
    for (int i = 0; i < 4; ++i) out |= (bits >> (8 * i + t) & 1u) << (4 * t + i);
  }
  return out;
}

template <class Block, class Panel>
void put_five_bits(const Block& b, Panel& p, int row) {
  p.d[row] = b.d;
  uint32_t high;
  std::memcpy(&high, b.qh, 4);
  p.qh[0][row] = spread_fifth_bits(high);
  put_words<4>(b.qs, p.qs, row);
}
template <class Block, class Panel>
void take_five_bits(const Panel& p, int row, Block& b) {
  b.d = p.d[row];
  const uint32_t high = gather_fifth_bits(p.qh[0][row]);
  std::memcpy(b.qh, &high, 4);
  take_words<4>(p.qs, row, b.qs);
}
void put(const BlockQ5_0& b, PanelQ5_0& p, int row) { put_five_bits(b, p, row); }
void take(const PanelQ5_0& p, int row, BlockQ5_0& b) { take_five_bits(p, row, b); }
void put(const BlockQ5_1& b, PanelQ5_1& p, int row) {
  put_five_bits(b, p, row);
  p.m[row] = b.m;
}
void take(const PanelQ5_1& p, int row, BlockQ5_1& b) {
  take_five_bits(p, row, b);
  b.m = p.m[row];
}

void put(const BlockQ2_K& b, PanelQ2_K& p, int row) {
  p.d[row] = b.d;
  p.dmin[row] = b.dmin;
  for (int j = 0; j < 16; ++j) p.scales[j][row] = b.scales[j];
  put_words<16>(b.qs, p.qs, row);
}
void take(const PanelQ2_K& p, int row, BlockQ2_K& b) {
  b.d = p.d[row];
  b.dmin = p.dmin[row];
  for (int j = 0; j < 16; ++j) b.scales[j] = p.scales[j][row];
  take_words<16>(p.qs, row, b.qs);
}

void put(const BlockQ3_K& b, PanelQ3_K& p, int row) {
  p.d[row] = b.d;
  for (int j = 0; j < 16; ++j) p.scales[j][row] = static_cast<int8_t>(q3_k_scale(b.scales, j) - 32);
  for (int w = 0; w < 8; ++w) {
    put_word(b.hmask, w, p.codes[w].hmask[0][row]);
    for (int i = 0; i < 2; ++i) put_word(b.qs, 8 * i + w, p.codes[w].qs[i][row]);
  }
}
void take(const PanelQ3_K& p, int row, BlockQ3_K& b) {
  b.d = p.d[row];
  for (uint8_t& byte : b.scales) byte = 0;
  for (int j = 0; j < 16; ++j) {
    const int scale = p.scales[j][row] + 32;
    b.scales[j % 8] = static_cast<uint8_t>(b.scales[j % 8] | (scale & 15) << (j < 8 ? 0 : 4));
    b.scales[8 + j % 4] = static_cast<uint8_t>(b.scales[8 + j % 4] | scale >> 4 << (2 * (j / 4)));
  }
  for (int w = 0; w < 8; ++w) {
    take_word(p.codes[w].hmask[0][row], w, b.hmask);
    for (int i = 0; i < 2; ++i) take_word(p.codes[w].qs[i][row], 8 * i + w, b.qs);
  }
}

uint8_t& scale_of(PanelQ4_K& p, int j, int row) { return p.chunks[j / 2].scales[j % 2][row]; }
uint8_t& min_of(PanelQ4_K& p, int j, int row) { return p.chunks[j / 2].mins[j % 2][row]; }
uint8_t& scale_of(PanelQ5_K& p, int j, int row) { return p.scales[j][row]; }
uint8_t& min_of(PanelQ5_K& p, int j, int row) { return p.mins[j][row]; }

template <class Block, class Panel>
void put_scales_and_mins(const Block& b, Panel& p, int row) {
  p.d[row] = b.d;
  p.dmin[row] = b.dmin;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = k_scale_min(b.scales, j);
    scale_of(p, j, row) = s.scale;
    min_of(p, j, row) = s.min;
  }
}
template <class Block, class Panel>
void take_scales_and_mins(const Panel& panel, int row, Block& b) {
  auto& p = const_cast<Panel&>(panel);  // only read
  b.d = p.d[row];
  b.dmin = p.dmin[row];
  for (int j = 0; j < 4; ++j) {
    const int scale = scale_of(p, j, row), min = min_of(p, j, row), later_scale = scale_of(p, j + 4, row),
              later_min = min_of(p, j + 4, row);
    b.scales[j] = static_cast<uint8_t>(scale | later_scale >> 4 << 6);
    b.scales[j + 4] = static_cast<uint8_t>(min | later_min >> 4 << 6);
    b.scales[j + 8] = static_cast<uint8_t>((later_scale & 15) | (later_min & 15) << 4);
  }
}
void put(const BlockQ4_K& b, PanelQ4_K& p, int row) {
  put_scales_and_mins(b, p, row);
  for (int w = 0; w < 32; ++w) put_word(b.qs, w, p.chunks[w / 8].qs[w % 8][row]);
}
void take(const PanelQ4_K& p, int row, BlockQ4_K& b) {
  take_scales_and_mins(p, row, b);
  for (int w = 0; w < 32; ++w) take_word(p.chunks[w / 8].qs[w % 8][row], w, b.qs);
}
void put(const BlockQ5_K& b, PanelQ5_K& p, int row) {
  put_scales_and_mins(b, p, row);
  for (int w = 0; w < 8; ++w) {
    put_word(b.qh, w, p.codes[w].qh[0][row]);
    for (int i = 0; i < 4; ++i) put_word(b.qs, 8 * i + w, p.codes[w].qs[i][row]);
  }
}
void take(const PanelQ5_K& p, int row, BlockQ5_K& b) {
  take_scales_and_mins(p, row, b);
  for (int w = 0; w < 8; ++w) {
    take_word(p.codes[w].qh[0][row], w, b.qh);
    for (int i = 0; i < 4; ++i) take_word(p.codes[w].qs[i][row], 8 * i + w, b.qs);
  }
}

void put(const BlockQ6_K& b, PanelQ6_K& p, int row) {
  p.d[row] = b.d;
  for (int j = 0; j < 16; ++j) p.chunks[j / 8].scales[j % 8][row] = b.scales[j];
  for (int w = 0; w < 16; ++w) {
    auto& codes = p.chunks[w / 8].codes[w % 8];
    put_word(b.qh, w, codes.qh[0][row]);
    for (int i = 0; i < 2; ++i) put_word(b.ql, w / 8 * 16 + 8 * i + w % 8, codes.ql[i][row]);
  }
}
void take(const PanelQ6_K& p, int row, BlockQ6_K& b) {
  b.d = p.d[row];
  for (int j = 0; j < 16; ++j) b.scales[j] = p.chunks[j / 8].scales[j % 8][row];
  for (int w = 0; w < 16; ++w) {
    const auto& codes = p.chunks[w / 8].codes[w % 8];
    take_word(codes.qh[0][row], w, b.qh);
    for (int i = 0; i < 2; ++i) take_word(codes.ql[i][row], w / 8 * 16 + 8 * i + w % 8, b.ql);
  }
}

// ---- All of a tensor -----------------------------------------------------------------------------

// Calls body.template operator()<Block, Panel>().
template <class Body>
auto with_types(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kQ8_0:
      return body.template operator()<BlockQ8_0, PanelQ8_0>();
    case DType::kQ4_0:
      return body.template operator()<BlockQ4_0, PanelQ4_0>();
    case DType::kQ4_1:
      return body.template operator()<BlockQ4_1, PanelQ4_1>();
    case DType::kQ5_0:
      return body.template operator()<BlockQ5_0, PanelQ5_0>();
    case DType::kQ5_1:
      return body.template operator()<BlockQ5_1, PanelQ5_1>();
    case DType::kQ2_K:
      return body.template operator()<BlockQ2_K, PanelQ2_K>();
    case DType::kQ3_K:
      return body.template operator()<BlockQ3_K, PanelQ3_K>();
    case DType::kQ4_K:
      return body.template operator()<BlockQ4_K, PanelQ4_K>();
    case DType::kQ5_K:
      return body.template operator()<BlockQ5_K, PanelQ5_K>();
    case DType::kQ6_K:
      return body.template operator()<BlockQ6_K, PanelQ6_K>();
    case DType::kIQ4_NL:
      return body.template operator()<BlockIQ4_NL, PanelQ4_0>();
    default:
      VERTEBRA_CHECK(dtype == DType::kMXFP4, "a panel of other than a block-quantized type");
      return body.template operator()<BlockMXFP4, PanelMXFP4>();
  }
}

// Bytes of blocks that a worker packs at a time.
constexpr int64_t kLeastPacked = int64_t{64} << 10, kMostPacked = int64_t{1} << 20;

struct MatrixSize {
  int64_t rows, row_blocks, panels;
  explicit MatrixSize(const TensorType& type) {
    const int64_t size = type.shape.rank() == 0 ? 0 : type.shape[-1];
    rows = size == 0 ? 0 : type.shape.elements() / size;
    row_blocks = size / block_size(type.dtype).elements;
    panels = (rows + kPanelRows - 1) / kPanelRows;
  }
};

}  // namespace

BlockFormat block_format(DType dtype) {
  VERTEBRA_CHECK(is_block_quantized(dtype), "the block format of another type was asked for");
  return static_cast<BlockFormat>(static_cast<int>(dtype) - static_cast<int>(DType::kQ8_0));
}

size_t panel_bytes(DType dtype, int64_t size) {
  const auto blocks = static_cast<size_t>(size / block_size(dtype).elements);
  return blocks * with_types(dtype, []<class Block, class Panel>() { return sizeof(Panel); });
}

size_t panels_size_bytes(const TensorType& type) {
  if (type.shape.elements() == 0) return 0;
  return static_cast<size_t>(MatrixSize(type).panels) * panel_bytes(type.dtype, type.shape[-1]);
}

void pack_blocks(const TensorType& type, const void* blocks, std::byte* panels, ThreadTeam& team) {
  const MatrixSize size(type);
  with_types(type.dtype, [&]<class Block, class Panel>() {
    const auto* from = static_cast<const std::byte*>(blocks);
    auto* to = reinterpret_cast<Panel*>(panels);
    // Of a mapped file no more than what the workers are at lies in memory beside the panels.
    const int64_t row_bytes = size.row_blocks * static_cast<int64_t>(sizeof(Block));
    const auto panels_of = [&](int64_t bytes) {
      return bytes / std::max<int64_t>(1, row_bytes * kPanelRows) + 1;
    };
    const int64_t item_panels =
        std::clamp(size.panels / (2 * team.size()), panels_of(kLeastPacked), panels_of(kMostPacked));
    const auto pack_panel = [&](int64_t panel) {
      Panel* out = to + panel * size.row_blocks;
      const int64_t first = panel * kPanelRows, rows = std::min<int64_t>(kPanelRows, size.rows - first);
      if (rows < kPanelRows) std::memset(out, 0, static_cast<size_t>(size.row_blocks) * sizeof(Panel));
      for (int64_t b = 0; b < size.row_blocks; ++b) {
        for (int64_t row = 0; row < rows; ++row) {
          Block block;
          std::memcpy(&block, from + static_cast<size_t>((first + row) * size.row_blocks + b) * sizeof(Block),
                      sizeof(Block));
          put(block, out[b], static_cast<int>(row));
        }
      }
    };
    team.parallel_for((size.panels + item_panels - 1) / item_panels, [&](int64_t item, int) {
      const int64_t first = item * item_panels, last = std::min(size.panels, first + item_panels);
      for (int64_t panel = first; panel < last; ++panel) pack_panel(panel);
      const int64_t begin = first * kPanelRows * row_bytes,
                    end = std::min(size.rows, last * kPanelRows) * row_bytes;
      give_back_pages(from + begin, static_cast<size_t>(end - begin));
    });
  });
}

void unpack_blocks(const TensorType& type, const std::byte* panels, void* blocks) {
  const MatrixSize size(type);
  with_types(type.dtype, [&]<class Block, class Panel>() {
    const auto* from = reinterpret_cast<const Panel*>(panels);
    auto* to = static_cast<std::byte*>(blocks);
    for (int64_t row = 0; row < size.rows; ++row) {
      for (int64_t b = 0; b < size.row_blocks; ++b, to += sizeof(Block)) {
        Block block;
        take(from[row / kPanelRows * size.row_blocks + b], static_cast<int>(row % kPanelRows), block);
        std::memcpy(to, &block, sizeof(Block));
      }
    }
  });
}

void dequantize_panel_row(DType dtype, const std::byte* panels, int64_t row, std::span<float> values) {
  const int64_t elements = block_size(dtype).elements;
  const auto row_blocks = static_cast<int64_t>(values.size()) / elements;
  with_types(dtype, [&]<class Block, class Panel>() {
    const auto* from = reinterpret_cast<const Panel*>(panels) + row / kPanelRows * row_blocks;
    for (int64_t b = 0; b < row_blocks; ++b) {
      Block block;
      take(from[b], static_cast<int>(row % kPanelRows), block);
      dequantize(dtype, &block,
                 values.subspan(static_cast<size_t>(b * elements), static_cast<size_t>(elements)));
    }
  });
}

}  // namespace vertebra
