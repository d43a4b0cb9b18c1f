// rms_norm (Zhang & Sennrich 2019) and its gradient, f32 inside.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

void check_norm(const InferInput& in, size_t count) {
  in.check_operand_count(count);
  check_float(in, 0, "x");
  check_float(in, 1, "the weight");
  const Shape& x = in.operands[0].shape;
  in.check(x.rank() >= 1 && x.dim(-1).symbol == 0 && x[-1] > 0,
           "x needs a last axis of a fixed size above 0");
  check_shape(in, 1, Shape{x.dim(-1)}, "the weight");
  in.check(in.attrs.get<double>("epsilon") >= 0, "epsilon is {}, it may not be negative",
           in.attrs.get<double>("epsilon"));
}

// 1 / sqrt(mean(x^2) + epsilon), as large as x.
Value scale_of(Value x, double epsilon) {
  const Value mean_square = mean(multiply(x, x), {x.shape().rank() - 1});
  return broadcast_leading(reciprocal_square_root(add(mean_square, epsilon)), x.shape());
}

Values decompose_norm(Graph&, const Node& node, std::span<const Value> operands) {
  const DType inner = inner_dtype(operands[0].dtype());
  const Value x = convert(operands[0], inner), weight = convert(operands[1], inner);
  const Value normalised = multiply(x, scale_of(x, node.attrs.get<double>("epsilon")));
  return {convert(multiply(normalised, weight), operands[0].dtype())};
}

Values decompose_grad(Graph&, const Node& node, std::span<const Value> operands) {
  // y = n weight, n = x r, r = 1 / sqrt(mean(x^2) + epsilon):
  // g = dy weight, dx = r (g - n mean(g n)), dweight = sum over rows of dy n
  const DType inner = inner_dtype(operands[0].dtype());
  const Value x = convert(operands[0], inner), weight = convert(operands[1], inner),
              dy = convert(operands[2], inner);
  const int last = x.shape().rank() - 1;
  const Value r = scale_of(x, node.attrs.get<double>("epsilon"));
  const Value n = multiply(x, r), g = multiply(dy, weight);
  const Value along = broadcast_leading(mean(multiply(g, n), {last}), x.shape());
  const Value dx = multiply(r, subtract(g, multiply(n, along)));
  const Value dweight = reduce_sum(multiply(dy, n), axes_up_to(last));
  return {convert(dx, operands[0].dtype()), convert(dweight, operands[1].dtype())};
}

std::vector<OpSample> norm_samples(bool gradient) {
  std::vector<OpSample> out;
  for (const Shape& shape : {Shape{5, 131}, Shape{17}, Shape{2, 3, 64}, Shape{2, 2, 3, 16}}) {
    OpSample sample = {shape.to_string(), {normal(shape, 2), normal({shape[-1]})}, {{"epsilon", 1e-5}}};
    if (gradient) sample.operands.push_back(normal(shape));
    out.push_back(std::move(sample));
  }
  return out;
}

}  // namespace

const OpDef rms_norm_op = {.name = "rms_norm",
                           .infer = [](const InferInput& in) -> std::vector<TensorType> {
                             check_norm(in, 2);
                             return {in.operands[0]};
                           },
                           .vjp = [](const VjpInput& in) -> Values {
                             return in.graph.add_node(rms_norm_grad_op,
                                                      {in.operand(0), in.operand(1), in.gradients[0]},
                                                      in.node.attrs);
                           },
                           .decompose = decompose_norm,
                           .samples = [] { return norm_samples(false); },
                           .cheap = true};

// (x, weight, dy) -> (dx, dweight)
const OpDef rms_norm_grad_op = {.name = "rms_norm_grad",
                                .infer = [](const InferInput& in) -> std::vector<TensorType> {
                                  check_norm(in, 3);
                                  check_type(in, 2, in.operands[0], "the gradient");
                                  return {in.operands[0], in.operands[1]};
                                },
                                .no_vjp = "a gradient itself: decompose it to differentiate twice",
                                .decompose = decompose_grad,
                                .samples = [] { return norm_samples(true); }};

Value rms_norm(Value x, Value weight, double epsilon) {
  return make(rms_norm_op, {x, weight}, {{"epsilon", epsilon}});
}

}  // namespace vertebra
