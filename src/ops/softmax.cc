// softmax over the last axis and its gradient, stable (the largest element is subtracted), f32 inside.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

template <size_t kCount>
std::vector<TensorType> infer_rows(const InferInput& in) {
  in.check_operand_count(kCount);
  check_float(in, 0, "the operand");
  in.check(in.operands[0].shape.rank() >= 1, "a scalar has no last axis");
  if (kCount == 2) check_type(in, 1, in.operands[0], "the gradient");
  return {in.operands[0]};
}

Values decompose_softmax(Graph&, const Node&, std::span<const Value> operands) {
  const Value x = convert(operands[0], inner_dtype(operands[0].dtype()));
  const int64_t last = x.shape().rank() - 1;
  const Value shifted = subtract(x, broadcast_leading(reduce_max(x, {last}), x.shape()));
  const Value e = exponential(shifted);
  return {convert(divide(e, broadcast_leading(reduce_sum(e, {last}), x.shape())), operands[0].dtype())};
}

// y = softmax(x): dx = y (dy - sum(dy y))
Values decompose_softmax_grad(Graph&, const Node&, std::span<const Value> operands) {
  const DType inner = inner_dtype(operands[0].dtype());
  const Value y = convert(operands[0], inner), dy = convert(operands[1], inner);
  const Value sum = reduce_sum(multiply(dy, y), {y.shape().rank() - 1});
  return {convert(multiply(y, subtract(dy, broadcast_leading(sum, y.shape()))), operands[0].dtype())};
}

}  // namespace

const OpDef softmax_op = {.name = "softmax",
                          .infer = infer_rows<1>,
                          .vjp = [](const VjpInput& in) -> Values {
                            return {make(softmax_grad_op, {in.result(), in.gradients[0]})};
                          },
                          .decompose = decompose_softmax,
                          .samples = []() -> std::vector<OpSample> {
                            return {{"rows", {normal({5, 131}, 3)}, {}},
                                    {"a row", {normal({17})}, {}},
                                    {"heads", {normal({2, 3, 8})}, {}},
                                    {"large values", {uniform({3, 9}, 900, 1000)}, {}},
                                    {"single elements", {normal({4, 1})}, {}}};
                          }};

// (y, dy) -> dx
const OpDef softmax_grad_op = {.name = "softmax_grad",
                               .infer = infer_rows<2>,
                               .no_vjp = "a gradient itself: decompose it to differentiate twice",
                               .decompose = decompose_softmax_grad,
                               .samples = []() -> std::vector<OpSample> {
                                 return {{"rows", {uniform({5, 131}, 0, 0.02), normal({5, 131})}, {}},
                                         {"heads", {uniform({2, 3, 8}, 0, 0.3), normal({2, 3, 8})}, {}}};
                               }};

Value softmax(Value a) { return make(softmax_op, {a}); }

}  // namespace vertebra
