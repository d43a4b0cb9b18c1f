// Elementwise functions of one floating-point operand (primitives).
#include <numbers>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

std::vector<TensorType> infer_float(const InferInput& in) {
  in.check_operand_count(1);
  check_float(in, 0, "the operand");
  return {in.operands[0]};
}

std::vector<TensorType> infer_number(const InferInput& in) {
  in.check_operand_count(1);
  in.check(in.operands[0].dtype != DType::kBool, "there is no arithmetic on bool");
  return {in.operands[0]};
}

std::vector<OpSample> samples_in(double low, double high) {
  std::vector<OpSample> out;
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{5, 131}, Shape{0, 3}})
    out.push_back({shape.to_string(), {uniform(shape, low, high)}, {}});
  return out;
}

using Values = std::vector<Value>;

}  // namespace

const OpDef negate_op = {.name = "negate",
                         .infer = infer_number,
                         .vjp = [](const VjpInput& in) -> Values { return {negate(in.gradients[0])}; },
                         .samples =
                             [] {
                               auto out = samples_in(-3, 3);
                               out.push_back({"integers", {integers({9}, -5, 6)}, {}});
                               return out;
                             }};

const OpDef exponential_op = {
    .name = "exponential",
    .infer = infer_float,
    .vjp = [](const VjpInput& in) -> Values { return {multiply(in.gradients[0], in.result())}; },
    .samples = [] { return samples_in(-8, 3); }};

const OpDef logarithm_op = {
    .name = "logarithm",
    .infer = infer_float,
    .vjp = [](const VjpInput& in) -> Values { return {divide(in.gradients[0], in.operand(0))}; },
    .samples = [] { return samples_in(0.1, 20); }};

const OpDef square_root_op = {
    .name = "square_root",
    .infer = infer_float,
    .vjp = [](const VjpInput& in) -> Values { return {divide(multiply(in.gradients[0], 0.5), in.result())}; },
    .samples = [] { return samples_in(0.1, 20); }};

const OpDef reciprocal_square_root_op = {
    .name = "reciprocal_square_root",
    .infer = infer_float,
    .vjp = [](const VjpInput& in) -> Values {
      // y = x^(-1/2): dx = -dy * y^3 / 2
      const Value y = in.result();
      return {multiply(multiply(in.gradients[0], -0.5), multiply(y, multiply(y, y)))};
    },
    .samples = [] { return samples_in(0.1, 20); }};

const OpDef tanh_op = {.name = "tanh",
                       .infer = infer_float,
                       .vjp = [](const VjpInput& in) -> Values {
                         const Value y = in.result();
                         return {multiply(in.gradients[0], subtract(1, multiply(y, y)))};
                       },
                       .samples = [] { return samples_in(-4, 4); }};

const OpDef logistic_op = {.name = "logistic",
                           .infer = infer_float,
                           .vjp = [](const VjpInput& in) -> Values {
                             const Value y = in.result();
                             return {multiply(in.gradients[0], multiply(y, subtract(1, y)))};
                           },
                           .samples = [] { return samples_in(-8, 8); }};

const OpDef erf_op = {.name = "erf",
                      .infer = infer_float,
                      .vjp = [](const VjpInput& in) -> Values {
                        // y = 2 / sqrt(pi) * integral of exp(-t^2)
                        const Value x = in.operand(0);
                        const Value slope =
                            multiply(exponential(negate(multiply(x, x))), 2 * std::numbers::inv_sqrtpi);
                        return {multiply(in.gradients[0], slope)};
                      },
                      .samples = [] { return samples_in(-3, 3); }};

const OpDef absolute_op = {.name = "absolute",
                           .infer = infer_number,
                           .vjp = [](const VjpInput& in) -> Values {
                             // The slope at 0 is taken as 0.
                             const Value x = in.operand(0), dy = in.gradients[0];
                             const Value otherwise =
                                 select(compare_with(x, 0, "lt"), negate(dy), zeros_like(dy));
                             return {select(compare_with(x, 0, "gt"), dy, otherwise)};
                           },
                           .samples = [] { return samples_in(-3, 3); }};

const OpDef sine_op = {
    .name = "sine",
    .infer = infer_float,
    .vjp = [](const VjpInput& in) -> Values { return {multiply(in.gradients[0], cosine(in.operand(0)))}; },
    .samples = [] { return samples_in(-50, 50); }};

const OpDef cosine_op = {.name = "cosine",
                         .infer = infer_float,
                         .vjp = [](const VjpInput& in) -> Values {
                           return {negate(multiply(in.gradients[0], sine(in.operand(0))))};
                         },
                         .samples = [] { return samples_in(-50, 50); }};

const OpDef floor_op = {.name = "floor",
                        .infer = infer_float,
                        .vjp = [](const VjpInput&) -> Values { return {Value{}}; },  // flat between the steps
                        .samples = [] { return samples_in(-5, 5); }};

Value negate(Value a) { return make(negate_op, {a}); }
Value exponential(Value a) { return make(exponential_op, {a}); }
Value logarithm(Value a) { return make(logarithm_op, {a}); }
Value square_root(Value a) { return make(square_root_op, {a}); }
Value reciprocal_square_root(Value a) { return make(reciprocal_square_root_op, {a}); }
Value tanh(Value a) { return make(tanh_op, {a}); }
Value logistic(Value a) { return make(logistic_op, {a}); }
Value erf(Value a) { return make(erf_op, {a}); }
Value absolute(Value a) { return make(absolute_op, {a}); }
Value sine(Value a) { return make(sine_op, {a}); }
Value cosine(Value a) { return make(cosine_op, {a}); }
Value floor(Value a) { return make(floor_op, {a}); }

}  // namespace vertebra
