// expert_linear: a linear layer per expert, of which every row uses those chosen for it; top_k, which chooses
// them (mixture of experts, Shazeer et al. 2017).
#include <algorithm>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

std::vector<TensorType> infer_expert_linear(const InferInput& in) {
  const bool has_bias = in.attrs.get<bool>("has_bias");
  in.check_operand_count(has_bias ? 4 : 3);
  check_compute(in);
  check_float(in, 0, "x");
  if (is_block_quantized(in.operands[1].dtype)) {
    check_blocks(in, 1, "the weight");
  } else {
    check_float(in, 1, "the weight");
  }
  check_rank(in, 1, 3, "the weight [X, F, E]");
  check_dtype(in, 2, DType::kI32, "experts");
  check_rank(in, 2, 2, "experts [N, A]");
  const Shape &x = in.operands[0].shape, &w = in.operands[1].shape, &experts = in.operands[2].shape;
  in.check(w.is_static() && w[0] > 0, "the weight {} needs at least one expert and fixed sizes",
           w.to_string());
  in.check(experts.dim(1).symbol == 0 && experts[1] > 0, "a row needs a fixed number of experts above 0");
  const bool shared = x.rank() == 2, own = x.rank() == 3 && x.dim(1) == experts.dim(1);
  in.check((shared || own) && x.dim(0) == experts.dim(0) && x.dim(-1) == w.dim(2),
           "x of shape {} is neither [N, E] nor [N, A, E] for experts [N, A] of shape {} and a weight [X, F, "
           "E] of "
           "shape {}",
           x.to_string(), experts.to_string(), w.to_string());
  if (has_bias) {
    check_float(in, 3, "the bias");
    check_shape(in, 3, Shape{w.dim(0), w.dim(1)}, "the bias [X, F]");
  }
  return {{in.operands[0].dtype, Shape{experts.dim(0), experts.dim(1), w.dim(1)}}};
}

Value values_of(Value w) { return is_block_quantized(w.dtype()) ? dequantize(w) : w; }

// 1 where row n's expert a is x, else 0: [N, A, X] of a floating-point type.
Value one_hot(Value experts, int64_t count, DType dtype) {
  const Shape shape = {experts.shape().dim(0), experts.shape().dim(1), count};
  const Value same =
      compare(broadcast_leading(experts, shape), iota(experts.graph(), shape, 2), Comparison::kEqual);
  return convert(same, dtype);
}

// Every expert's product with every row, of which the chosen ones are picked: X / A times the work, but
// products that all compilers know. One choice after the other, so that no more than [N, X, F] is held.
Values decompose_expert_linear(Graph&, const Node& node, std::span<const Value> operands) {
  const Value x = operands[0], w = values_of(operands[1]);
  const DType inner = inner_dtype(x.dtype()), compute = node.attrs.get<DType>("compute");
  const int64_t X = w.shape()[0], A = operands[2].shape()[1];
  const Dim N = operands[2].shape().dim(0);
  const Value chosen = one_hot(operands[2], X, inner);  // [N, A, X]
  const bool shared = x.shape().rank() == 2;
  Value all = shared ? dot_general(x, w, {{}, {}, {1}, {2}}, inner, compute) : Value{};  // [N, X, F]
  Values parts;
  for (int64_t a = 0; a < A; ++a) {
    if (!shared) {
      const Value row = reshape(slice_axis(x, 1, a, a + 1), {N, x.shape().dim(2)});
      all = dot_general(row, w, {{}, {}, {1}, {2}}, inner, compute);
    }
    const Value mine = broadcast_leading(reshape(slice_axis(chosen, 1, a, a + 1), {N, X}), all.shape());
    parts.push_back(reshape(reduce_sum(multiply(all, mine), {1}), {N, 1, w.shape().dim(1)}));
  }
  Value y = A == 1 ? parts[0] : concatenate(parts, 1);
  if (operands.size() > 3)
    y = add(y, dot_general(chosen, convert(operands[3], inner), {{}, {}, {2}, {0}}, inner));
  return {convert(y, x.dtype())};
}

// y[n, a] = w[e] x[n, a] + bias[e], e = experts[n, a]: dx[n, a] = w[e]^T dy[n, a], dw[e] = sum over the rows
// that chose e of dy x^T. Holds [N, A, X, F], so it is meant for few experts.
Values expert_linear_vjp(const VjpInput& in) {
  const Value x = in.operand(0), w = in.operand(1), experts = in.operand(2), dy = in.gradients[0];
  const DType compute = in.node.attrs.get<DType>("compute");
  const Shape& pairs = dy.shape();  // [N, A, F]
  const bool shared = x.shape().rank() == 2;
  Values out(in.node.operands.size());
  require(!in.wanted[1] || !is_block_quantized(w.dtype()), Code::kUnimplemented,
          "expert_linear: a weight of type {} has no gradient: block-quantized weights are constants",
          dtype_name(w.dtype()));
  if (in.wanted[0]) {
    const Value dx =
        expert_linear(dy, transpose(values_of(w), {0, 2, 1}), experts, {}, compute);  // [N, A, E]
    out[0] = shared ? convert(reduce_sum(dx, {1}), x.dtype()) : convert(dx, x.dtype());
  }
  const int64_t X = w.shape()[0];
  const Value chosen = one_hot(experts, X, dy.dtype());
  if (in.wanted[1]) {
    const Shape spread = {pairs.dim(0), pairs.dim(1), X, pairs.dim(2)};
    const Value mine =
        multiply(broadcast_leading(chosen, spread), broadcast_in_dim(dy, spread, {0, 1, 3}));  // [N, A, X, F]
    const Value rows =
        shared ? broadcast_in_dim(x, {pairs.dim(0), pairs.dim(1), x.shape().dim(1)}, {0, 2}) : x;
    out[1] = dot_general(mine, rows, {{}, {}, {0, 1}, {0, 1}}, w.dtype(), compute);  // [X, F, E]
  }
  if (in.node.operands.size() > 3 && in.wanted[3])
    out[3] = dot_general(chosen, dy, {{}, {}, {0, 1}, {0, 1}}, in.operand(3).dtype());
  return out;
}

// A backend may round x to 8-bit integers where the weights are block-quantized.
constexpr double kRoundedX = 2e-2;

std::vector<OpSample> expert_samples() {
  const auto attrs = [](bool bias, DType compute = DType::kF32) {
    return Attrs{{"compute", compute}, {"has_bias", bias}};
  };
  const auto list = [](Shape shape, std::vector<double> experts) {
    return values(shape, std::move(experts), DType::kI32);
  };
  const auto w = normal({4, 19, 37}, 0.3);
  return {{"rows", {normal({5, 37}), w, list({5, 2}, {0, 3, 3, 1, 1, 0, 2, 3, 0, 3})}, attrs(false)},
          {"rows of their own, bias",
           {normal({3, 2, 37}), w, list({3, 2}, {0, 3, 3, 1, 1, 3}), normal({4, 19})},
           attrs(true)},
          {"one row, one expert", {normal({1, 7}), normal({1, 5, 7}), list({1, 1}, {0})}, attrs(false)},
          {"an expert twice, others outside",
           {normal({2, 37}), w, list({2, 2}, {3, 3, -1, 4}), normal({4, 19})},
           attrs(true)},
          {"q8_0, bias",
           {normal({5, 64}), blocks({4, 32, 64}, DType::kQ8_0), list({5, 2}, {0, 3, 3, 1, 1, 0, 2, 3, 0, 3}),
            normal({4, 32})},
           attrs(true),
           kRoundedX},
          {"q4_k, rows of their own",
           {normal({2, 2, 256}), blocks({3, 16, 256}, DType::kQ4_K), list({2, 2}, {2, 0, 1, 2})},
           attrs(false),
           kRoundedX},
          {"q4_0, rows of weights that fill no panel",
           {normal({3, 32}), blocks({2, 5, 32}, DType::kQ4_0), list({3, 1}, {1, 0, 1})},
           attrs(false),
           kRoundedX},
          {"computed in bf16",
           {normal({4, 66}), normal({3, 34, 66}, 0.2), list({4, 1}, {2, 0, 2, 1})},
           attrs(false, DType::kBF16)}};
}

// ---- top_k ---------------------------------------------------------------------------------------

std::vector<TensorType> infer_top_k(const InferInput& in) {
  in.check_operand_count(1);
  check_float(in, 0, "the operand");
  const Shape& a = in.operands[0].shape;
  const auto k = in.attrs.get<int64_t>("k");
  in.check(a.rank() >= 1 && a.dim(-1).symbol == 0, "the last axis of {} must be of a fixed size",
           a.to_string());
  in.check(k >= 1 && k <= a[-1], "k is {}, 1 to {} is wanted", k, a[-1]);
  Shape out = a.without(-1);
  out.push_back(k);
  return {{in.operands[0].dtype, out}, {DType::kI32, out}};
}

Values decompose_top_k(Graph& graph, const Node& node, std::span<const Value> operands) {
  const Shape& shape = operands[0].shape();
  const int last = shape.rank() - 1;
  const Value places = iota(graph, shape, last);
  const Value taken = full(graph, shape, -1e30, operands[0].dtype());
  Shape column = shape.without(-1);
  column.push_back(1);
  Value left = operands[0];
  Values largest, indices;
  for (int64_t i = 0; i < node.attrs.get<int64_t>("k"); ++i) {
    const Value index = argmax(left, last);
    largest.push_back(reshape(reduce_max(left, {last}), column));
    indices.push_back(reshape(index, column));
    left = select(compare(places, broadcast_leading(index, shape), Comparison::kEqual), taken, left);
  }
  if (largest.size() == 1) return {largest[0], indices[0]};
  return {concatenate(largest, last), concatenate(indices, last)};
}

// values[..., i] = a[..., indices[..., i]]
Values top_k_vjp(const VjpInput& in) {
  const Value dvalues = in.gradients[0];
  if (!dvalues.defined()) return {Value{}};
  const Shape& shape = in.operand(0).shape();
  Shape pairs = dvalues.shape();  // [..., k, X]
  pairs.push_back(shape.dim(-1));
  const Value places = iota(in.graph, pairs, pairs.rank() - 1);
  const Value here = compare(broadcast_leading(in.result(1), pairs), places, Comparison::kEqual);
  const Value spread = broadcast_leading(dvalues, pairs);
  return {reduce_sum(select(here, spread, zeros_like(spread)), {pairs.rank() - 2})};
}

}  // namespace

// (x [N, E] or [N, A, E], weight [X, F, E], experts i32 [N, A], bias [X, F] with has_bias){compute, has_bias}
// -> [N, A, F]. An expert outside [0, X) gives zeros.
const OpDef expert_linear_op = {.name = "expert_linear",
                                .infer = infer_expert_linear,
                                .vjp = expert_linear_vjp,
                                .decompose = decompose_expert_linear,
                                .samples = expert_samples,
                                .takes_blocks = true};

// (a [..., X]){k} -> (values [..., k], indices i32 [..., k])
const OpDef top_k_op = {.name = "top_k",
                        .infer = infer_top_k,
                        .vjp = top_k_vjp,
                        .decompose = decompose_top_k,
                        .samples = []() -> std::vector<OpSample> {
                          const auto of = [](int64_t k) { return Attrs{{"k", k}}; };
                          return {{"rows", {normal({5, 13})}, of(4)},
                                  {"one", {normal({2, 3, 7})}, of(1)},
                                  {"all", {normal({3, 5})}, of(5)},
                                  {"equals", {fixed(values({2, 4}, {1, 2, 2, 1, 0, 0, 0, 0}))}, of(3)}};
                        }};

Value expert_linear(Value x, Value weight, Value experts, Value bias, DType compute) {
  Values operands = {x, weight, experts};
  if (bias.defined()) operands.push_back(bias);
  return make(expert_linear_op, std::move(operands), {{"compute", compute}, {"has_bias", bias.defined()}});
}

TopK top_k(Value a, int64_t k) {
  const Values results = a.graph().add_node(top_k_op, {a}, {{"k", k}});
  return {results[0], results[1]};
}

}  // namespace vertebra
