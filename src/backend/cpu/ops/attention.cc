// The kernels of `attention` (causal, packed segments) and `attention_grad`. A segment's tokens are first
// listed in order, so that everything below counts from the segment's start and a document gives the same
// bits alone and packed with others. Forward work is split over (group of query rows, key head), backward
// work over (segment, key head), each owning its outputs.
#include <algorithm>
#include <cstring>
#include <memory>

#include "backend/cpu/kernel.h"
#include "backend/cpu/ops/attention_tiles.h"

namespace vertebra::cpu {
namespace {

struct Segment {
  int32_t batch, begin, length;  // tokens order[batch * T + begin ...]
  int32_t first;                 // of a group: its first token, from the segment's start
};

AttentionSizes sizes_of(const Node& node) {
  const Shape &q = node.operands[0].shape(), &k = node.operands[1].shape();
  return {.query_heads = q[2],
          .key_heads = k[2],
          .dim = q[3],
          .window = node.attrs.get_or<int64_t>("window", 0),
          .scale = attention_scale(node.attrs.get_or<double>("scale", 0), q[3])};
}

// Lists the tokens of every row grouped by segment, in increasing order within each (tokens of segment < 0
// first), and returns the number of segments written. Segments need not be contiguous or increasing.
int64_t list_segments(const int32_t* ids, int64_t batch, int64_t tokens, int32_t* order, Segment* segments) {
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

// Splits segments into groups of at most `group` tokens, the longest contexts first so that no worker ends
// late.
int64_t list_groups(const Segment* segments, int64_t count, int64_t group, Segment* groups) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t first = 0; first < segments[i].length; first += group) {
      groups[total] = segments[i];
      groups[total++].first = static_cast<int32_t>(first);
    }
  }
  std::sort(groups, groups + total, [](const Segment& a, const Segment& b) {
    return a.first != b.first   ? a.first > b.first
           : a.batch != b.batch ? a.batch < b.batch
                                : a.begin < b.begin;
  });
  return total;
}

// Packs one head of the tokens order[0 .. count) of x, whose tokens lie `stride` apart, in runs of
// neighbours.
void pack_tokens(const float* x, int64_t stride, const int32_t* order, int64_t count, int64_t dim, float* to,
                 int64_t to_stride) {
  for (int64_t i = 0; i < count;) {
    int64_t end = i + 1;
    while (end < count && order[end] == order[end - 1] + 1) ++end;
    kernels().attention->pack_f32(x + order[i] * stride, stride, end - i, dim, to + i * to_stride, to_stride);
    i = end;
  }
}

bool supported(const Node& node, size_t floats) {
  for (size_t i = 0; i < node.operands.size(); ++i) {
    if (node.operands[i].dtype() != (i == 3 ? DType::kI32 : DType::kF32)) return false;
  }
  for (size_t i = 0; i < floats; ++i) {
    if (node.results[i].dtype != DType::kF32) return false;
  }
  return true;
}

class AttentionKernel final : public Kernel {
 public:
  explicit AttentionKernel(const Node& node)
      : sizes_(sizes_of(node)), batch_(node.operands[0].shape()[0]), tokens_(node.operands[0].shape()[1]) {}

  size_t workspace_bytes(int threads) const override {
    Carver carver(nullptr);
    carver.take<int32_t>(batch_ * tokens_);
    carver.take<Segment>(batch_ * tokens_);
    carver.take<Segment>(batch_ * tokens_);
    for (int i = 0; i < threads; ++i) AttentionScratch(carver, sizes_);
    return carver.used();
  }

  bool can_share(int operand, int result) const override { return operand == 0 && result == 0; }

  void run(const KernelCall& call) const override {
    const Shape& shape = call.operands[0].type.shape;
    const int64_t batch = shape[0], tokens = shape[1];
    const auto* ids = call.operands[3].as<const int32_t>();
    Carver carver(call.workspace);
    auto* order = carver.take<int32_t>(batch_ * tokens_);
    auto* segments = carver.take<Segment>(batch_ * tokens_);
    auto* groups = carver.take<Segment>(batch_ * tokens_);
    const size_t first_scratch = carver.used();
    Carver measure(nullptr);
    AttentionScratch(measure, sizes_);

    const int64_t count = list_segments(ids, batch, tokens, order, segments);
    const int64_t total = list_groups(segments, count, sizes_.group_tokens(), groups);
    clear_unsegmented(call, ids, batch, tokens);
    call.team.parallel_for(total * sizes_.key_heads, [&](int64_t index, int worker) {
      Carver mine(call.workspace + first_scratch + static_cast<size_t>(worker) * measure.used());
      const Segment& group = groups[index / sizes_.key_heads];
      run_group(call, AttentionScratch(mine, sizes_), group, order + group.batch * tokens + group.begin,
                tokens, index % sizes_.key_heads);
    });
  }

 private:
  void clear_unsegmented(const KernelCall& call, const int32_t* ids, int64_t batch, int64_t tokens) const {
    const int64_t width = sizes_.query_heads * sizes_.dim;
    for (int64_t i = 0; i < batch * tokens; ++i) {
      if (ids[i] >= 0) continue;
      std::memset(call.results[0].as<float>() + i * width, 0, static_cast<size_t>(width) * sizeof(float));
      for (int64_t h = 0; h < sizes_.query_heads; ++h)
        call.results[1].as<float>()[(i / tokens * sizes_.query_heads + h) * tokens + i % tokens] = 0;
    }
  }

  void run_group(const KernelCall& call, const AttentionScratch& scratch, const Segment& group,
                 const int32_t* order, int64_t tokens, int64_t key_head) const {
    const AttentionKernels& kernels = *vertebra::kernels().attention;
    const int64_t heads = sizes_.heads_per_key(), dim = sizes_.dim, padded = sizes_.padded();
    const int64_t length = std::min<int64_t>(sizes_.group_tokens(), group.length - group.first);
    const int64_t rows = length * heads, batch_start = group.batch * tokens;
    const int32_t* tokens_of_group = order + group.first;
    const int64_t query_stride = sizes_.query_heads * dim, key_stride = sizes_.key_heads * dim;
    const int64_t query_start = batch_start * query_stride + key_head * heads * dim;
    for (int64_t h = 0; h < heads; ++h) {
      pack_tokens(call.operands[0].as<const float>() + query_start + h * dim, query_stride, tokens_of_group,
                  length, dim, scratch.q + h * padded, heads * padded);
      for (int64_t i = 0; i < length; ++i) {
        scratch.positions[i * heads + h] = static_cast<int32_t>(group.first + i);
        scratch.out[i * heads + h] =
            call.results[0].as<float>() + query_start + tokens_of_group[i] * query_stride + h * dim;
      }
    }
    const int64_t key_start = batch_start * key_stride + key_head * dim;
    const auto* k = call.operands[1].as<const float>() + key_start;
    const auto* v = call.operands[2].as<const float>() + key_start;
    attend_group(kernels, sizes_, scratch, rows, true,
                 [&](int64_t start, int64_t width, float* keys, float* values) {
                   pack_tokens(k, key_stride, order + start, width, dim, keys, padded);
                   pack_tokens(v, key_stride, order + start, width, dim, values, padded);
                 });
    float* lse = call.results[1].as<float>() + (group.batch * sizes_.query_heads + key_head * heads) * tokens;
    for (int64_t i = 0; i < length; ++i)
      for (int64_t h = 0; h < heads; ++h)
        lse[h * tokens + order[group.first + i]] = scratch.lse[i * heads + h];
  }

  AttentionSizes sizes_;
  int64_t batch_, tokens_;
};

// Scratch memory of one worker for the gradient of a segment.
struct GradientScratch {
  float *q, *dout, *dq, *lse, *delta;
  float *keys, *keys_transposed, *values, *values_transposed, *dk, *dv, *scores, *gradients;
  int32_t* positions;

  GradientScratch(Carver& carver, const AttentionSizes& sizes, int64_t tokens) {
    const int64_t rows = tokens * sizes.heads_per_key(), padded = sizes.padded();
    q = carver.take<float>(rows * padded);
    dout = carver.take<float>(rows * padded);
    dq = carver.take<float>(rows * padded);
    lse = carver.take<float>(rows);
    delta = carver.take<float>(rows);
    positions = carver.take<int32_t>(rows);
    keys = carver.take<float>(kAttentionKeys * padded);
    values = carver.take<float>(kAttentionKeys * padded);
    keys_transposed = carver.take<float>(kAttentionKeys * sizes.dim);
    values_transposed = carver.take<float>(kAttentionKeys * sizes.dim);
    dk = carver.take<float>(kAttentionKeys * padded);
    dv = carver.take<float>(kAttentionKeys * padded);
    scores = carver.take<float>(kAttentionRows * kAttentionKeys);
    gradients = carver.take<float>(kAttentionRows * kAttentionKeys);
  }
};

// Operands q, k, v, segments, out, lse, dout; results dq, dk, dv.
class AttentionGradKernel final : public Kernel {
 public:
  explicit AttentionGradKernel(const Node& node)
      : sizes_(sizes_of(node)), batch_(node.operands[0].shape()[0]), tokens_(node.operands[0].shape()[1]) {}

  size_t workspace_bytes(int threads) const override {
    Carver carver(nullptr);
    carver.take<int32_t>(batch_ * tokens_);
    carver.take<Segment>(batch_ * tokens_);
    for (int i = 0; i < threads; ++i) GradientScratch(carver, sizes_, tokens_);
    return carver.used();
  }

  // Queries are packed before their gradient is written, a block of keys and values before theirs.
  bool can_share(int operand, int result) const override { return operand == result && operand < 3; }

  void run(const KernelCall& call) const override {
    const Shape& shape = call.operands[0].type.shape;
    const int64_t batch = shape[0], tokens = shape[1];
    const auto* ids = call.operands[3].as<const int32_t>();
    Carver carver(call.workspace);
    auto* order = carver.take<int32_t>(batch_ * tokens_);
    auto* segments = carver.take<Segment>(batch_ * tokens_);
    const size_t first_scratch = carver.used();
    Carver measure(nullptr);
    GradientScratch(measure, sizes_, tokens_);

    const int64_t count = list_segments(ids, batch, tokens, order, segments);
    std::sort(segments, segments + count, [](const Segment& a, const Segment& b) {
      return a.length != b.length ? a.length > b.length
             : a.batch != b.batch ? a.batch < b.batch
                                  : a.begin < b.begin;
    });
    clear_unsegmented(call, ids, batch * tokens);
    call.team.parallel_for(count * sizes_.key_heads, [&](int64_t index, int worker) {
      Carver mine(call.workspace + first_scratch + static_cast<size_t>(worker) * measure.used());
      const Segment& segment = segments[index / sizes_.key_heads];
      run_segment(call, GradientScratch(mine, sizes_, tokens_), segment,
                  order + segment.batch * tokens + segment.begin, tokens, index % sizes_.key_heads);
    });
  }

 private:
  void clear_unsegmented(const KernelCall& call, const int32_t* ids, int64_t tokens) const {
    for (int64_t i = 0; i < tokens; ++i) {
      if (ids[i] >= 0) continue;
      for (size_t r = 0; r < 3; ++r) {
        const int64_t width = (r == 0 ? sizes_.query_heads : sizes_.key_heads) * sizes_.dim;
        std::memset(call.results[r].as<float>() + i * width, 0, static_cast<size_t>(width) * sizeof(float));
      }
    }
  }

  void pack_rows(const KernelCall& call, const GradientScratch& scratch, const Segment& segment,
                 const int32_t* order, int64_t tokens, int64_t key_head) const {
    const AttentionKernels& kernels = *vertebra::kernels().attention;
    const int64_t heads = sizes_.heads_per_key(), dim = sizes_.dim, padded = sizes_.padded();
    const auto* lse = call.operands[5].as<const float>();
    const int64_t stride = sizes_.query_heads * dim;
    const int64_t start = segment.batch * tokens * stride + key_head * heads * dim;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = start + h * dim;
      pack_tokens(call.operands[0].as<const float>() + at, stride, order, segment.length, dim,
                  scratch.q + h * padded, heads * padded);
      pack_tokens(call.operands[6].as<const float>() + at, stride, order, segment.length, dim,
                  scratch.dout + h * padded, heads * padded);
      const float* lse_row = lse + (segment.batch * sizes_.query_heads + key_head * heads + h) * tokens;
      for (int64_t i = 0; i < segment.length; ++i) {
        const int64_t r = i * heads + h;
        scratch.positions[r] = static_cast<int32_t>(i);
        scratch.lse[r] = lse_row[order[i]];
        scratch.delta[r] = kernels.dot(scratch.dout + r * padded,
                                       call.operands[4].as<const float>() + at + order[i] * stride, dim);
      }
    }
    std::memset(scratch.dq, 0, static_cast<size_t>(segment.length * heads * padded) * sizeof(float));
  }

  void run_segment(const KernelCall& call, const GradientScratch& scratch, const Segment& segment,
                   const int32_t* order, int64_t tokens, int64_t key_head) const {
    const int64_t heads = sizes_.heads_per_key(), dim = sizes_.dim, padded = sizes_.padded();
    const int64_t key_stride = sizes_.key_heads * dim;
    pack_rows(call, scratch, segment, order, tokens, key_head);
    const auto key_offset = [&](int64_t j) {
      return ((segment.batch * tokens + order[j]) * sizes_.key_heads + key_head) * dim;
    };
    for (int64_t start = 0; start < segment.length; start += kAttentionKeys) {
      const int64_t width = std::min<int64_t>(kAttentionKeys, segment.length - start);
      const int64_t key_start = segment.batch * tokens * key_stride + key_head * dim;
      pack_tokens(call.operands[1].as<const float>() + key_start, key_stride, order + start, width, dim,
                  scratch.keys, padded);
      pack_tokens(call.operands[2].as<const float>() + key_start, key_stride, order + start, width, dim,
                  scratch.values, padded);
      run_block(scratch, start, width, segment.length);
      for (int64_t j = 0; j < width; ++j) {
        std::memcpy(call.results[1].as<float>() + key_offset(start + j), scratch.dk + j * padded,
                    static_cast<size_t>(dim) * sizeof(float));
        std::memcpy(call.results[2].as<float>() + key_offset(start + j), scratch.dv + j * padded,
                    static_cast<size_t>(dim) * sizeof(float));
      }
    }
    for (int64_t i = 0; i < segment.length; ++i) {
      const int64_t offset =
          ((segment.batch * tokens + order[i]) * sizes_.query_heads + key_head * heads) * dim;
      for (int64_t h = 0; h < heads; ++h)
        std::memcpy(call.results[0].as<float>() + offset + h * dim, scratch.dq + (i * heads + h) * padded,
                    static_cast<size_t>(dim) * sizeof(float));
    }
  }

  // dk and dv of one block of keys, and its part of dq, over the rows from the block's first token on.
  void run_block(const GradientScratch& scratch, int64_t start, int64_t width, int64_t length) const {
    const AttentionKernels& kernels = *vertebra::kernels().attention;
    const int64_t heads = sizes_.heads_per_key(), padded = sizes_.padded();
    kernels.transpose(scratch.keys, width, sizes_.dim, scratch.keys_transposed);
    kernels.transpose(scratch.values, width, sizes_.dim, scratch.values_transposed);
    std::memset(scratch.dk, 0, static_cast<size_t>(width * padded) * sizeof(float));
    std::memset(scratch.dv, 0, static_cast<size_t>(width * padded) * sizeof(float));
    AttentionBlock block{};
    block.start = start;
    block.width = width;
    block.keys = scratch.keys;
    block.keys_transposed = scratch.keys_transposed;
    block.values_transposed = scratch.values_transposed;
    const int64_t end = sizes_.window > 0 ? std::min(length, start + width + sizes_.window - 1) : length;
    for (int64_t first = start * heads; first < end * heads; first += kAttentionRows) {
      AttentionTile tile{};
      tile.rows = std::min(kAttentionRows, end * heads - first);
      tile.dim = sizes_.dim;
      tile.padded = padded;
      tile.window = sizes_.window;
      tile.scale = sizes_.scale;
      tile.q = scratch.q + first * padded;
      tile.positions = scratch.positions + first;
      tile.scores = scratch.scores;
      tile.gradients = scratch.gradients;
      tile.dout = scratch.dout + first * padded;
      tile.lse = scratch.lse + first;
      tile.delta = scratch.delta + first;
      tile.dq = scratch.dq + first * padded;
      tile.dk = scratch.dk;
      tile.dv = scratch.dv;
      kernels.backward(tile, block);
    }
  }

  AttentionSizes sizes_;
  int64_t batch_, tokens_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention(const Node& node) {
  if (!supported(node, 2)) return nullptr;
  return std::make_unique<AttentionKernel>(node);
}

std::unique_ptr<Kernel> make_attention_grad(const Node& node) {
  if (!supported(node, 3)) return nullptr;
  return std::make_unique<AttentionGradKernel>(node);
}

}  // namespace vertebra::cpu
