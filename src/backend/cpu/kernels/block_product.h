// Products of rows of activations, rounded to 8-bit integers, and block-quantized weights: sums over a group
// of elements are exact integers, the groups' floats are added in ascending k. So a row gives the same bits
// whatever stands beside it, through tile() and through few(). Called by backend/cpu/block_linear.cc.
#pragma once

#include <cstdint>

#include "backend/cpu/kernels/block_panels.h"
#include "backend/cpu/kernels/gemm.h"

namespace vertebra {

// Up to BlockProductKernels::tile_rows rows, interleaved: element k of row r at [k / 4][r][k % 4], the scale
// of block b at [b][r], the sum of group g at [g][r] (i32 or f32, see BlockTraits).
struct QuantizedTile {
  int8_t* codes;
  float* scales;
  int32_t* sums;
  int32_t rows;
};

// Weights of 16 columns as bytes: element k of column c at [k / 4][c][k % 4], the scale and the min of group
// g at [g][c].
struct ExpandedPanel {
  uint8_t* codes;
  float* scales;
  float* mins;
};

struct BlockProductKernels {
  int32_t tile_rows;
  // Each block of a row to codes of -127 to 127, its largest magnitude becoming 127; x [rows, size]. A value
  // that is not finite makes the scale NaN or infinite.
  void (*quantize)(BlockFormat format, const float* x, int64_t x_stride, int64_t size, QuantizedTile tile);
  void (*expand)(BlockFormat format, const void* panel, int64_t blocks, ExpandedPanel to);
  // The product of a tile and one panel of `columns` columns from `column` on; the tile's first row is `row`.
  void (*tile)(BlockFormat format, ExpandedPanel panel, int64_t size, QuantizedTile x,
               const GemmFinish& finish, int64_t row, int64_t column, int64_t columns);
  // Whether few() multiplies several rows without turning the panels into bytes first.
  bool (*is_direct)(BlockFormat format);
  // The same for a tile and whole panels of blocks, `columns` columns in all.
  void (*few)(BlockFormat format, const void* panels, int64_t size, QuantizedTile x, const GemmFinish& finish,
              int64_t row, int64_t column, int64_t columns);
};

}  // namespace vertebra
