// Causal attention of training and its gradient. The decompositions below hold the T x T matrix and are the
// oracle; kernels go over it in blocks (Milakov & Gimelshein 2018; Dao et al. 2022).
#include <cmath>

#include "ops/attention_rules.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

void check_attention(const InferInput& in, size_t count) {
  in.check_operand_count(count);
  check_float(in, 0, "q");
  check_rank(in, 0, 4, "q [B, T, H, D]");
  check_type(in, 2, in.operands[1], "v");
  check_rank(in, 1, 4, "k [B, T, K, D]");
  check_dtype(in, 1, in.operands[0].dtype, "k");
  const Shape& q = in.operands[0].shape;
  const Shape& k = in.operands[1].shape;
  in.check(q.dim(0) == k.dim(0) && q.dim(1) == k.dim(1),
           "q [B, T, H, D] and k [B, T, K, D] differ in B or T");
  check_heads(in, q.dim(2), k.dim(2), q.dim(3), k.dim(3));
  check_type(in, 3, {DType::kI32, Shape{q.dim(0), q.dim(1)}}, "segments [B, T]");
}

std::vector<TensorType> infer_attention(const InferInput& in) {
  check_attention(in, 4);
  const Shape& q = in.operands[0].shape;
  return {in.operands[0], {DType::kF32, Shape{q.dim(0), q.dim(2), q.dim(1)}}};
}

std::vector<TensorType> infer_grad(const InferInput& in) {
  const bool of_lse = in.attrs.get_or("of_lse", false);
  check_attention(in, of_lse ? 8 : 7);
  const Shape& q = in.operands[0].shape;
  check_type(in, 4, in.operands[0], "out");
  check_type(in, 5, {DType::kF32, Shape{q.dim(0), q.dim(2), q.dim(1)}}, "lse [B, H, T]");
  check_type(in, 6, in.operands[0], "the gradient of out");
  if (of_lse) check_type(in, 7, in.operands[5], "the gradient of lse");
  return {in.operands[0], in.operands[1], in.operands[1]};
}

// The sizes and the scores s[b, k, t, g, s] = scale * q[b, t, (k, g)] . k[b, s, k] in f32, with what is
// visible.
struct Scores {
  Dim b, t, k, d;
  int64_t group;
  Value grouped_q;     // [B, T, K, G, D]
  Value scores, seen;  // [B, K, T, G, S]; seen is bool
  Value row_seen;      // bool [B, T]: segment >= 0
};

Scores make_scores(const Node& node, Value q, Value k, Value segments) {
  const Shape& shape = q.shape();
  Scores out = {
      shape.dim(0), shape.dim(1), k.shape().dim(2), shape.dim(3), shape[2] / k.shape()[2], {}, {}, {}, {}};
  const DType inner = inner_dtype(q.dtype());
  out.grouped_q = reshape(q, Shape{out.b, out.t, out.k, out.group, out.d});
  const Value dots = dot_general(out.grouped_q, k, {{0, 2}, {0, 2}, {4}, {3}}, inner);  // [B, K, T, G, S]
  out.scores = multiply(dots, node.attrs.get<double>("scale"));

  const Shape pairs = {out.b, out.t, out.t};
  const Value query = iota(q.graph(), pairs, 1), key = iota(q.graph(), pairs, 2);
  Value seen = compare(broadcast_in_dim(segments, pairs, {0, 1}), broadcast_in_dim(segments, pairs, {0, 2}),
                       Comparison::kEqual);
  seen = logical_and(seen, compare(key, query, Comparison::kLessEqual));
  if (const int64_t window = node.attrs.get<int64_t>("window"); window > 0)
    seen = logical_and(seen, compare_with(subtract(query, key), static_cast<double>(window), "lt"));
  out.row_seen = compare_with(segments, 0, "ge");
  seen = logical_and(seen, broadcast_leading(out.row_seen, pairs));
  out.seen = broadcast_in_dim(seen, out.scores.shape(), {0, 2, 4});
  return out;
}

// [B, K, T, G, X] -> [B, T, K * G, X]
Value to_heads(Value a, const Scores& s) {
  return reshape(transpose(a, {0, 2, 1, 3, 4}), Shape{s.b, s.t, s.k.size * s.group, a.shape().dim(4)});
}

Values decompose_attention(Graph&, const Node& node, std::span<const Value> operands) {
  const Value q = operands[0], k = operands[1], v = operands[2];
  const Scores s = make_scores(node, q, k, operands[3]);
  const MaskedSoftmax softmax = masked_softmax(s.scores, s.seen);
  // [B, K, T, G, S] . [B, S, K, D] -> [B, K, T, G, D]
  const Value out = dot_general(softmax.probabilities, v, {{0, 1}, {0, 2}, {4}, {1}}, q.dtype());
  const Value lse = reshape(transpose(softmax.log_sum, {0, 1, 3, 2}), Shape{s.b, s.k.size * s.group, s.t});
  return {to_heads(out, s), convert(lse, DType::kF32)};
}

Values decompose_grad(Graph&, const Node& node, std::span<const Value> operands) {
  // o = p v, p = exp(s - lse), s = scale q k^T:
  // dv = p^T do, dp = do v^T, ds = p (dp - sum(do o) + dlse), dq = scale ds k, dk = scale ds^T q
  const Value q = operands[0], k = operands[1], v = operands[2], out = operands[4], lse = operands[5];
  const Scores s = make_scores(node, q, k, operands[3]);
  const DType inner = s.scores.dtype();
  const Value dout = convert(operands[6], inner);
  const Shape grouped = {s.b, s.t, s.k, s.group, s.d};
  const Value grouped_dout = reshape(dout, grouped);

  const Value grouped_lse =
      transpose(reshape(convert(lse, inner), Shape{s.b, s.k, s.group, s.t}), {0, 1, 3, 2});
  const Value shifted = subtract(s.scores, broadcast_leading(grouped_lse, s.scores.shape()));
  const Value p =
      select(s.seen, exponential(select(s.seen, shifted, zeros_like(shifted))), zeros_like(shifted));

  Value delta =
      reduce_sum(multiply(grouped_dout, reshape(convert(out, inner), grouped)), {4});  // [B, T, K, G]
  if (operands.size() > 7) {
    const Value dlse = reshape(convert(operands[7], inner), Shape{s.b, s.k, s.group, s.t});
    delta = subtract(delta, transpose(dlse, {0, 3, 1, 2}));
  }
  const Value dp = dot_general(grouped_dout, v, {{0, 2}, {0, 2}, {4}, {3}}, inner);  // [B, K, T, G, S]
  const Value ds = multiply(p, subtract(dp, broadcast_leading(transpose(delta, {0, 2, 1, 3}), dp.shape())));
  const Value scaled = multiply(ds, node.attrs.get<double>("scale"));

  const Value dq = dot_general(scaled, k, {{0, 1}, {0, 2}, {4}, {1}}, q.dtype());  // [B, K, T, G, D]
  // Sums over the queries and the heads of the group: -> [B, K, S, D]
  const Value dk = dot_general(scaled, s.grouped_q, {{0, 1}, {0, 2}, {2, 3}, {1, 3}}, k.dtype());
  const Value dv = dot_general(p, grouped_dout, {{0, 1}, {0, 2}, {2, 3}, {1, 3}}, v.dtype());
  return {to_heads(dq, s), transpose(dk, {0, 2, 1, 3}), transpose(dv, {0, 2, 1, 3})};
}

Values attention_vjp(const VjpInput& in) {
  Values operands = {in.operand(0), in.operand(1), in.operand(2),           in.operand(3),
                     in.result(0),  in.result(1),  gradient_or_zeros(in, 0)};
  Attrs attrs = in.node.attrs;
  if (in.gradients[1].defined()) {
    operands.push_back(in.gradients[1]);
    attrs.set("of_lse", true);
  }
  Values out = in.graph.add_node(attention_grad_op, operands, attrs);
  out.push_back(Value{});  // the segments
  return out;
}

struct Case {
  const char* name;
  int64_t b, t, h, k, d, window;
  std::vector<double> segments;
};

std::vector<Case> cases() {
  return {{"one segment", 1, 9, 4, 2, 8, 0, std::vector<double>(9, 0)},
          {"one head", 1, 5, 1, 1, 6, 0, std::vector<double>(5, 3)},
          {"segments and padding", 2, 7, 4, 2, 6, 0, {0, 0, 0, 1, 1, 1, -1, 0, 0, 1, 1, 2, -1, -1}},
          {"a window", 1, 11, 2, 1, 16, 3, {0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1}},
          {"one token", 2, 1, 2, 2, 4, 0, {0, -1}},
          {"many keys", 1, 70, 3, 1, 20, 0, std::vector<double>(70, 0)}};
}

std::vector<OpSample> attention_samples() {
  std::vector<OpSample> out;
  for (const Case& c : cases()) {
    out.push_back({c.name,
                   {normal({c.b, c.t, c.h, c.d}), normal({c.b, c.t, c.k, c.d}), normal({c.b, c.t, c.k, c.d}),
                    values({c.b, c.t}, c.segments, DType::kI32)},
                   {{"scale", 1 / std::sqrt(static_cast<double>(c.d))}, {"window", c.window}}});
  }
  return out;
}

// The results of the forward pass are arbitrary here, but lse is large enough that the weights stay small.
std::vector<OpSample> grad_samples() {
  std::vector<OpSample> out = attention_samples();
  for (OpSample& sample : out) {
    const Shape q = sample.operands[0].type.shape;
    sample.operands.push_back(normal(q));
    sample.operands.push_back(fixed(uniform({q[0], q[2], q[1]}, 2, 4)));
    sample.operands.push_back(normal(q));
  }
  OpSample both = out[1];
  both.name += ", lse too";
  both.operands.push_back(fixed(normal(both.operands[5].type.shape)));
  both.attrs.set("of_lse", true);
  out.push_back(std::move(both));
  return out;
}

}  // namespace

// (q, k, v, segments){scale, window} -> (out [B, T, H, D], lse f32 [B, H, T]: the log of the sum of the
// exponentials of the scaled scores of a row; 0 where the row's segment is negative)
const OpDef attention_op = {.name = "attention",
                            .infer = infer_attention,
                            .vjp = attention_vjp,
                            .decompose = decompose_attention,
                            .samples = attention_samples};

// (q, k, v, segments, out, lse, dout){scale, window} -> (dq, dk, dv); with the attribute of_lse an eighth
// operand is the gradient of lse
const OpDef attention_grad_op = {.name = "attention_grad",
                                 .infer = infer_grad,
                                 .no_vjp = "a gradient itself: decompose it to differentiate twice",
                                 .decompose = decompose_grad,
                                 .samples = grad_samples};

Value attention(Value q, Value k, Value v, Value segments, const AttentionOptions& options) {
  const Values results = q.graph().add_node(attention_op, {q, k, v, segments}, attention_attrs(options, q));
  if (!options.sinks.defined()) return results[0];
  return with_sinks(results[0], transpose(results[1], {0, 2, 1}), options.sinks);
}

}  // namespace vertebra
