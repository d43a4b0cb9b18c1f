// Comparison, choice and conversion, elementwise (primitives): compare, select, logical_*, convert,
// stop_gradient.
#include <algorithm>
#include <array>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

constexpr std::array<std::string_view, 6> kDirections = {"eq", "ne", "lt", "le", "gt", "ge"};

std::vector<TensorType> infer_logical(const InferInput& in) {
  in.check_operand_count(2);
  check_dtype(in, 0, DType::kBool, "the first operand");
  check_type(in, 1, in.operands[0], "the second operand");
  return {in.operands[0]};
}

std::vector<OpSample> logical_samples() {
  return {{"row", {integers({13}, 0, 2, DType::kBool), integers({13}, 0, 2, DType::kBool)}, {}}};
}

std::vector<OpSample> compare_samples() {
  std::vector<OpSample> out;
  for (const std::string_view direction : kDirections) {
    const Attrs attrs = {{"direction", std::string(direction)}};
    out.push_back(
        {fmt::format("{} of integers", direction), {integers({41}, -3, 4), integers({41}, -3, 4)}, attrs});
    out.push_back({fmt::format("{} of floats", direction), {normal({3, 11}), normal({3, 11})}, attrs});
  }
  return out;
}

std::vector<OpSample> convert_samples() {
  const auto to = [](DType dtype) { return Attrs{{"dtype", dtype}}; };
  return {{"to bf16", {normal({3, 17})}, to(DType::kBF16), 5e-3},
          {"to f16", {normal({3, 17})}, to(DType::kF16), 1e-3},
          {"to f32", {normal({3, 17})}, to(DType::kF32)},
          {"to i32 truncates", {uniform({33}, -9, 9)}, to(DType::kI32)},
          {"from i32", {integers({33}, -99, 99)}, to(DType::kF32)},
          {"from bool", {integers({9}, 0, 2, DType::kBool)}, to(DType::kF32)},
          {"u32 to i32", {integers({9}, 0, 99, DType::kU32)}, to(DType::kI32)}};
}

Value broadcast_binary(const OpDef& op, Value a, Value b, Attrs attrs = {}) {
  VERTEBRA_CHECK(a.defined() && b.defined(), "an op is built on no value");
  const Shape shape = broadcast_shapes(op.name, a.shape(), b.shape());
  return make(op, {broadcast_to(a, shape), broadcast_to(b, shape)}, std::move(attrs));
}

}  // namespace

const OpDef logical_and_op = {
    .name = "logical_and", .infer = infer_logical, .no_vjp = "bool results", .samples = logical_samples};
const OpDef logical_or_op = {
    .name = "logical_or", .infer = infer_logical, .no_vjp = "bool results", .samples = logical_samples};
const OpDef logical_not_op = {
    .name = "logical_not",
    .infer = [](const InferInput& in) -> std::vector<TensorType> {
      in.check_operand_count(1);
      check_dtype(in, 0, DType::kBool, "the operand");
      return {in.operands[0]};
    },
    .no_vjp = "bool results",
    .samples = []() -> std::vector<OpSample> { return {{"row", {integers({13}, 0, 2, DType::kBool)}, {}}}; }};

// Attribute direction: "eq", "ne", "lt", "le", "gt" or "ge". NaN is unequal to everything.
const OpDef compare_op = {
    .name = "compare",
    .infer = [](const InferInput& in) -> std::vector<TensorType> {
      in.check_operand_count(2);
      check_type(in, 1, in.operands[0], "the second operand");
      const auto& direction = in.attrs.get<std::string>("direction");
      in.check(std::find(kDirections.begin(), kDirections.end(), direction) != kDirections.end(),
               "the direction is '{}', one of {} is wanted", direction, fmt::join(kDirections, ", "));
      return {{DType::kBool, in.operands[0].shape}};
    },
    .no_vjp = "bool results",
    .samples = compare_samples};

const OpDef select_op = {
    .name = "select",
    .infer = [](const InferInput& in) -> std::vector<TensorType> {
      in.check_operand_count(3);
      check_dtype(in, 0, DType::kBool, "the condition");
      check_shape(in, 0, in.operands[1].shape, "the condition");
      check_type(in, 2, in.operands[1], "the third operand");
      return {in.operands[1]};
    },
    .vjp = [](const VjpInput& in) -> std::vector<Value> {
      const Value dy = in.gradients[0], zero = zeros_like(dy);
      return {Value{}, in.wanted[1] ? select(in.operand(0), dy, zero) : Value{},
              in.wanted[2] ? select(in.operand(0), zero, dy) : Value{}};
    },
    .samples = []() -> std::vector<OpSample> {
      return {{"row", {integers({67}, 0, 2, DType::kBool), normal({67}), normal({67})}, {}},
              {"integers",
               {integers({3, 5}, 0, 2, DType::kBool), integers({3, 5}, -9, 9), integers({3, 5}, -9, 9)},
               {}}};
    }};

// Attribute dtype. Float to integer truncates (saturating; NaN gives 0); to bool: whether nonzero.
const OpDef convert_op = {.name = "convert",
                          .infer = [](const InferInput& in) -> std::vector<TensorType> {
                            in.check_operand_count(1);
                            return {{in.attrs.get<DType>("dtype"), in.operands[0].shape}};
                          },
                          .vjp = [](const VjpInput& in) -> std::vector<Value> {
                            const DType dtype = in.operand(0).dtype();
                            if (!is_float(dtype) || !is_float(in.result().dtype())) return {Value{}};
                            return {convert(in.gradients[0], dtype)};
                          },
                          .samples = convert_samples};

const OpDef stop_gradient_op = {
    .name = "stop_gradient",
    .infer = [](const InferInput& in) -> std::vector<TensorType> {
      in.check_operand_count(1);
      return {in.operands[0]};
    },
    .no_vjp = "stops the gradient on purpose",
    .samples = []() -> std::vector<OpSample> { return {{"row", {normal({7})}, {}}}; }};

Value logical_and(Value a, Value b) { return broadcast_binary(logical_and_op, a, b); }
Value logical_or(Value a, Value b) { return broadcast_binary(logical_or_op, a, b); }
Value logical_not(Value a) { return make(logical_not_op, {a}); }

Value compare(Value a, Value b, Comparison comparison) {
  return broadcast_binary(compare_op, a, b,
                          {{"direction", std::string(kDirections[static_cast<size_t>(comparison)])}});
}

Value select(Value condition, Value a, Value b) {
  VERTEBRA_CHECK(condition.defined() && a.defined() && b.defined(), "an op is built on no value");
  const Shape shape =
      broadcast_shapes("select", condition.shape(), broadcast_shapes("select", a.shape(), b.shape()));
  return make(select_op, {broadcast_to(condition, shape), broadcast_to(a, shape), broadcast_to(b, shape)});
}

Value convert(Value a, DType dtype) {
  return a.dtype() == dtype ? a : make(convert_op, {a}, {{"dtype", dtype}});
}

Value stop_gradient(Value a) { return make(stop_gradient_op, {a}); }

}  // namespace vertebra
