// Block-quantized matrices [F, E] as the CPU keeps them: panels of 16 rows, the blocks of the 16 rows that
// stand side by side interleaved, so that a vector holds four consecutive codes of each row. Bits are those
// of the GGUF blocks (tensor/block_quant.h), except where a comment says how they were moved. Written by
// block_matrix.cc, read by kernels/*.cc: the same bytes on every instruction set.
#pragma once

#include <cstdint>

namespace vertebra {

inline constexpr int kPanelRows = 16;

// In the order of DType's block-quantized types.
enum class BlockFormat : uint8_t {
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kMXFP4
};
inline constexpr int kBlockFormats = 12;

struct BlockTraits {
  int elements;  // of a block; a scale of the activations for each
  int group;     // elements that share a scale of the weights; a sum of the activations for each
  bool has_min;  // the value is scale * code + min: sums are floats, of the activations' codes. Otherwise the
                 // value is scale * (code - offset): sums are integers, multiplied by -offset
};
constexpr BlockTraits block_traits(BlockFormat format) {
  switch (format) {
    case BlockFormat::kQ4_1:
    case BlockFormat::kQ5_1:
      return {32, 32, true};
    case BlockFormat::kQ2_K:
      return {256, 16, true};
    case BlockFormat::kQ3_K:
    case BlockFormat::kQ6_K:
      return {256, 16, false};
    case BlockFormat::kQ4_K:
    case BlockFormat::kQ5_K:
      return {256, 32, true};
    default:
      return {32, 32, false};
  }
}

// What is read together stands together, so that memory is read in one stream: with the scales in front and
// the bits apart, as in the blocks, one row of Q6_K came at 10 GB/s instead of 28.
// words[w][r]: bytes 4w .. 4w + 3 of the codes of row r, as a little-endian word.
template <int kWords>
using PanelWords = uint32_t[kWords][kPanelRows];

struct PanelQ8_0 {  // codes with 128 added, as unsigned bytes
  uint16_t d[kPanelRows];
  PanelWords<8> qs;
};
struct PanelQ4_0 {  // and IQ4_NL
  uint16_t d[kPanelRows];
  PanelWords<4> qs;
};
struct PanelQ4_1 {
  uint16_t d[kPanelRows], m[kPanelRows];
  PanelWords<4> qs;
};
// Bit t of byte i of qh: the fifth bit of element 4t + i, so that shifts bring it to the byte of its code.
struct PanelQ5_0 {
  uint16_t d[kPanelRows];
  PanelWords<1> qh;
  PanelWords<4> qs;
};
struct PanelQ5_1 {
  uint16_t d[kPanelRows], m[kPanelRows];
  PanelWords<1> qh;
  PanelWords<4> qs;
};
struct PanelQ2_K {  // scales[j]: scale of sub-block j in the low half, its min in the high half
  uint16_t d[kPanelRows], dmin[kPanelRows];
  uint8_t scales[16][kPanelRows];
  PanelWords<16> qs;
};
struct PanelQ3_K {  // scales with the 32 subtracted
  uint16_t d[kPanelRows];
  int8_t scales[16][kPanelRows];
  struct {
    PanelWords<1> hmask;
    PanelWords<2> qs;  // words w and w + 8
  } codes[8];
};
struct PanelQ4_K {  // scales and mins a byte each
  uint16_t d[kPanelRows], dmin[kPanelRows];
  struct {
    PanelWords<8> qs;
    uint8_t scales[2][kPanelRows], mins[2][kPanelRows];
  } chunks[4];  // of 64 elements
};
struct PanelQ5_K {
  uint16_t d[kPanelRows], dmin[kPanelRows];
  struct {
    PanelWords<1> qh;
    PanelWords<4> qs;  // words w, w + 8, w + 16, w + 24
  } codes[8];
  uint8_t scales[8][kPanelRows], mins[8][kPanelRows];
};
struct PanelQ6_K {
  uint16_t d[kPanelRows];
  struct {
    struct {
      PanelWords<1> qh;
      PanelWords<2> ql;  // words 16h + w and 16h + w + 8
    } codes[8];          // word 8h + w of qh
    int8_t scales[8][kPanelRows];
  } chunks[2];  // h
};
struct PanelMXFP4 {
  uint8_t e[kPanelRows];
  PanelWords<4> qs;
};

}  // namespace vertebra
