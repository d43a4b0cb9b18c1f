// What the attention kernels share around the inner routines of kernels/attention.h: the scratch memory of a
// worker, and the walk of a group of query rows over their keys. Called by attention.cc and
// paged_attention.cc, which say where rows and keys lie.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/kernels/attention.h"
#include "backend/cpu/kernels/gemm.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/workspace.h"

namespace vertebra::cpu {

// Keys are taken in blocks of 64, blocks in chunks of 512; both are counted from the first key of the segment
// or request, and the states of chunks are merged in order. So a long context can be split over workers.
inline constexpr int64_t kAttentionChunk = 8 * kAttentionKeys;
// Query rows that share one packing of a block of keys.
inline constexpr int64_t kAttentionGroupRows = 4 * kAttentionRows;

struct AttentionSizes {
  int64_t query_heads, key_heads, dim, window;
  float scale;

  int64_t heads_per_key() const { return query_heads / key_heads; }
  int64_t padded() const { return attention_padded(dim); }
  // Tokens whose query rows (of one key head) form a group.
  int64_t group_tokens() const {
    return heads_per_key() >= kAttentionGroupRows ? 1 : kAttentionGroupRows / heads_per_key();
  }
};

// The running state of a group: maxima, sums, weighted values.
struct AttentionState {
  float* max;
  float* sum;
  float* acc;
};

// Scratch memory of one worker for forward groups.
struct AttentionScratch {
  float *q, *keys, *keys_transposed, *values, *scores, *lse;
  AttentionState state, chunk;
  int32_t* positions;
  float** out;

  AttentionScratch(Carver& carver, const AttentionSizes& sizes) {
    const int64_t rows = sizes.group_tokens() * sizes.heads_per_key(), padded = sizes.padded();
    q = carver.take<float>(rows * padded);
    keys = carver.take<float>(kAttentionKeys * padded);
    keys_transposed = carver.take<float>(kAttentionKeys * sizes.dim);
    values = carver.take<float>(kAttentionKeys * padded);
    scores = carver.take<float>(kAttentionRows * kAttentionKeys);
    lse = carver.take<float>(rows);
    state = {carver.take<float>(rows), carver.take<float>(rows), carver.take<float>(rows * padded)};
    chunk = {carver.take<float>(rows), carver.take<float>(rows), carver.take<float>(rows * padded)};
    positions = carver.take<int32_t>(rows);
    out = carver.take<float*>(rows);
  }
};

inline AttentionTile attention_tile(const AttentionSizes& sizes, const AttentionScratch& scratch,
                                    const AttentionState& state, int64_t first, int64_t rows) {
  AttentionTile tile{};
  tile.rows = rows;
  tile.dim = sizes.dim;
  tile.padded = sizes.padded();
  tile.window = sizes.window;
  tile.scale = sizes.scale;
  tile.q = scratch.q + first * tile.padded;
  tile.positions = scratch.positions + first;
  tile.scores = scratch.scores;
  tile.max = state.max + first;
  tile.sum = state.sum + first;
  tile.acc = state.acc + first * tile.padded;
  return tile;
}

// Calls body(first, rows) for the tiles of `rows` rows, as equal as possible.
template <class Body>
void for_attention_tiles(int64_t rows, Body&& body) {
  const int64_t tiles = (rows + kAttentionRows - 1) / kAttentionRows;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = rows * i / tiles, last = rows * (i + 1) / tiles;
    body(first, last - first);
  }
}

// to[d * 64 + i] = from[i * stride + d] for i < rows <= 64, zeros for the other i: the packing of matrix
// products. Meanwhile it fetches the next 64 rows.
inline void transpose_rows(const float* from, int64_t stride, int64_t rows, int64_t dim, float* to) {
  GemmPackJob job{};
  job.source = from;
  job.stride = stride;
  job.k_contiguous = true;
  job.slots = rows;
  job.width = kAttentionKeys;
  job.depth = dim;
  job.ahead = kAttentionKeys * stride;
  job.panel = to;
  vertebra::kernels().gemm->pack(job);
}

// Where a block's keys and values lie: `stride` elements from one to the next; values are padded. Null keys:
// they lie transposed in the scratch already.
struct AttentionRows {
  const float* keys;
  int64_t key_stride;
  const float* values;
  int64_t value_stride;
};

// Takes the keys [first, last) into `state` for the rows in the scratch's q and positions; first and last lie
// in one chunk, first at the start of a block. rows_of(start, width, keys, values) says where the rows of
// keys and values lie; the two buffers, of rows padded() apart, are there to be written to.
template <class RowsOf>
void attend_keys(const AttentionKernels& kernels, const AttentionSizes& sizes,
                 const AttentionScratch& scratch, const AttentionState& state, int64_t rows, int64_t first,
                 int64_t last, RowsOf&& rows_of) {
  for (int64_t start = first; start < last; start += kAttentionKeys) {
    const int64_t width = start + kAttentionKeys < last ? kAttentionKeys : last - start;
    const AttentionRows found = rows_of(start, width, scratch.keys, scratch.values);
    if (found.keys != nullptr)
      transpose_rows(found.keys, found.key_stride, width, sizes.dim, scratch.keys_transposed);
    AttentionBlock block{};
    block.start = start;
    block.width = width;
    block.keys_transposed = scratch.keys_transposed;
    block.values = found.values;
    block.value_stride = found.value_stride;
    for_attention_tiles(rows, [&](int64_t at, int64_t count) {
      kernels.forward(attention_tile(sizes, scratch, state, at, count), block);
    });
  }
}

// The first key any row of the group sees, rounded down to a block.
inline int64_t first_attended_key(const AttentionSizes& sizes, int64_t smallest_position) {
  if (sizes.window <= 0 || smallest_position < sizes.window) return 0;
  return (smallest_position - sizes.window + 1) / kAttentionKeys * kAttentionKeys;
}

// The whole attention of the rows in the scratch's q and positions over the keys their positions let them
// see; results go to out and, if wanted, the scratch's lse.
template <class RowsOf>
void attend_group(const AttentionKernels& kernels, const AttentionSizes& sizes,
                  const AttentionScratch& scratch, int64_t rows, bool with_lse, RowsOf&& rows_of) {
  const int64_t end = scratch.positions[rows - 1] + 1;
  const auto begin = [&](const AttentionState& state) {
    for_attention_tiles(rows, [&](int64_t at, int64_t count) {
      kernels.begin(attention_tile(sizes, scratch, state, at, count));
    });
  };
  begin(scratch.state);
  bool first_chunk = true;
  for (int64_t key = first_attended_key(sizes, scratch.positions[0]); key < end;) {
    const int64_t boundary = (key / kAttentionChunk + 1) * kAttentionChunk;
    const int64_t last = boundary < end ? boundary : end;
    if (first_chunk) {
      // The same bits as merging the chunk into the empty state.
      attend_keys(kernels, sizes, scratch, scratch.state, rows, key, last, rows_of);
    } else {
      begin(scratch.chunk);
      attend_keys(kernels, sizes, scratch, scratch.chunk, rows, key, last, rows_of);
      for_attention_tiles(rows, [&](int64_t at, int64_t count) {
        kernels.merge(attention_tile(sizes, scratch, scratch.state, at, count),
                      attention_tile(sizes, scratch, scratch.chunk, at, count));
      });
    }
    first_chunk = false;
    key = last;
  }
  for_attention_tiles(rows, [&](int64_t at, int64_t count) {
    kernels.finish(attention_tile(sizes, scratch, scratch.state, at, count), scratch.out + at,
                   with_lse ? scratch.lse + at : nullptr);
  });
}

inline float attention_scale(double scale, int64_t dim) {
  return static_cast<float>(scale != 0 ? scale : 1.0 / std::sqrt(static_cast<double>(dim)));
}

}  // namespace vertebra::cpu
