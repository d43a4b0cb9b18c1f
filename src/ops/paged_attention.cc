// Attention of a ragged serving step over a paged cache. The decomposition gathers every row's keys and is
// the oracle; a kernel walks the pages.
#include "ops/attention_rules.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

std::vector<TensorType> infer_paged(const InferInput& in) {
  const bool quantized = in.operands.size() > 3 && in.operands[3].dtype == DType::kI8;
  in.check_operand_count(quantized ? 10 : 8);
  check_float(in, 0, "q");
  check_rank(in, 0, 3, "q [N, H, D]");
  check_rank(in, 1, 3, "k_new [N, K, D]");
  check_dtype(in, 1, in.operands[0].dtype, "k_new");
  check_type(in, 2, in.operands[1], "v_new");
  if (!quantized) check_float(in, 3, "k_cache");
  check_rank(in, 3, 4, "k_cache [P, page_size, K, D]");
  check_type(in, 4, in.operands[3], "v_cache");
  const Shape& q = in.operands[0].shape;
  const Shape& k = in.operands[1].shape;
  const Shape& cache = in.operands[3].shape;
  in.check(q.dim(0) == k.dim(0), "q [N, H, D] and k_new [N, K, D] differ in N");
  check_heads(in, q.dim(1), k.dim(1), q.dim(2), k.dim(2));
  in.check(cache.dim(2) == k.dim(1) && cache.dim(3) == k.dim(2), "the caches do not hold k_new's heads {}",
           k.to_string());
  in.check(cache.is_static() && cache[0] > 0 && cache[1] > 0,
           "the caches need pages of a fixed size above 0");
  in.check(cache[0] * cache[1] < (int64_t{1} << 31),
           "the caches hold {} positions, fewer than 2^31 are wanted", cache[0] * cache[1]);
  check_dtype(in, 5, DType::kI32, "page_table");
  check_rank(in, 5, 2, "page_table [R, pages per request]");
  const Shape& table = in.operands[5].shape;
  in.check(
      table[0] > 0 && table[1] > 0 && table.dim(1).symbol == 0 && table[1] * cache[1] < (int64_t{1} << 31),
      "page_table needs rows of a fixed number of pages above 0 with fewer than 2^31 positions");
  check_type(in, 6, {DType::kI32, Shape{q.dim(0)}}, "request [N]");
  check_type(in, 7, {DType::kI32, Shape{q.dim(0)}}, "positions [N]");
  std::vector<TensorType> out = {
      in.operands[0], in.operands[3], in.operands[4], {DType::kF32, Shape{q.dim(0), q.dim(1)}}};
  if (quantized) {
    in.check(cache[3] % kCacheBlock == 0, "codes need heads of whole blocks of {}, not of {}", kCacheBlock,
             cache[3]);
    check_type(in, 8, {DType::kF32, {cache[0], cache[1], cache[2], cache[3] / kCacheBlock}}, "k_scales");
    check_type(in, 9, in.operands[8], "v_scales");
    out.insert(out.end(), {in.operands[8], in.operands[9]});
  }
  return out;
}

// 0 <= a < limit
Value within(Value a, int64_t limit) {
  return logical_and(compare_with(a, 0, "ge"), compare_with(a, static_cast<double>(limit), "lt"));
}

Value clamp_index(Value a, int64_t limit) { return minimum(maximum(a, 0.0), static_cast<double>(limit - 1)); }

// The cache with `update` [N, K, D] written at `slots` i32 [N] of its P * page_size positions (-1: nowhere).
// Every slot is written at most once.
Value write_cache(Value cache, Value update, Value slots) {
  const Shape& shape = cache.shape();
  const Shape flat = {shape[0] * shape[1], shape.dim(2), shape.dim(3)};
  return reshape(write_rows(reshape(cache, flat), slots, convert(update, cache.dtype())), shape);
}

// Keys or values as a cache holds them: the tensor, and scales if it holds codes.
struct Stored {
  Value values, scales;
};

// [N, K, D] as codes.
Stored quantize_rows(Value x) {
  const Shape& shape = x.shape();
  const Shape blocks = {shape.dim(0), shape.dim(1), shape[2] / kCacheBlock, kCacheBlock};
  const Value split = reshape(convert(x, DType::kF32), blocks);
  const Value largest = reduce_max(absolute(split), {3});
  // What is too small for an inverse counts as 0.
  const Value some = compare_with(largest, 1e-30, "gt");
  const Value zero = zeros_like(largest);
  const Value inverse = select(some, divide(127.0, select(some, largest, add(zero, 1.0))), zero);
  const Value codes = floor(add(multiply(split, broadcast_leading(inverse, blocks)), 0.5));
  return {reshape(convert(codes, DType::kI8), shape), select(some, multiply(largest, 1.0 / 127), zero)};
}

Stored write_cache(const Stored& cache, Value update, Value slots) {
  if (!cache.scales.defined()) return {write_cache(cache.values, update, slots), {}};
  const Stored rows = quantize_rows(update);
  return {write_cache(cache.values, rows.values, slots), write_cache(cache.scales, rows.scales, slots)};
}

// Everything about where rows lie: i32 and bool [N], and [N, S] with S = pages per request * page_size.
struct Placement {
  Value valid;      // [N]: the row is of a request and lies in the table
  Value new_slots;  // [N]: where the row's key goes, -1 for nowhere
  Value pages;      // [N, pages per request]: of the row's request, in the cache
  Shape pairs;      // [N, S]
};

Placement place(Value page_table, Value request, Value positions, int64_t pages, int64_t page_size) {
  const int64_t capacity = page_table.shape()[1] * page_size;
  const Dim n = request.shape().dim(0);
  Placement out;
  // The number of requests may be bounded; a request outside is a mistake of the caller and is clamped.
  out.pairs = {n, capacity};
  out.valid = logical_and(compare_with(request, 0, "ge"), within(positions, capacity));
  const Value rows = gather_rows(page_table, maximum(request, 0.0));  // [N, pages per request]
  out.pages = clamp_index(rows, pages);

  // Of the row's own page, the sum over all pages picks page * page_size + 1, or 0 when it lies outside.
  const Value page_of_row = divide(positions, static_cast<double>(page_size));
  const Value mine = compare(iota(request.graph(), rows.shape(), 1),
                             broadcast_leading(page_of_row, rows.shape()), Comparison::kEqual);
  const Value chosen =
      logical_and(mine, logical_and(within(rows, pages), broadcast_leading(out.valid, rows.shape())));
  const Value start = add(multiply(out.pages, static_cast<double>(page_size)), 1.0);
  const Value picked = reduce_sum(select(chosen, start, zeros_like(start)), {1});
  const Value inside = subtract(positions, multiply(page_of_row, static_cast<double>(page_size)));
  const Value slot = add(subtract(picked, 1.0), inside);
  out.new_slots =
      select(compare_with(picked, 0, "gt"), slot, full(request.graph(), picked.shape(), -1, DType::kI32));
  return out;
}

// Every row's keys or values [N, S, K, D]. Whole pages: compilers copy one index's slice at a time.
Value gather_pages(const Stored& cache, const Placement& where) {
  const Shape& shape = cache.values.shape();
  const Dim n = where.pairs.dim(0), keys = where.pairs.dim(1);
  const Shape flat = {n, keys, shape.dim(2), shape.dim(3)};
  const Value found = reshape(gather_rows(cache.values, where.pages), flat);
  if (!cache.scales.defined()) return found;
  const Shape scales = {n, keys, shape.dim(2), shape[3] / kCacheBlock};
  const Shape blocks = {n, keys, shape.dim(2), shape[3] / kCacheBlock, kCacheBlock};
  const Value scale = reshape(gather_rows(cache.scales, where.pages), scales);
  const Value codes = reshape(convert(found, DType::kF32), blocks);
  return reshape(multiply(codes, broadcast_leading(scale, blocks)), flat);
}

Values decompose_paged(Graph& graph, const Node& node, std::span<const Value> operands) {
  const Value q = operands[0], positions = operands[7];
  const Shape cache = operands[3].shape();
  const Placement where = place(operands[5], operands[6], positions, cache[0], cache[1]);
  const bool quantized = operands.size() > 8;
  const Stored k_cache =
      write_cache({operands[3], quantized ? operands[8] : Value{}}, operands[1], where.new_slots);
  const Stored v_cache =
      write_cache({operands[4], quantized ? operands[9] : Value{}}, operands[2], where.new_slots);

  const Dim n = q.shape().dim(0), heads = cache.dim(2);
  const Value keys = gather_pages(k_cache, where);  // [N, S, K, D]
  const Value values = gather_pages(v_cache, where);
  const Value grouped = reshape(q, Shape{n, heads, q.shape()[1] / heads.size, q.shape().dim(2)});
  const DType inner = inner_dtype(q.dtype());
  const Value dots = dot_general(grouped, keys, {{0, 1}, {0, 2}, {3}, {3}}, inner);  // [N, K, G, S]
  const Value scores = multiply(dots, node.attrs.get<double>("scale"));

  const Shape& pairs = where.pairs;
  const Value key = iota(graph, pairs, 1), query = broadcast_leading(positions, pairs);
  Value seen =
      logical_and(compare(key, query, Comparison::kLessEqual), broadcast_leading(where.valid, pairs));
  if (const int64_t window = node.attrs.get<int64_t>("window"); window > 0)
    seen = logical_and(seen, compare_with(subtract(query, key), static_cast<double>(window), "lt"));
  const MaskedSoftmax softmax = masked_softmax(scores, broadcast_in_dim(seen, scores.shape(), {0, 3}));
  const Value out = dot_general(softmax.probabilities, values, {{0, 1}, {0, 2}, {3}, {1}}, q.dtype());
  const Value lse = reshape(softmax.log_sum, Shape{n, q.shape().dim(1)});
  Values results = {reshape(out, q.shape()), k_cache.values, v_cache.values, convert(lse, DType::kF32)};
  if (quantized) results.insert(results.end(), {k_cache.scales, v_cache.scales});
  return results;
}

std::vector<OpSample> paged_samples() {
  const auto i32 = [](Shape shape, std::vector<double> list) {
    return values(shape, std::move(list), DType::kI32);
  };
  const auto typed = [](OperandSample operand, DType dtype) {
    operand.type.dtype = dtype;
    return fixed(operand);
  };
  const auto sample = [&](std::string name, int64_t n, int64_t h, int64_t window, std::vector<double> request,
                          std::vector<double> positions, DType cache = DType::kF32) {
    const int64_t dim = cache == DType::kI8 ? 64 : 8;
    const Shape pages = {6, 4, 2, dim}, scales = {6, 4, 2, dim / kCacheBlock};
    OperandSample held = normal(pages);
    if (cache == DType::kI8) held = integers(pages, -127, 128, DType::kI8);
    if (cache == DType::kF16 || cache == DType::kBF16) held = typed(held, cache);
    OpSample out{
        std::move(name),
        {normal({n, h, dim}), normal({n, 2, dim}), normal({n, 2, dim}), held, held,
         i32({3, 2}, {2, 5, 0, 3, 4, -1}), i32({n}, std::move(request)), i32({n}, std::move(positions))},
        {{"scale", 0.35}, {"window", window}}};
    // The reference's caches keep what rounding takes from these.
    if (cache != DType::kF32) out.tolerance = cache == DType::kBF16 ? 8e-3 : 1e-3;
    if (cache == DType::kI8) {
      out.bf16 = false;  // quotients of short numbers end on .5, which rounds either way
      out.operands.push_back(fixed(uniform(scales, 0.005, 0.02)));
      out.operands.push_back(fixed(uniform(scales, 0.005, 0.02)));
    }
    return out;
  };
  const std::vector<double> requests = {0, 0, 0, 1, 2, 2, -1}, positions = {3, 4, 5, 6, 0, 1, 0};
  return {sample("prefill and decode", 7, 4, 0, requests, positions),
          sample("one row", 1, 2, 0, {1}, {7}),
          sample("a window", 4, 4, 2, {0, 0, 1, -1}, {0, 1, 5, 9}),
          sample("padding alone", 2, 2, 0, {-1, -1}, {0, 0}),
          sample("pages of bf16", 7, 4, 0, requests, positions, DType::kBF16),
          sample("pages of f16", 7, 4, 0, requests, positions, DType::kF16),
          sample("pages of codes", 7, 4, 0, requests, positions, DType::kI8)};
}

}  // namespace

// (q, k_new, v_new, k_cache, v_cache, page_table, request, positions[, k_scales, v_scales]){scale, window} ->
// (out, k_cache, v_cache, lse f32 [N, H]: as that of `attention`[, k_scales, v_scales]). A position beyond
// the table or a page outside the cache: nothing is written; the row of such a position gives zeros. Reads of
// pages outside the cache are clamped.
const OpDef paged_attention_op = {.name = "paged_attention",
                                  .infer = infer_paged,
                                  .no_vjp = "only in generation",
                                  .decompose = decompose_paged,
                                  .samples = paged_samples};

PagedAttentionResult paged_attention(Value q, Value k_new, Value v_new, const PagedCache& cache,
                                     Value page_table, Value request, Value positions,
                                     const AttentionOptions& options) {
  Values operands = {q, k_new, v_new, cache.keys, cache.values, page_table, request, positions};
  if (cache.key_scales.defined()) operands.insert(operands.end(), {cache.key_scales, cache.value_scales});
  const Values out = q.graph().add_node(paged_attention_op, operands, attention_attrs(options, q));
  PagedAttentionResult result = {out[0], {out[1], out[2]}};
  if (out.size() > 4) {
    result.cache.key_scales = out[4];
    result.cache.value_scales = out[5];
  }
  if (options.sinks.defined()) result.out = with_sinks(out[0], out[3], options.sinks);
  return result;
}

}  // namespace vertebra
