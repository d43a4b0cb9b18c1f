// The kernel of `attention_grad`. A segment and key head is one task that goes once over the pairs of key
// blocks and query tiles. When there are too few of those for the team, a first round gives dk and dv by
// ranges of keys and a second dq by ranges of queries, recomputing the probabilities: 7 products instead of
// 5, the same bits.
#include <algorithm>
#include <cstring>
#include <memory>

#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/convert.h"
#include "backend/cpu/ops/attention_segments.h"
#include "backend/cpu/ops/attention_tiles.h"

namespace vertebra::cpu {
namespace {

// Tokens of a segment: [first, last).
struct Tokens {
  int64_t first, last;
};

// Scratch memory of one worker.
struct GradientScratch {
  float *q, *dout, *dq, *lse, *delta;
  float *keys, *keys_transposed, *values, *values_transposed, *dk, *dv, *scores, *gradients;
  int32_t* positions;
  int64_t base = 0;  // the token (of the segment) that the first row belongs to

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

// One task: a segment and key head.
struct Task {
  const KernelCall& call;
  const GradientScratch& scratch;
  const int32_t* order;  // of the segment's tokens
  int64_t length;        // of the segment
  int64_t batch, key_head;
  int64_t tokens;  // in a row of the batch
};

// Operands q, k, v, segments, out, lse, dout, dlse (if any); results dq, dk, dv.
class AttentionGradKernel final : public Kernel {
 public:
  explicit AttentionGradKernel(const Node& node)
      : sizes_(attention_sizes(node)),
        batch_(node.operands[0].shape()[0]),
        tokens_(node.operands[0].shape()[1]) {}

  bool can_round_result(int) const override { return true; }
  size_t workspace_bytes(int threads) const override {
    Carver carver(nullptr);
    carver.take<int32_t>(batch_ * tokens_);
    carver.take<Segment>(batch_ * tokens_);
    for (int i = 0; i < threads; ++i) GradientScratch(carver, sizes_, tokens_);
    return carver.used();
  }

  // dq is written last. Not dk and dv: the second round still reads keys and values.
  bool can_share(int operand, int result) const override { return operand == 0 && result == 0; }

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
    // Calls body(task, part) for every segment, key head and part of a segment.
    const auto for_tasks = [&](int64_t parts, const auto& body) {
      call.team.parallel_for(count * sizes_.key_heads * parts, [&](int64_t index, int worker) {
        Carver mine(call.workspace + first_scratch + static_cast<size_t>(worker) * measure.used());
        const GradientScratch scratch(mine, sizes_, tokens_);
        const Segment& segment = segments[index / (sizes_.key_heads * parts)];
        const int64_t key_head = index / parts % sizes_.key_heads;
        body(Task{call, scratch, order + segment.batch * tokens + segment.begin, segment.length,
                  segment.batch, key_head, tokens},
             index % parts);
      });
    };
    const int threads = call.team.size();
    if (threads == 1 || count * sizes_.key_heads >= 2 * threads || count == 0) {
      for_tasks(1, [&](const Task& task, int64_t) { run_keys(task, {0, task.length}, true); });
      return;
    }
    const int64_t parts = (segments[0].length + kPartTokens - 1) / kPartTokens;
    const auto part_of = [](const Task& task, int64_t part) {
      return Tokens{part * kPartTokens, std::min(task.length, (part + 1) * kPartTokens)};
    };
    for_tasks(parts, [&](const Task& task, int64_t part) {
      const Tokens range = part_of(task, part);
      if (range.first < range.last) run_keys(task, range, false);
    });
    for_tasks(parts, [&](const Task& task, int64_t part) {
      const Tokens range = part_of(task, parts - 1 - part);  // the longest first
      if (range.first < range.last) run_queries(task, range);
    });
  }

 private:
  static constexpr int64_t kPartTokens = 2 * kAttentionKeys;

  void clear_unsegmented(const KernelCall& call, const int32_t* ids, int64_t tokens) const {
    for (int64_t i = 0; i < tokens; ++i) {
      if (ids[i] >= 0) continue;
      for (size_t r = 0; r < 3; ++r) {
        const int64_t width = (r == 0 ? sizes_.query_heads : sizes_.key_heads) * sizes_.dim;
        const auto bytes = static_cast<size_t>(width) * dtype_size(call.results[r].type.dtype);
        std::memset(call.results[r].as<std::byte>() + static_cast<size_t>(i) * bytes, 0, bytes);
      }
    }
  }

  // Where the first of the task's query rows, or its key row, of token 0 of the batch row lies.
  int64_t query_start(const Task& task) const {
    return (task.batch * task.tokens * sizes_.query_heads + task.key_head * sizes_.heads_per_key()) *
           sizes_.dim;
  }
  int64_t key_start(const Task& task) const {
    return (task.batch * task.tokens * sizes_.key_heads + task.key_head) * sizes_.dim;
  }

  // Queries, gradients of the output, lse and delta of the rows of these tokens; dq = 0.
  void pack_rows(const Task& task, GradientScratch& scratch, Tokens range) const {
    const AttentionKernels& kernels = *vertebra::kernels().attention;
    const int64_t heads = sizes_.heads_per_key(), dim = sizes_.dim, padded = sizes_.padded();
    const int64_t stride = sizes_.query_heads * dim, count = range.last - range.first;
    const int32_t* order = task.order + range.first;
    scratch.base = range.first;
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t at = query_start(task) + h * dim;
      pack_tokens(task.call.operands[0].as<const float>() + at, stride, order, count, dim,
                  scratch.q + h * padded, heads * padded);
      pack_tokens(task.call.operands[6].as<const float>() + at, stride, order, count, dim,
                  scratch.dout + h * padded, heads * padded);
      const auto* lse = task.call.operands[5].as<const float>() +
                        (task.batch * sizes_.query_heads + task.key_head * heads + h) * task.tokens;
      const float* dlse = task.call.operands.size() < 8 ? nullptr : task.call.operands[7].as<const float>();
      if (dlse != nullptr) dlse += lse - task.call.operands[5].as<const float>();
      const auto* out = task.call.operands[4].as<const float>() + at;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t r = i * heads + h;
        scratch.positions[r] = static_cast<int32_t>(range.first + i);
        scratch.lse[r] = lse[order[i]];
        scratch.delta[r] = kernels.dot(scratch.dout + r * padded, out + order[i] * stride, dim);
        if (dlse != nullptr) scratch.delta[r] -= dlse[order[i]];
      }
    }
    std::memset(scratch.dq, 0, static_cast<size_t>(count * heads * padded) * sizeof(float));
  }

  AttentionBlock pack_keys(const Task& task, const GradientScratch& scratch, int64_t start,
                           int64_t width) const {
    const int64_t stride = sizes_.key_heads * sizes_.dim, padded = sizes_.padded();
    pack_tokens(task.call.operands[1].as<const float>() + key_start(task), stride, task.order + start, width,
                sizes_.dim, scratch.keys, padded);
    pack_tokens(task.call.operands[2].as<const float>() + key_start(task), stride, task.order + start, width,
                sizes_.dim, scratch.values, padded);
    transpose_rows(scratch.keys, sizes_.padded(), width, sizes_.dim, scratch.keys_transposed);
    transpose_rows(scratch.values, sizes_.padded(), width, sizes_.dim, scratch.values_transposed);
    AttentionBlock block{};
    block.start = start;
    block.width = width;
    block.keys = scratch.keys;
    block.keys_transposed = scratch.keys_transposed;
    block.values_transposed = scratch.values_transposed;
    return block;
  }

  // The block against the rows of these tokens, tile by tile.
  void run_block(const GradientScratch& scratch, const AttentionBlock& block, Tokens range, bool with_dq,
                 bool with_dk) const {
    const int64_t heads = sizes_.heads_per_key(), padded = sizes_.padded();
    const int64_t end = (range.last - scratch.base) * heads;
    for (int64_t first = (range.first - scratch.base) * heads; first < end; first += kAttentionRows) {
      AttentionTile tile{};
      tile.rows = std::min(kAttentionRows, end - first);
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
      tile.dq = with_dq ? scratch.dq + first * padded : nullptr;
      tile.dk = with_dk ? scratch.dk : nullptr;
      tile.dv = with_dk ? scratch.dv : nullptr;
      kernels().attention->backward(tile, block);
    }
  }

  // dk and dv of a range of keys, from all rows that see them; with dq (of all rows) when the range is the
  // segment.
  void run_keys(const Task& task, Tokens range, bool with_dq) const {
    const int64_t padded = sizes_.padded(), stride = sizes_.key_heads * sizes_.dim;
    GradientScratch scratch = task.scratch;
    const auto last_row = [&](int64_t last_key) {
      return sizes_.window > 0 ? std::min(task.length, last_key + sizes_.window - 1) : task.length;
    };
    pack_rows(task, scratch, {range.first, last_row(range.last)});
    for (int64_t start = range.first; start < range.last; start += kAttentionKeys) {
      const int64_t width = std::min(kAttentionKeys, range.last - start);
      const AttentionBlock block = pack_keys(task, scratch, start, width);
      std::memset(scratch.dk, 0, static_cast<size_t>(width * padded) * sizeof(float));
      std::memset(scratch.dv, 0, static_cast<size_t>(width * padded) * sizeof(float));
      run_block(scratch, block, {start, last_row(start + width)}, with_dq, true);
      for (int64_t j = 0; j < width; ++j) {
        const int64_t to = key_start(task) + task.order[start + j] * stride;
        write_row(scratch.dk + j * padded, task.call.results[1], to);
        write_row(scratch.dv + j * padded, task.call.results[2], to);
      }
    }
    if (with_dq) write_dq(task, scratch, range);
  }

  // dq of a range of tokens, over all keys they see.
  void run_queries(const Task& task, Tokens range) const {
    GradientScratch scratch = task.scratch;
    pack_rows(task, scratch, range);
    for (int64_t start = first_attended_key(sizes_, range.first); start < range.last;
         start += kAttentionKeys) {
      const int64_t width = std::min(kAttentionKeys, task.length - start);
      run_block(scratch, pack_keys(task, scratch, start, width), {std::max(range.first, start), range.last},
                true, false);
    }
    write_dq(task, scratch, range);
  }

  void write_dq(const Task& task, const GradientScratch& scratch, Tokens range) const {
    const int64_t heads = sizes_.heads_per_key(), padded = sizes_.padded();
    for (int64_t i = 0; i < range.last - range.first; ++i) {
      const int64_t to = query_start(task) + task.order[range.first + i] * sizes_.query_heads * sizes_.dim;
      for (int64_t h = 0; h < heads; ++h)
        write_row(scratch.dq + (i * heads + h) * padded, task.call.results[0], to + h * sizes_.dim);
    }
  }

  void write_row(const float* from, const TensorRef& result, int64_t at) const {
    if (result.type.dtype == DType::kBF16) {
      kernels().convert->f32_to_bf16(from, result.as<uint16_t>() + at, sizes_.dim);
    } else {
      std::memcpy(result.as<float>() + at, from, static_cast<size_t>(sizes_.dim) * sizeof(float));
    }
  }

  AttentionSizes sizes_;
  int64_t batch_, tokens_;
};

}  // namespace

std::unique_ptr<Kernel> make_attention_grad(const Node& node) {
  if (!attention_supported(node, 3)) return nullptr;
  return std::make_unique<AttentionGradKernel>(node);
}

}  // namespace vertebra::cpu
