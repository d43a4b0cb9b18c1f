// The kernel of `attention` (causal, packed segments). Work is split over (group of query rows, key head),
// each owning its outputs.
#include <algorithm>
#include <cstring>
#include <memory>

#include "backend/cpu/kernel.h"
#include "backend/cpu/ops/attention_segments.h"
#include "backend/cpu/ops/attention_tiles.h"

namespace vertebra::cpu {
namespace {

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

class AttentionKernel final : public Kernel {
 public:
  explicit AttentionKernel(const Node& node)
      : sizes_(attention_sizes(node)),
        batch_(node.operands[0].shape()[0]),
        tokens_(node.operands[0].shape()[1]) {}

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
                   return AttentionRows{keys, padded, values, padded};
                 });
    float* lse = call.results[1].as<float>() + (group.batch * sizes_.query_heads + key_head * heads) * tokens;
    for (int64_t i = 0; i < length; ++i)
      for (int64_t h = 0; h < heads; ++h)
        lse[h * tokens + order[group.first + i]] = scratch.lse[i * heads + h];
  }

  AttentionSizes sizes_;
  int64_t batch_, tokens_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention(const Node& node) {
  if (!attention_supported(node, 2)) return nullptr;
  return std::make_unique<AttentionKernel>(node);
}

}  // namespace vertebra::cpu
