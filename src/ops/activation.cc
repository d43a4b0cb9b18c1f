// Activations with fused kernels: silu, gelu, swiglu and their gradients. f32 inside, rounded once.
#include <numbers>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

template <size_t kCount>
std::vector<TensorType> infer_equal(const InferInput& in) {
  in.check_operand_count(kCount);
  check_float(in, 0, "the operand");
  for (size_t i = 1; i < kCount; ++i) check_type(in, i, in.operands[0], fmt::format("operand {}", i));
  return {in.operands[0]};
}

Value inner(Value a) { return convert(a, inner_dtype(a.dtype())); }

// d silu(x) / dx = s (1 + x (1 - s)), s = logistic(x)
Value silu_slope(Value x) {
  const Value s = logistic(x);
  return multiply(s, add(multiply(x, subtract(1, s)), 1));
}

constexpr double kCubic = 0.044715;

// The argument of tanh in the approximation: sqrt(2 / pi) (x + 0.044715 x^3).
Value gelu_argument(Value x) {
  const Value cubed = multiply(x, multiply(x, x));
  return multiply(add(x, multiply(cubed, kCubic)), std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
}

Value gelu_value(Value x, bool tanh_approximation) {
  const Value inside =
      tanh_approximation ? tanh(gelu_argument(x)) : erf(multiply(x, std::numbers::sqrt2 / 2));
  return multiply(multiply(x, 0.5), add(inside, 1));
}

Value gelu_slope(Value x, bool tanh_approximation) {
  constexpr double kRoot = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // sqrt(2 / pi)
  const Value squared = multiply(x, x);
  if (tanh_approximation) {
    // y = x/2 (1 + t), t = tanh(u): y' = (1 + t)/2 + x/2 (1 - t^2) u'
    const Value t = tanh(gelu_argument(x));
    const Value du = multiply(add(multiply(squared, 3 * kCubic), 1), kRoot);
    const Value second = multiply(multiply(x, 0.5), multiply(subtract(1, multiply(t, t)), du));
    return add(multiply(add(t, 1), 0.5), second);
  }
  // y = x/2 (1 + erf(x / sqrt 2)): y' = (1 + erf)/2 + x exp(-x^2/2) / sqrt(2 pi)
  const Value cumulative = multiply(add(erf(multiply(x, std::numbers::sqrt2 / 2)), 1), 0.5);
  return add(cumulative, multiply(multiply(x, exponential(multiply(squared, -0.5))), kRoot / 2));
}

template <size_t kCount>
std::vector<OpSample> samples_of() {
  std::vector<OpSample> out;
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{5, 131}, Shape{2, 3, 16}})
    out.push_back({shape.to_string(), std::vector<OperandSample>(kCount, normal(shape, 2)), {}});
  return out;
}

template <size_t kCount>
std::vector<OpSample> gelu_samples() {
  std::vector<OpSample> out;
  for (const bool approximation : {false, true}) {
    for (OpSample sample : samples_of<kCount>()) {
      if (approximation) sample.name += " tanh";
      sample.attrs.set("tanh_approximation", approximation);
      out.push_back(std::move(sample));
    }
  }
  return out;
}

}  // namespace

const OpDef silu_op = {.name = "silu",
                       .infer = infer_equal<1>,
                       .vjp = [](const VjpInput& in) -> Values {
                         return {make(silu_grad_op, {in.operand(0), in.gradients[0]})};
                       },
                       .decompose = [](Graph&, const Node&, std::span<const Value> operands) -> Values {
                         const Value x = inner(operands[0]);
                         return {convert(multiply(x, logistic(x)), operands[0].dtype())};
                       },
                       .samples = samples_of<1>,
                       .cheap = true};

// (x, dy) -> dx
const OpDef silu_grad_op = {
    .name = "silu_grad",
    .infer = infer_equal<2>,
    .no_vjp = "a gradient itself: decompose it to differentiate twice",
    .decompose = [](Graph&, const Node&, std::span<const Value> operands) -> Values {
      return {convert(multiply(inner(operands[1]), silu_slope(inner(operands[0]))), operands[0].dtype())};
    },
    .samples = samples_of<2>};

const OpDef gelu_op = {
    .name = "gelu",
    .infer = infer_equal<1>,
    .vjp = [](const VjpInput& in) -> Values {
      return {make(gelu_grad_op, {in.operand(0), in.gradients[0]}, in.node.attrs)};
    },
    .decompose = [](Graph&, const Node& node, std::span<const Value> operands) -> Values {
      const Value x = operands[0];
      return {convert(gelu_value(inner(x), node.attrs.get<bool>("tanh_approximation")), x.dtype())};
    },
    .samples = gelu_samples<1>,
    .cheap = true};

// (x, dy) -> dx
const OpDef gelu_grad_op = {
    .name = "gelu_grad",
    .infer = infer_equal<2>,
    .no_vjp = "a gradient itself: decompose it to differentiate twice",
    .decompose = [](Graph&, const Node& node, std::span<const Value> operands) -> Values {
      const Value slope = gelu_slope(inner(operands[0]), node.attrs.get<bool>("tanh_approximation"));
      return {convert(multiply(inner(operands[1]), slope), operands[0].dtype())};
    },
    .samples = gelu_samples<2>};

// (gate, up) -> silu(gate) * up (Shazeer 2020)
const OpDef swiglu_op = {.name = "swiglu",
                         .infer = infer_equal<2>,
                         .vjp = [](const VjpInput& in) -> Values {
                           return in.graph.add_node(swiglu_grad_op,
                                                    {in.operand(0), in.operand(1), in.gradients[0]});
                         },
                         .decompose = [](Graph&, const Node&, std::span<const Value> operands) -> Values {
                           const Value g = inner(operands[0]);
                           const Value y = multiply(multiply(g, logistic(g)), inner(operands[1]));
                           return {convert(y, operands[0].dtype())};
                         },
                         .samples = samples_of<2>,
                         .cheap = true};

// (gate, up, dy) -> (dgate, dup)
const OpDef swiglu_grad_op = {
    .name = "swiglu_grad",
    .infer = [](const InferInput& in) -> std::vector<TensorType> {
      const TensorType type = infer_equal<3>(in)[0];
      return {type, type};
    },
    .no_vjp = "a gradient itself: decompose it to differentiate twice",
    .decompose = [](Graph&, const Node&, std::span<const Value> operands) -> Values {
      const Value g = inner(operands[0]), u = inner(operands[1]), dy = inner(operands[2]);
      const DType dtype = operands[0].dtype();
      return {convert(multiply(multiply(dy, u), silu_slope(g)), dtype),
              convert(multiply(dy, multiply(g, logistic(g))), dtype)};
    },
    .samples = samples_of<3>};

Value silu(Value a) { return make(silu_op, {a}); }
Value gelu(Value a, bool tanh_approximation) {
  return make(gelu_op, {a}, {{"tanh_approximation", tanh_approximation}});
}

}  // namespace vertebra
