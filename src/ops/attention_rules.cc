#include "ops/attention_rules.h"

#include <cmath>

#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {

void check_heads(const InferInput& in, Dim query_heads, Dim key_heads, Dim query_d, Dim key_d) {
  in.check(query_heads.symbol == 0 && key_heads.symbol == 0 && key_heads.size > 0 &&
               query_heads.size % key_heads.size == 0,
           "{} query heads are no multiple of {} key heads", query_heads.size, key_heads.size);
  in.check(query_d == key_d && query_d.symbol == 0 && query_d.size > 0,
           "the head dimensions {} of q and {} of k must be equal and above 0", query_d.size, key_d.size);
  const double scale = in.attrs.get<double>("scale");
  in.check(std::isfinite(scale), "the scale {} is not finite", scale);
  in.check(in.attrs.get<int64_t>("window") >= 0, "the window {} is negative; 0 means none",
           in.attrs.get<int64_t>("window"));
}

Attrs attention_attrs(const AttentionOptions& options, Value q) {
  const double head_dim = q.shape().rank() > 0 ? static_cast<double>(q.shape()[-1]) : 1;
  return {{"scale", options.scale == 0 ? 1 / std::sqrt(head_dim) : options.scale},
          {"window", options.window}};
}

Value with_sinks(Value out, Value lse, Value sinks) {
  const Value share = logistic(subtract(lse, broadcast_to(sinks, lse.shape())));
  return multiply(out, convert(broadcast_leading(share, out.shape()), out.dtype()));
}

MaskedSoftmax masked_softmax(Value scores, Value seen) {
  const Shape& shape = scores.shape();
  const int64_t last = shape.rank() - 1;
  const Value zero = zeros_like(scores);
  // Not -infinity: in a row that sees nothing the difference of two of them would be no number.
  const Value masked = select(seen, scores, full(scores.graph(), shape, -1e30, scores.dtype()));
  const Value largest = reduce_max(masked, {last});
  const Value weights = select(seen, exponential(subtract(masked, broadcast_leading(largest, shape))), zero);
  const Value sum = reduce_sum(weights, {last});
  const Value any = compare_with(sum, 0, "gt");
  const Value safe_sum = select(any, sum, full(scores.graph(), sum.shape(), 1, sum.dtype()));
  return {divide(weights, broadcast_leading(safe_sum, shape)),
          select(any, add(logarithm(safe_sum), largest), zeros_like(sum))};
}

}  // namespace vertebra
