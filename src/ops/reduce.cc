// Reductions: reduce_sum, reduce_max, argmax (primitives), sum_of_squares (composite); mean and
// global_norm, built from them.
#include <cmath>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Types = std::vector<TensorType>;
using Ints = std::vector<int64_t>;

Types infer_reduce(const InferInput& in) {
  in.check_operand_count(1);
  in.check(in.operands[0].dtype != DType::kBool, "there is no arithmetic on bool");
  const auto& axes = in.attrs.get<Ints>("axes");
  const Shape& from = in.operands[0].shape;
  check_axes(in, axes, from.rank(), "axes");
  Shape to;
  size_t next = 0;
  for (int i = 0; i < from.rank(); ++i) {
    if (next < axes.size() && axes[next] == i) {
      ++next;
    } else {
      to.push_back(from.dim(i));
    }
  }
  return {{in.operands[0].dtype, to}};
}

Types infer_argmax(const InferInput& in) {
  in.check_operand_count(1);
  const int64_t axis = in.attrs.get<int64_t>("axis");
  const Shape& from = in.operands[0].shape;
  in.check(axis >= 0 && axis < from.rank(), "axis {} is not among the {} dimensions", axis, from.rank());
  in.check(from[static_cast<int>(axis)] > 0, "axis {} is empty and has no largest element", axis);
  in.check(in.operands[0].dtype != DType::kBool, "there is no order on bool");
  return {{DType::kI32, from.without(static_cast<int>(axis))}};
}

// Puts the reduced axes back: value of the reduced shape -> the operand's.
Value expand_reduced(Value a, const Shape& shape, const Ints& axes) {
  Ints kept;
  size_t next = 0;
  for (int i = 0; i < shape.rank(); ++i) {
    if (next < axes.size() && axes[next] == i) {
      ++next;
    } else {
      kept.push_back(i);
    }
  }
  return axes.empty() ? a : broadcast_in_dim(a, shape, std::move(kept));
}

std::vector<Value> reduce_max_vjp(const VjpInput& in) {
  // The gradient is shared evenly among equal largest elements.
  const auto& axes = in.node.attrs.get<Ints>("axes");
  const Value x = in.operand(0);
  const Value largest = expand_reduced(in.result(), x.shape(), axes);
  const Value taken = convert(compare(x, largest, Comparison::kEqual), x.dtype());
  const Value share = divide(in.gradients[0], reduce_sum(taken, axes));
  return {multiply(taken, expand_reduced(share, x.shape(), axes))};
}

// Negative axes count from the end.
Ints from_the_front(Value a, Ints axes) {
  for (int64_t& axis : axes) {
    if (axis < 0) axis += a.shape().rank();
  }
  return axes;
}

std::vector<OpSample> reduce_samples() {
  const auto attrs = [](Ints axes) { return Attrs{{"axes", axes}}; };
  return {{"rows", {normal({5, 131})}, attrs({1})},
          {"columns", {normal({37, 19})}, attrs({0})},
          {"middle", {normal({3, 7, 5})}, attrs({1})},
          {"ends", {normal({3, 7, 5})}, attrs({0, 2})},
          {"everything", {normal({3, 41})}, attrs({0, 1})},
          {"a long row", {normal({3000})}, attrs({0})},
          {"nothing", {normal({4})}, attrs({})},
          {"integers", {integers({4, 6}, -20, 20)}, attrs({1})}};
}

}  // namespace

// bf16 and f16 accumulate in f32 and round once; integers wrap.
const OpDef reduce_sum_op = {
    .name = "reduce_sum",
    .infer = infer_reduce,
    .vjp = [](const VjpInput& in) -> std::vector<Value> {
      return {expand_reduced(in.gradients[0], in.operand(0).shape(), in.node.attrs.get<Ints>("axes"))};
    },
    .samples = reduce_samples};

// Over nothing: minus infinity, or the smallest integer.
const OpDef reduce_max_op = {
    .name = "reduce_max", .infer = infer_reduce, .vjp = reduce_max_vjp, .samples = reduce_samples};

const OpDef argmax_op = {.name = "argmax",
                         .infer = infer_argmax,
                         .no_vjp = "integer results",
                         .samples = []() -> std::vector<OpSample> {
                           const auto attrs = [](int64_t axis) { return Attrs{{"axis", axis}}; };
                           return {{"rows", {normal({5, 131})}, attrs(1)},
                                   {"columns", {normal({9, 4})}, attrs(0)},
                                   {"equals", {integers({8, 30}, 0, 4)}, attrs(1)}};
                         }};

// f32 scalar: the sum of the squares of all elements, f32 inside.
const OpDef sum_of_squares_op = {
    .name = "sum_of_squares",
    .infer = [](const InferInput& in) -> Types {
      in.check_operand_count(1);
      check_float(in, 0, "the operand");
      return {{DType::kF32, Shape{}}};
    },
    .vjp = [](const VjpInput& in) -> std::vector<Value> {
      const Value x = in.operand(0), dy = in.gradients[0];
      return {multiply(multiply(x, 2), broadcast_to(convert(dy, x.dtype()), x.shape()))};
    },
    .decompose = [](Graph&, const Node&, std::span<const Value> operands) -> std::vector<Value> {
      const Value x = convert(operands[0], DType::kF32);
      return {reduce_sum(multiply(x, x), axes_up_to(x.shape().rank()))};
    },
    .samples = []() -> std::vector<OpSample> {
      return {
          {"matrix", {normal({7, 33})}, {}}, {"long", {normal({5000})}, {}}, {"scalar", {normal({})}, {}}};
    }};

Value reduce_sum(Value a, Ints axes) {
  return axes.empty() ? a : make(reduce_sum_op, {a}, {{"axes", from_the_front(a, std::move(axes))}});
}

Value reduce_max(Value a, Ints axes) {
  return axes.empty() ? a : make(reduce_max_op, {a}, {{"axes", from_the_front(a, std::move(axes))}});
}

Value mean(Value a, Ints axes) {
  axes = from_the_front(a, std::move(axes));
  double count = 1;
  for (const int64_t axis : axes) {
    require(axis >= 0 && axis < a.shape().rank(), "mean: axis {} is not among the {} dimensions of {}", axis,
            a.shape().rank(), a.type().to_string());
    require(a.shape().dim(static_cast<int>(axis)).symbol == 0,
            "mean: axis {} of {} is bounded; divide the sum by the actual count", axis, a.type().to_string());
    count *= static_cast<double>(a.shape()[static_cast<int>(axis)]);
  }
  require(is_float(a.dtype()), "mean: the operand has element type {}, a floating-point one is wanted",
          dtype_name(a.dtype()));
  const Value sum = reduce_sum(convert(a, inner_dtype(a.dtype())), std::move(axes));
  return convert(multiply(sum, 1 / count), a.dtype());
}

Value argmax(Value a, int axis) {
  return make(argmax_op, {a}, {{"axis", int64_t{axis < 0 ? axis + a.shape().rank() : axis}}});
}

Value global_norm(std::span<const Value> values) {
  require(!values.empty(), "global_norm: no values given, at least one is wanted");
  Value total;
  for (const Value& value : values) {
    const Value squares = make(sum_of_squares_op, {value});
    total = total.defined() ? add(total, squares) : squares;
  }
  return square_root(total);
}

}  // namespace vertebra
