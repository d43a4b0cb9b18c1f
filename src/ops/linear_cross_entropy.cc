// The output head fused with cross-entropy, its gradient, and both in one sweep. The decompositions hold all
// logits and are the oracle; kernels go over the rows in chunks.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

// hidden [N, E], head [V, E], labels i32 [N], and with `gradient` dloss f32 [N].
TensorType check_loss(const InferInput& in, bool gradient) {
  in.check_operand_count(gradient ? 4 : 3);
  check_compute(in);
  check_float(in, 0, "hidden");
  check_float(in, 1, "the head");
  check_rank(in, 0, 2, "hidden [N, E]");
  check_rank(in, 1, 2, "the head [V, E]");
  const Shape& hidden = in.operands[0].shape;
  const Shape& head = in.operands[1].shape;
  in.check(hidden.dim(1) == head.dim(1), "hidden [N, E] and the head [V, E] differ in E");
  in.check(head[0] > 0 && head.is_static(), "the head needs a fixed number of rows above 0");
  check_type(in, 2, {DType::kI32, Shape{hidden.dim(0)}}, "labels [N]");
  const TensorType loss = {DType::kF32, Shape{hidden.dim(0)}};
  if (gradient) check_type(in, 3, loss, "the gradient of the loss");
  return loss;
}

struct Logits {
  Value shifted, sum;  // logits - largest [N, V]; sum of their exponentials [N]
  Value at_label;      // bool [N, V]: the column of the row's label
  Value counted;       // bool [N]: the label lies in [0, V)
};

Logits make_logits(const Node& node, std::span<const Value> operands) {
  const Value logits = dot_general(operands[0], operands[1], {{}, {}, {1}, {1}},
                                   inner_dtype(operands[0].dtype()), node.attrs.get<DType>("compute"));
  const Shape& shape = logits.shape();
  const Value labels = operands[2];
  Logits out;
  out.shifted = subtract(logits, broadcast_leading(reduce_max(logits, {1}), shape));
  out.sum = reduce_sum(exponential(out.shifted), {1});
  out.at_label =
      compare(iota(logits.graph(), shape, 1), broadcast_leading(labels, shape), Comparison::kEqual);
  out.counted =
      logical_and(compare_with(labels, 0, "ge"), compare_with(labels, static_cast<double>(shape[1]), "lt"));
  return out;
}

// loss = log(sum(exp(logits))) - logits[label]
Value loss_of(const Logits& l) {
  const Value picked = reduce_sum(select(l.at_label, l.shifted, zeros_like(l.shifted)), {1});
  const Value loss = subtract(logarithm(l.sum), picked);
  return convert(select(l.counted, loss, zeros_like(loss)), DType::kF32);
}

// dlogits = (softmax(logits) - onehot(label)) dloss; dhidden = dlogits . head; dhead = dlogits^T . hidden
Values gradients_of(const Logits& l, const Node& node, std::span<const Value> operands) {
  const Shape& shape = l.shifted.shape();
  const DType inner = l.shifted.dtype(), compute = node.attrs.get<DType>("compute");
  const Value softmax = divide(exponential(l.shifted), broadcast_leading(l.sum, shape));
  const Value dloss = convert(operands[3], inner);
  const Value weight = select(l.counted, dloss, zeros_like(dloss));
  const Value dlogits =
      multiply(subtract(softmax, convert(l.at_label, inner)), broadcast_leading(weight, shape));
  return {dot_general(dlogits, operands[1], {{}, {}, {1}, {0}}, operands[0].dtype(), compute),
          dot_general(dlogits, operands[0], {{}, {}, {0}, {0}}, operands[1].dtype(), compute)};
}

std::vector<OpSample> loss_samples(bool gradient) {
  const auto sample = [&](std::string name, int64_t n, int64_t e, int64_t v, std::vector<double> labels,
                          DType compute = DType::kF32) {
    OpSample out = {std::move(name),
                    {normal({n, e}), normal({v, e}, 0.3), values({n}, std::move(labels), DType::kI32)},
                    {{"compute", compute}}};
    if (gradient) out.operands.push_back(fixed(normal({n})));
    return out;
  };
  return {sample("rows", 5, 33, 70, {0, 69, 7, 13, 13}),
          sample("ignored labels", 6, 8, 11, {3, -1, 10, -100, 0, -1}),
          sample("labels beyond the vocabulary", 3, 8, 11, {11, 4, 5000}),
          sample("one row", 1, 16, 3, {2}),
          sample("nothing counted", 2, 4, 5, {-1, -1}),
          sample("computed in bf16", 7, 64, 33, {0, 32, -1, 5, 6, 7, 8}, DType::kBF16)};
}

}  // namespace

// A label outside [0, V) has no loss.
const OpDef linear_cross_entropy_op = {
    .name = "linear_cross_entropy",
    .infer = [](const InferInput& in) -> std::vector<TensorType> { return {check_loss(in, false)}; },
    .vjp = [](const VjpInput& in) -> Values {
      Values out =
          in.graph.add_node(linear_cross_entropy_grad_op,
                            {in.operand(0), in.operand(1), in.operand(2), in.gradients[0]}, in.node.attrs);
      out.push_back(Value{});  // the labels
      return out;
    },
    .decompose = [](Graph&, const Node& node, std::span<const Value> operands) -> Values {
      return {loss_of(make_logits(node, operands))};
    },
    .samples = [] { return loss_samples(false); }};

// (hidden, head, labels, dloss f32 [N]) -> (dhidden, dhead)
const OpDef linear_cross_entropy_grad_op = {
    .name = "linear_cross_entropy_grad",
    .infer = [](const InferInput& in) -> std::vector<TensorType> {
      check_loss(in, true);
      return {in.operands[0], in.operands[1]};
    },
    .no_vjp = "a gradient itself: decompose it to differentiate twice",
    .decompose = [](Graph&, const Node& node, std::span<const Value> operands) -> Values {
      return gradients_of(make_logits(node, operands), node, operands);
    },
    .samples = [] { return loss_samples(true); }};

// (hidden, head, labels, dloss f32 [N]) -> (loss, dhidden, dhead), put in by the fuse pass
const OpDef linear_cross_entropy_both_op = {
    .name = "linear_cross_entropy_both",
    .infer = [](const InferInput& in) -> std::vector<TensorType> {
      return {check_loss(in, true), in.operands[0], in.operands[1]};
    },
    .no_vjp = "a gradient itself: decompose it to differentiate twice",
    .decompose = [](Graph&, const Node& node, std::span<const Value> operands) -> Values {
      const Logits logits = make_logits(node, operands);
      const Values gradients = gradients_of(logits, node, operands);
      return {loss_of(logits), gradients[0], gradients[1]};
    },
    .samples = [] { return loss_samples(true); }};

Value linear_cross_entropy(Value hidden, Value head, Value labels, DType compute) {
  return make(linear_cross_entropy_op, {hidden, head, labels}, {{"compute", compute}});
}

}  // namespace vertebra
