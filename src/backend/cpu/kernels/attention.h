// The inner routines of attention, shared by the training op, its gradient and the paged op of serving:
// one tile of query rows against one block of at most 64 keys. Every row's arithmetic is independent of the
// other rows of its tile and of keys it does not see, so any tiling of rows gives the same bits.
#pragma once

#include <cstdint>

namespace vertebra {

inline constexpr int64_t kAttentionKeys = 64;  // keys in a block
inline constexpr int64_t kAttentionRows = 48;  // query rows in a tile, at most

// Row stride of packed rows: whole vectors on every instruction set. What lies beyond the row is zero.
constexpr int64_t attention_padded(int64_t dim) { return (dim + 15) / 16 * 16; }

// Keys start .. start + width - 1 (counted from the start of the segment or request).
struct AttentionBlock {
  int64_t start, width;
  const float* keys;             // [width, padded]; backward only
  const float* keys_transposed;  // [dim, 64]
  const float* values;           // [width, value_stride], zero between dim and padded; forward only
  int64_t value_stride;
  const float* values_transposed;  // [dim, 64]; backward only
};

// Query row r stands at position positions[r] (non-decreasing) and sees the keys positions[r] - window + 1 ..
// positions[r], all keys up to its own when window is 0.
struct AttentionTile {
  int64_t rows, dim, padded, window;
  float scale;
  const float* q;  // [rows, padded]
  const int32_t* positions;
  float* scores;     // scratch [48, 64]
  float* gradients;  // scratch [48, 64]; backward only
  // Forward: running maximum, sum of exponentials and weighted sum of values.
  float* max;  // [rows]
  float* sum;  // [rows]
  float* acc;  // [rows, padded]
  // Backward.
  const float* dout;   // [rows, padded]
  const float* lse;    // [rows]
  const float* delta;  // [rows]: sum over d of dout * out
  float* dq;           // [rows, padded], added to; null: not wanted
  float* dk;           // [width, padded], added to; dk and dv null: not wanted
  float* dv;           // [width, padded], added to
};

struct AttentionKernels {
  // Row i, at from + i * from_stride, goes to to + i * to_stride, with zeros from dim to padded(dim).
  void (*pack_f32)(const float* from, int64_t from_stride, int64_t rows, int64_t dim, float* to,
                   int64_t to_stride);
  void (*pack_bf16)(const uint16_t* from, int64_t from_stride, int64_t rows, int64_t dim, float* to,
                    int64_t to_stride);
  void (*pack_f16)(const uint16_t* from, int64_t from_stride, int64_t rows, int64_t dim, float* to,
                   int64_t to_stride);
  // Codes times the scale of their block of 32; row i's scales lie at scales + i * scale_stride.
  void (*pack_i8)(const int8_t* from, int64_t from_stride, const float* scales, int64_t scale_stride,
                  int64_t rows, int64_t dim, float* to, int64_t to_stride);
  // to[d * 64 + j] = element d of the (narrow) row at from + j * stride for j < rows <= 64, zeros for the
  // other j. False, and nothing is written, for a `dim` that is no whole vectors.
  bool (*transpose_bf16)(const uint16_t* from, int64_t stride, int64_t rows, int64_t dim, float* to);
  bool (*transpose_i8)(const int8_t* from, int64_t stride, const float* scales, int64_t scale_stride,
                       int64_t rows, int64_t dim, float* to);
  // The dot product of two rows of `dim` elements.
  float (*dot)(const float* a, const float* b, int64_t dim);
  // max = -inf, sum = 0, acc = 0.
  void (*begin)(const AttentionTile& tile);
  // One step of the online softmax (Milakov & Gimelshein 2018).
  void (*forward)(const AttentionTile& tile, const AttentionBlock& block);
  // tile takes in the state of the same rows over other, later keys.
  void (*merge)(const AttentionTile& tile, const AttentionTile& other);
  // Row r goes to out[r]: acc / sum (zeros when it saw no key); lse[r] = max + log(sum), if lse is given.
  void (*finish)(const AttentionTile& tile, float* const* out, float* lse);
  // Recomputes the block's probabilities from lse and adds to dq, dk, dv (Dao et al. 2022, algorithm 4).
  void (*backward)(const AttentionTile& tile, const AttentionBlock& block);
};

}  // namespace vertebra
