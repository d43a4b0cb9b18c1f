// The kernel of `paged_attention`: a ragged serving step over a paged cache. First the new keys and values
// are written into their pages, then every group of query rows of a request walks the request's keys with the
// same routine as the training op, so that its rows have the same bits. When there are few groups (decoding),
// the chunks of a long context are split over the workers and merged in order, which again gives the same
// bits.
#include <algorithm>
#include <cstring>
#include <memory>

#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/convert.h"
#include "backend/cpu/ops/attention_tiles.h"
#include "base/error.h"
#include "ops/ops.h"

namespace vertebra::cpu {
namespace {

// Rows first .. first + length - 1 of the step, all of one request.
struct Group {
  int32_t request, first, length;
};

// Operands by position.
enum : size_t { kQ, kKNew, kVNew, kKCache, kVCache, kPageTable, kRequest, kPositions, kKScales, kVScales };
// Results by position: what is written of operand kKCache + i is result kKeysOut + i, of kKScales + i result
// kKeyScalesOut + i.
enum : size_t { kOut, kKeysOut, kValuesOut, kLse, kKeyScalesOut, kValueScalesOut };

struct Step {
  const int32_t *page_table, *request, *positions;
  int64_t rows, requests, pages_per_request, pages, page_size;

  explicit Step(const KernelCall& call)
      : page_table(call.operands[kPageTable].as<const int32_t>()),
        request(call.operands[kRequest].as<const int32_t>()),
        positions(call.operands[kPositions].as<const int32_t>()),
        rows(call.operands[kQ].type.shape[0]),
        requests(call.operands[kPageTable].type.shape[0]),
        pages_per_request(call.operands[kPageTable].type.shape[1]),
        pages(call.operands[kKCache].type.shape[0]),
        page_size(call.operands[kKCache].type.shape[1]) {}

  // The token of the cache (page * page_size + place in it) that holds a position of a request. A page
  // outside the cache can only lie before the window (see check_pages): its keys are read, but do not count.
  int64_t slot(int64_t of_request, int64_t position) const {
    const int64_t page = page_table[of_request * pages_per_request + position / page_size];
    return std::clamp<int64_t>(page, 0, pages - 1) * page_size + position % page_size;
  }
};

// Every page that the step uses must exist: the table comes from outside the graph.
void check_pages(const Step& step, int64_t window) {
  int64_t first_page = 0;  // that the run of rows at hand uses
  for (int64_t n = 0; n < step.rows; ++n) {
    const int32_t r = step.request[n];
    if (r < 0) continue;
    require(r < step.requests, "paged_attention: row {} belongs to request {}, the page table has {}", n, r,
            step.requests);
    const int64_t position = step.positions[n];
    require(position >= 0 && position < step.pages_per_request * step.page_size,
            "paged_attention: row {} stands at position {}, a request holds {}", n, position,
            step.pages_per_request * step.page_size);
    if (n == 0 || step.request[n - 1] != r)
      first_page = window > 0 ? std::max<int64_t>(position - window + 1, 0) / step.page_size : 0;
    if (n + 1 < step.rows && step.request[n + 1] == r) {
      require(step.positions[n + 1] > position,
              "paged_attention: positions {}, {} of request {} do not increase", position,
              step.positions[n + 1], r);
      continue;
    }
    for (int64_t p = first_page; p <= position / step.page_size; ++p) {
      const int32_t page = step.page_table[r * step.pages_per_request + p];
      require(page >= 0 && page < step.pages,
              "paged_attention: page {} of request {} is {}, the cache has {}", p, r, page, step.pages);
    }
  }
}

class PagedAttentionKernel final : public Kernel {
 public:
  explicit PagedAttentionKernel(const Node& node) {
    const Shape &q = node.operands[kQ].shape(), &cache = node.operands[kKCache].shape();
    sizes_ = {.query_heads = q[1],
              .key_heads = cache[2],
              .dim = q[2],
              .window = node.attrs.get_or<int64_t>("window", 0),
              .scale = attention_scale(node.attrs.get_or<double>("scale", 0), q[2])};
    rows_ = q[0];
    stored_ = node.operands[kKCache].dtype();
    chunks_ = (node.operands[kPageTable].shape()[1] * cache[1] + kAttentionChunk - 1) / kAttentionChunk;
  }

 private:
  // Keys and values of a request: fp32 rows that lie in one page are read there, others are packed. `rows`
  // query rows read the values; more than a few of them make packed rows, which share no set of the
  // first-level cache, worth the copy.
  auto rows_in_pages(const KernelCall& call, const Step& step, int64_t request, int64_t key_head,
                     int64_t rows, float* keys_transposed) const {
    return [this, &call, &step, request, key_head, rows, keys_transposed](int64_t start, int64_t width,
                                                                          float* keys, float* values) {
      const int64_t padded = sizes_.padded(), stride = sizes_.key_heads * sizes_.dim;
      AttentionRows found = {keys, padded, values, padded};
      const bool one_page = start % step.page_size + width <= step.page_size;
      const int64_t offset = step.slot(request, start) * stride + key_head * sizes_.dim;
      const bool in_place = stored_ == DType::kF32 && one_page;
      if (in_place) {
        found.keys = call.results[kKeysOut].as<const float>() + offset;
        found.key_stride = stride;
      } else if (one_page && transpose_page(call, step.slot(request, start) * sizes_.key_heads + key_head,
                                            width, keys_transposed)) {
        found.keys = nullptr;
      } else {
        pack_rows(call, step, 0, request, key_head, start, width, keys);
      }
      if (in_place && sizes_.dim == padded && rows <= kFewRows) {
        found.values = call.results[kValuesOut].as<const float>() + offset;
        found.value_stride = stride;
      } else {
        pack_rows(call, step, 1, request, key_head, start, width, values);
      }
      return found;
    };
  }

  static constexpr int64_t kFewRows = 16;

  // Packs keys (`which` 0) or values (1) of a request from their pages.
  void pack_rows(const KernelCall& call, const Step& step, size_t which, int64_t request, int64_t key_head,
                 int64_t start, int64_t width, float* to) const {
    const int64_t padded = sizes_.padded();
    for (int64_t j = 0; j < width;) {
      const int64_t in_page = step.page_size - (start + j) % step.page_size;
      const int64_t count = std::min(in_page, width - j);
      pack_page(call, which, step.slot(request, start + j) * sizes_.key_heads + key_head, count,
                to + j * padded);
      j += count;
    }
  }

  // Packs `count` rows of one head that follow each other in a page; `row`: the first, in rows of D.
  void pack_page(const KernelCall& call, size_t which, int64_t row, int64_t count, float* to) const {
    const AttentionKernels& kernels = *vertebra::kernels().attention;
    const int64_t dim = sizes_.dim, padded = sizes_.padded(), stride = sizes_.key_heads * dim;
    const TensorRef& cache = call.results[kKeysOut + which];
    switch (stored_) {
      case DType::kBF16:
        return kernels.pack_bf16(cache.as<const uint16_t>() + row * dim, stride, count, dim, to, padded);
      case DType::kF16:
        return kernels.pack_f16(cache.as<const uint16_t>() + row * dim, stride, count, dim, to, padded);
      case DType::kI8:
        return kernels.pack_i8(cache.as<const int8_t>() + row * dim, stride,
                               call.results[kKeyScalesOut + which].as<const float>() + row * blocks(),
                               sizes_.key_heads * blocks(), count, dim, to, padded);
      default:
        return kernels.pack_f32(cache.as<const float>() + row * dim, stride, count, dim, to, padded);
    }
  }
  // Keys that follow each other in a page, transposed without packing them first, where there is a kernel for
  // it.
  bool transpose_page(const KernelCall& call, int64_t row, int64_t count, float* to) const {
    const AttentionKernels& kernels = *vertebra::kernels().attention;
    const int64_t dim = sizes_.dim, stride = sizes_.key_heads * dim;
    const TensorRef& cache = call.results[kKeysOut];
    if (stored_ == DType::kBF16)
      return kernels.transpose_bf16(cache.as<const uint16_t>() + row * dim, stride, count, dim, to);
    if (stored_ != DType::kI8) return false;
    return kernels.transpose_i8(cache.as<const int8_t>() + row * dim, stride,
                                call.results[kKeyScalesOut].as<const float>() + row * blocks(),
                                sizes_.key_heads * blocks(), count, dim, to);
  }
  int64_t blocks() const { return sizes_.dim / kCacheBlock; }  // of a row of codes

 public:
  size_t workspace_bytes(int threads) const override {
    Carver carver(nullptr);
    carver.take<Group>(rows_);
    for (int i = 0; i < threads; ++i) AttentionScratch(carver, sizes_);
    return carver.used() + split_floats(threads) * sizeof(float);
  }

  bool can_share(int operand, int result) const override {
    return (operand == kQ && result == kOut) || (operand == kKCache && result == kKeysOut) ||
           (operand == kVCache && result == kValuesOut) || (operand == kKScales && result == kKeyScalesOut) ||
           (operand == kVScales && result == kValueScalesOut);
  }

  void run(const KernelCall& call) const override {
    const Step step(call);
    check_pages(step, sizes_.window);
    write_cache(call, step);
    Carver carver(call.workspace);
    auto* groups = carver.take<Group>(rows_);
    const int64_t count = list_groups(step, groups);
    Carver measure(nullptr);
    AttentionScratch(measure, sizes_);
    std::byte* const scratches = call.workspace + carver.used();
    const auto scratch_of = [&](int worker) {
      Carver mine(scratches + static_cast<size_t>(worker) * measure.used());
      return AttentionScratch(mine, sizes_);
    };
    auto* states =
        reinterpret_cast<float*>(scratches + static_cast<size_t>(call.team.size()) * measure.used());
    if (splits(call, count)) {
      run_split(call, step, groups, count, scratch_of, states);
      return;
    }
    call.team.parallel_for(count * sizes_.key_heads, [&](int64_t index, int worker) {
      const Group& group = groups[index / sizes_.key_heads];
      const int64_t key_head = index % sizes_.key_heads;
      const AttentionScratch scratch = scratch_of(worker);
      pack_queries(call, step, group, key_head, scratch);
      attend_group(*kernels().attention, sizes_, scratch, group.length * sizes_.heads_per_key(), true,
                   rows_in_pages(call, step, group.request, key_head, group.length * sizes_.heads_per_key(),
                                 scratch.keys_transposed));
      write_lse(call, group, key_head, scratch);
    });
  }

 private:
  void write_cache(const KernelCall& call, const Step& step) const {
    const auto carry_over = [&](size_t operand, size_t result) {
      const TensorRef &from = call.operands[operand], &to = call.results[result];
      if (to.data != from.data) std::memcpy(to.data, from.data, from.type.size_bytes());
    };
    for (size_t i = 0; i < 2; ++i) {
      carry_over(kKCache + i, kKeysOut + i);
      if (stored_ == DType::kI8) carry_over(kKScales + i, kKeyScalesOut + i);
    }
    call.team.parallel_for((step.rows + 63) / 64, [&](int64_t block, int) {
      for (int64_t n = block * 64; n < std::min(step.rows, block * 64 + 64); ++n) {
        if (step.request[n] < 0) {
          std::memset(call.results[kOut].as<float>() + n * sizes_.query_heads * sizes_.dim, 0,
                      static_cast<size_t>(sizes_.query_heads * sizes_.dim) * sizeof(float));
          std::memset(call.results[kLse].as<float>() + n * sizes_.query_heads, 0,
                      static_cast<size_t>(sizes_.query_heads) * sizeof(float));
          continue;
        }
        const int64_t slot = step.slot(step.request[n], step.positions[n]);
        for (size_t i = 0; i < 2; ++i) store_token(call, i, n, slot);
      }
    });
  }

  // Row n of the new keys (`which` 0) or values (1), rounded, becomes the cache's token `slot`.
  void store_token(const KernelCall& call, size_t which, int64_t n, int64_t slot) const {
    const ConvertKernels& convert = *kernels().convert;
    const int64_t width = sizes_.key_heads * sizes_.dim;
    const auto* from = call.operands[kKNew + which].as<const float>() + n * width;
    const TensorRef& cache = call.results[kKeysOut + which];
    switch (stored_) {
      case DType::kBF16:
        return convert.f32_to_bf16(from, cache.as<uint16_t>() + slot * width, width);
      case DType::kF16:
        return convert.f32_to_f16(from, cache.as<uint16_t>() + slot * width, width);
      case DType::kI8:
        return convert.f32_to_i8(from, cache.as<int8_t>() + slot * width,
                                 call.results[kKeyScalesOut + which].as<float>() + slot * width / kCacheBlock,
                                 width);
      default:
        std::memcpy(cache.as<float>() + slot * width, from, static_cast<size_t>(width) * sizeof(float));
    }
  }

  // Groups of rows of one request, the longest contexts first.
  int64_t list_groups(const Step& step, Group* groups) const {
    int64_t count = 0;
    for (int64_t n = 0; n < step.rows;) {
      int64_t end = n + 1;
      while (end < step.rows && step.request[end] == step.request[n]) ++end;
      for (int64_t first = n; first < end && step.request[n] >= 0; first += sizes_.group_tokens()) {
        groups[count++] = {step.request[n], static_cast<int32_t>(first),
                           static_cast<int32_t>(std::min(end - first, sizes_.group_tokens()))};
      }
      n = end;
    }
    std::sort(groups, groups + count, [&](const Group& a, const Group& b) {
      const int32_t end_a = step.positions[a.first + a.length - 1],
                    end_b = step.positions[b.first + b.length - 1];
      return end_a != end_b ? end_a > end_b : a.first < b.first;
    });
    return count;
  }

  void pack_queries(const KernelCall& call, const Step& step, const Group& group, int64_t key_head,
                    const AttentionScratch& scratch) const {
    const int64_t heads = sizes_.heads_per_key(), dim = sizes_.dim;
    for (int64_t i = 0; i < group.length; ++i) {
      const int64_t offset = ((group.first + i) * sizes_.query_heads + key_head * heads) * dim;
      kernels().attention->pack_f32(call.operands[kQ].as<const float>() + offset, dim, heads, dim,
                                    scratch.q + i * heads * sizes_.padded(), sizes_.padded());
      for (int64_t h = 0; h < heads; ++h) {
        scratch.positions[i * heads + h] = step.positions[group.first + i];
        scratch.out[i * heads + h] = call.results[kOut].as<float>() + offset + h * dim;
      }
    }
  }

  void write_lse(const KernelCall& call, const Group& group, int64_t key_head,
                 const AttentionScratch& scratch) const {
    const int64_t heads = sizes_.heads_per_key();
    for (int64_t i = 0; i < group.length; ++i) {
      std::memcpy(call.results[kLse].as<float>() + (group.first + i) * sizes_.query_heads + key_head * heads,
                  scratch.lse + i * heads, static_cast<size_t>(heads) * sizeof(float));
    }
  }

  // Splitting over chunks keeps a state per group, key head and chunk: worth it for few rows only.
  static constexpr int64_t kSplitRows = 16;
  int64_t state_floats() const { return kSplitRows * (sizes_.padded() + 2); }
  int64_t max_split_groups(int threads) const { return std::min<int64_t>(rows_, 4 * threads); }
  size_t split_floats(int threads) const {
    if (threads == 1 || chunks_ == 1) return 0;
    return static_cast<size_t>(max_split_groups(threads) * sizes_.key_heads * chunks_ * state_floats());
  }
  bool splits(const KernelCall& call, int64_t count) const {
    const int threads = call.team.size();
    // All groups are then single rows of step.
    return split_floats(threads) > 0 && count * sizes_.key_heads < 4 * threads &&
           count <= max_split_groups(threads) && sizes_.heads_per_key() <= kSplitRows;
  }

  AttentionState state_at(float* states, int64_t index) const {
    float* base = states + index * state_floats();
    return {base, base + kSplitRows, base + 2 * kSplitRows};
  }

  template <class ScratchOf>
  void run_split(const KernelCall& call, const Step& step, const Group* groups, int64_t count,
                 const ScratchOf& scratch_of, float* states) const {
    const AttentionKernels& kernels = *vertebra::kernels().attention;
    const int64_t heads = sizes_.heads_per_key(), lanes = sizes_.key_heads * chunks_;
    const auto small = [&](const Group& group) { return group.length * heads <= kSplitRows; };
    const auto tile_of = [&](const AttentionScratch& scratch, const AttentionState& state,
                             const Group& group) {
      return attention_tile(sizes_, scratch, state, 0, group.length * heads);
    };
    call.team.parallel_for(count * lanes, [&](int64_t index, int worker) {
      const Group& group = groups[index / lanes];
      const int64_t key_head = index % lanes / chunks_, chunk = index % chunks_;
      const AttentionScratch scratch = scratch_of(worker);
      if (!small(group)) {
        if (chunk > 0) return;
        pack_queries(call, step, group, key_head, scratch);
        attend_group(kernels, sizes_, scratch, group.length * heads, true,
                     rows_in_pages(call, step, group.request, key_head, group.length * sizes_.heads_per_key(),
                                   scratch.keys_transposed));
        write_lse(call, group, key_head, scratch);
        return;
      }
      const int64_t end = step.positions[group.first + group.length - 1] + 1;
      const int64_t first =
          std::max(chunk * kAttentionChunk, first_attended_key(sizes_, step.positions[group.first]));
      const int64_t last = std::min((chunk + 1) * kAttentionChunk, end);
      if (chunk * kAttentionChunk >= end) return;
      pack_queries(call, step, group, key_head, scratch);
      const AttentionState state = state_at(states, index);
      kernels.begin(tile_of(scratch, state, group));
      attend_keys(kernels, sizes_, scratch, state, group.length * heads, first, last,
                  rows_in_pages(call, step, group.request, key_head, group.length * sizes_.heads_per_key(),
                                scratch.keys_transposed));
    });
    const AttentionScratch scratch = scratch_of(0);
    for (int64_t index = 0; index < count * sizes_.key_heads; ++index) {
      const Group& group = groups[index / sizes_.key_heads];
      if (!small(group)) continue;
      const int64_t end = step.positions[group.first + group.length - 1] + 1;
      pack_queries(call, step, group, index % sizes_.key_heads, scratch);
      const AttentionTile total = tile_of(scratch, state_at(states, index * chunks_), group);
      for (int64_t chunk = 1; chunk * kAttentionChunk < end; ++chunk)
        kernels.merge(total, tile_of(scratch, state_at(states, index * chunks_ + chunk), group));
      kernels.finish(total, scratch.out, scratch.lse);
      write_lse(call, group, index % sizes_.key_heads, scratch);
    }
  }

  AttentionSizes sizes_{};
  int64_t rows_ = 0, chunks_ = 0;
  DType stored_ = DType::kF32;
};

}  // namespace

// f32 queries, keys and values; the caches f32, bf16, f16 or codes (rounded when written).
std::unique_ptr<Kernel> make_paged_attention(const Node& node) {
  for (const size_t i : {kQ, kKNew, kVNew})
    if (node.operands[i].dtype() != DType::kF32) return nullptr;
  for (const size_t i : {kPageTable, kRequest, kPositions})
    if (node.operands[i].dtype() != DType::kI32) return nullptr;
  const DType cache = node.operands[kKCache].dtype();
  if (cache != DType::kF32 && cache != DType::kBF16 && cache != DType::kF16 && cache != DType::kI8)
    return nullptr;
  return std::make_unique<PagedAttentionKernel>(node);
}

}  // namespace vertebra::cpu
