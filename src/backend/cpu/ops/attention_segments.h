// Packed segments as the attention kernels of training see them: the tokens of a segment listed in order, so
// that everything counts from the segment's start and a document gives the same bits alone and packed with
// others. Used by attention.cc and attention_grad.cc.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/kernel.h"
#include "backend/cpu/ops/attention_tiles.h"

namespace vertebra::cpu {

struct Segment {
  int32_t batch, begin, length;  // tokens order[batch * T + begin ...]
  int32_t first;                 // of a group: its first token, from the segment's start
};

inline AttentionSizes attention_sizes(const Node& node) {
  const Shape &q = node.operands[0].shape(), &k = node.operands[1].shape();
  return {.query_heads = q[2],
          .key_heads = k[2],
          .dim = q[3],
          .window = node.attrs.get_or<int64_t>("window", 0),
          .scale = attention_scale(node.attrs.get_or<double>("scale", 0), q[3])};
}

// Lists the tokens of every row grouped by segment, in increasing order within each (tokens of segment < 0
// first), and returns the number of segments written. Segments need not be contiguous or increasing.
inline int64_t list_segments(const int32_t* ids, int64_t batch, int64_t tokens, int32_t* order,
                             Segment* segments) {
  int64_t count = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int32_t* row = ids + b * tokens;
    int32_t* sorted = order + b * tokens;
    const auto key = [&](int32_t t) { return std::max(row[t], -1); };
    bool increasing = true;
    for (int64_t t = 0; t < tokens; ++t) {
      sorted[t] = static_cast<int32_t>(t);
      increasing = increasing && (t == 0 || key(static_cast<int32_t>(t - 1)) <= key(static_cast<int32_t>(t)));
    }
    if (!increasing) {
      std::sort(sorted, sorted + tokens,
                [&](int32_t x, int32_t y) { return key(x) != key(y) ? key(x) < key(y) : x < y; });
    }
    for (int64_t t = 0; t < tokens;) {
      int64_t end = t + 1;
      while (end < tokens && key(sorted[end]) == key(sorted[t])) ++end;
      if (row[sorted[t]] >= 0) {
        segments[count++] = {static_cast<int32_t>(b), static_cast<int32_t>(t), static_cast<int32_t>(end - t),
                             0};
      }
      t = end;
    }
  }
  return count;
}

// Packs one head of the tokens order[0 .. count) of x, whose tokens lie `stride` apart, in runs of
// neighbours.
inline void pack_tokens(const float* x, int64_t stride, const int32_t* order, int64_t count, int64_t dim,
                        float* to, int64_t to_stride) {
  for (int64_t i = 0; i < count;) {
    int64_t end = i + 1;
    while (end < count && order[end] == order[end - 1] + 1) ++end;
    kernels().attention->pack_f32(x + order[i] * stride, stride, end - i, dim, to + i * to_stride, to_stride);
    i = end;
  }
}

// f32 throughout, but for the segments.
inline bool attention_supported(const Node& node, size_t floats) {
  for (size_t i = 0; i < node.operands.size(); ++i) {
    if (node.operands[i].dtype() != (i == 3 ? DType::kI32 : DType::kF32)) return false;
  }
  for (size_t i = 0; i < floats; ++i) {
    if (node.results[i].dtype != DType::kF32) return false;
  }
  return true;
}

}  // namespace vertebra::cpu
