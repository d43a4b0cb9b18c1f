// Elementwise arithmetic of two operands (primitives): add, subtract, multiply, divide, maximum,
// minimum, power.
#include <cmath>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

std::vector<TensorType> infer_two_equal(const InferInput& in) {
  in.check_operand_count(2);
  check_type(in, 1, in.operands[0], "the second operand");
  return {in.operands[0]};
}

std::vector<TensorType> infer_arithmetic(const InferInput& in) {
  auto out = infer_two_equal(in);
  in.check(in.operands[0].dtype != DType::kBool, "there is no arithmetic on bool");
  return out;
}

std::vector<TensorType> infer_float(const InferInput& in) {
  auto out = infer_two_equal(in);
  check_float(in, 0, "the operand");
  return out;
}

std::vector<OpSample> two_of(OperandSample (*first)(Shape), OperandSample (*second)(Shape)) {
  std::vector<OpSample> out;
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{5, 131}, Shape{2, 3, 33}, Shape{0, 4}})
    out.push_back({shape.to_string(), {first(shape), second(shape)}, {}});
  return out;
}

OperandSample plain(Shape shape) { return normal(shape); }
OperandSample positive(Shape shape) { return uniform(shape, 0.5, 2.5); }

std::vector<OpSample> arithmetic_samples() {
  auto out = two_of(plain, plain);
  out.push_back({"integers", {integers({19}, -50, 50), integers({19}, -50, 50)}, {}});
  return out;
}

std::vector<OpSample> divide_samples() {
  auto out = two_of(plain, positive);
  out.push_back({"integers, zero among the divisors", {integers({37}, -50, 50), integers({37}, -3, 4)}, {}});
  return out;
}

Value binary(const OpDef& op, Value a, Value b) {
  VERTEBRA_CHECK(a.defined() && b.defined(), "an op is built on no value");
  const Shape shape = broadcast_shapes(op.name, a.shape(), b.shape());
  return make(op, {broadcast_to(a, shape), broadcast_to(b, shape)});
}

Value scalar_like(Value a, double value) { return constant(a.graph(), value, a.dtype()); }

// The gradient goes to the operand that was taken; to the first among equals.
std::vector<Value> select_gradient(const VjpInput& in, Comparison first_taken) {
  const Value dy = in.gradients[0], zero = zeros_like(dy);
  const Value taken = compare(in.operand(0), in.operand(1), first_taken);
  return {select(taken, dy, zero), select(taken, zero, dy)};
}

}  // namespace

const OpDef add_op = {
    .name = "add",
    .infer = infer_arithmetic,
    .vjp = [](const VjpInput& in) -> std::vector<Value> { return {in.gradients[0], in.gradients[0]}; },
    .samples = arithmetic_samples};

const OpDef subtract_op = {.name = "subtract",
                           .infer = infer_arithmetic,
                           .vjp = [](const VjpInput& in) -> std::vector<Value> {
                             return {in.gradients[0], in.wanted[1] ? negate(in.gradients[0]) : Value{}};
                           },
                           .samples = arithmetic_samples};

const OpDef multiply_op = {.name = "multiply",
                           .infer = infer_arithmetic,
                           .vjp = [](const VjpInput& in) -> std::vector<Value> {
                             const Value dy = in.gradients[0];
                             return {in.wanted[0] ? multiply(dy, in.operand(1)) : Value{},
                                     in.wanted[1] ? multiply(dy, in.operand(0)) : Value{}};
                           },
                           .samples = arithmetic_samples};

// Integers: rounds towards zero; by zero gives -1 (all bits set), the smallest by -1 gives itself, as XLA
// does.
const OpDef divide_op = {.name = "divide",
                         .infer = infer_arithmetic,
                         .vjp = [](const VjpInput& in) -> std::vector<Value> {
                           // y = a / b: da = dy / b, db = -da * y
                           const Value da = divide(in.gradients[0], in.operand(1));
                           return {da, in.wanted[1] ? negate(multiply(da, in.result())) : Value{}};
                         },
                         .samples = divide_samples};

const OpDef maximum_op = {.name = "maximum",
                          .infer = infer_arithmetic,
                          .vjp = [](const VjpInput& in) -> std::vector<Value> {
                            return select_gradient(in, Comparison::kGreaterEqual);
                          },
                          .samples = arithmetic_samples};

const OpDef minimum_op = {.name = "minimum",
                          .infer = infer_arithmetic,
                          .vjp = [](const VjpInput& in) -> std::vector<Value> {
                            return select_gradient(in, Comparison::kLessEqual);
                          },
                          .samples = arithmetic_samples};

const OpDef power_op = {.name = "power",
                        .infer = infer_float,
                        .vjp = [](const VjpInput& in) -> std::vector<Value> {
                          // y = a^b: da = dy * b * a^(b - 1), db = dy * y * log(a) where a > 0
                          const Value a = in.operand(0), b = in.operand(1), dy = in.gradients[0];
                          Value da, db;
                          if (in.wanted[0]) da = multiply(dy, multiply(b, power(a, add(b, -1.0))));
                          if (in.wanted[1]) {
                            const Value safe =
                                select(compare_with(a, 0, "gt"), a, full(a.graph(), a.shape(), 1, a.dtype()));
                            db = multiply(dy, multiply(in.result(), logarithm(safe)));
                          }
                          return {da, db};
                        },
                        .samples = [] { return two_of(positive, plain); }};

Value add(Value a, Value b) { return binary(add_op, a, b); }
Value subtract(Value a, Value b) { return binary(subtract_op, a, b); }
Value multiply(Value a, Value b) { return binary(multiply_op, a, b); }
Value divide(Value a, Value b) { return binary(divide_op, a, b); }
Value maximum(Value a, Value b) { return binary(maximum_op, a, b); }
Value minimum(Value a, Value b) { return binary(minimum_op, a, b); }
Value power(Value a, Value b) { return binary(power_op, a, b); }

Value add(Value a, double b) { return add(a, scalar_like(a, b)); }
Value subtract(double a, Value b) { return subtract(scalar_like(b, a), b); }
Value subtract(Value a, double b) { return subtract(a, scalar_like(a, b)); }
Value multiply(Value a, double b) { return multiply(a, scalar_like(a, b)); }
Value divide(Value a, double b) { return divide(a, scalar_like(a, b)); }
Value divide(double a, Value b) { return divide(scalar_like(b, a), b); }
Value maximum(Value a, double b) { return maximum(a, scalar_like(a, b)); }
Value minimum(Value a, double b) { return minimum(a, scalar_like(a, b)); }
Value power(Value a, double b) { return power(a, scalar_like(a, b)); }

}  // namespace vertebra
