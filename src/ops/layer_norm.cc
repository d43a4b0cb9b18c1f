// layer_norm (Ba et al. 2016) and its gradient, f32 inside; the variance is the biased one.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

void check_norm(const InferInput& in) {
  in.check_operand_count(3);
  check_float(in, 0, "x");
  check_float(in, 1, "the weight");
  check_float(in, 2, "the third operand");
  const Shape& x = in.operands[0].shape;
  in.check(x.rank() >= 1 && x.dim(-1).symbol == 0 && x[-1] > 0,
           "x needs a last axis of a fixed size above 0");
  check_shape(in, 1, Shape{x.dim(-1)}, "the weight");
  in.check(in.attrs.get<double>("epsilon") >= 0, "epsilon is {}, it may not be negative",
           in.attrs.get<double>("epsilon"));
}

struct Normalised {
  Value n, r;  // n = (x - mean) r, r = 1 / sqrt(var + epsilon), both as large as x
};

Normalised normalise(Value x, double epsilon) {
  const int64_t last = x.shape().rank() - 1;
  const Value centred = subtract(x, broadcast_leading(mean(x, {last}), x.shape()));
  const Value variance = mean(multiply(centred, centred), {last});
  const Value r = broadcast_leading(reciprocal_square_root(add(variance, epsilon)), x.shape());
  return {multiply(centred, r), r};
}

Values decompose_norm(Graph&, const Node& node, std::span<const Value> operands) {
  const DType inner = inner_dtype(operands[0].dtype());
  const Value n = normalise(convert(operands[0], inner), node.attrs.get<double>("epsilon")).n;
  const Value y = add(multiply(n, convert(operands[1], inner)), convert(operands[2], inner));
  return {convert(y, operands[0].dtype())};
}

Values decompose_grad(Graph&, const Node& node, std::span<const Value> operands) {
  // y = n weight + bias, n = (x - mean) r:
  // g = dy weight, dx = r (g - mean(g) - n mean(g n)), dweight = sum of dy n, dbias = sum of dy
  const DType inner = inner_dtype(operands[0].dtype());
  const Value x = convert(operands[0], inner), weight = convert(operands[1], inner),
              dy = convert(operands[2], inner);
  const int last = x.shape().rank() - 1;
  const auto [n, r] = normalise(x, node.attrs.get<double>("epsilon"));
  const Value g = multiply(dy, weight);
  const Value along = broadcast_leading(mean(multiply(g, n), {last}), x.shape());
  const Value level = broadcast_leading(mean(g, {last}), x.shape());
  const Value dx = multiply(r, subtract(subtract(g, level), multiply(n, along)));
  const auto rows = axes_up_to(last);
  const DType weight_dtype = operands[1].dtype();
  return {convert(dx, operands[0].dtype()), convert(reduce_sum(multiply(dy, n), rows), weight_dtype),
          convert(reduce_sum(dy, rows), weight_dtype)};
}

std::vector<OpSample> norm_samples(bool gradient) {
  std::vector<OpSample> out;
  for (const Shape& shape : {Shape{5, 131}, Shape{17}, Shape{2, 3, 64}}) {
    const Shape row = {shape[-1]};
    out.push_back({shape.to_string(),
                   {normal(shape, 2), normal(row), gradient ? normal(shape) : normal(row)},
                   {{"epsilon", 1e-5}}});
  }
  return out;
}

}  // namespace

const OpDef layer_norm_op = {.name = "layer_norm",
                             .infer = [](const InferInput& in) -> std::vector<TensorType> {
                               check_norm(in);
                               check_type(in, 2, in.operands[1], "the bias");
                               return {in.operands[0]};
                             },
                             .vjp = [](const VjpInput& in) -> Values {
                               return in.graph.add_node(layer_norm_grad_op,
                                                        {in.operand(0), in.operand(1), in.gradients[0]},
                                                        in.node.attrs);
                             },
                             .decompose = decompose_norm,
                             .samples = [] { return norm_samples(false); },
                             .cheap = true};

// (x, weight, dy) -> (dx, dweight, dbias)
const OpDef layer_norm_grad_op = {.name = "layer_norm_grad",
                                  .infer = [](const InferInput& in) -> std::vector<TensorType> {
                                    check_norm(in);
                                    check_type(in, 2, in.operands[0], "the gradient");
                                    return {in.operands[0], in.operands[1], in.operands[1]};
                                  },
                                  .no_vjp = "a gradient itself: decompose it to differentiate twice",
                                  .decompose = decompose_grad,
                                  .samples = [] { return norm_samples(true); }};

Value layer_norm(Value x, Value weight, Value bias, double epsilon) {
  return make(layer_norm_op, {x, weight, bias}, {{"epsilon", epsilon}});
}

}  // namespace vertebra
