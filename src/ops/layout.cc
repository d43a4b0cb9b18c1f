// Constants and the primitives that move elements without computing: iota, reshape, transpose,
// broadcast_in_dim, slice, concatenate, pad.
#include <algorithm>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Types = std::vector<TensorType>;
using Ints = std::vector<int64_t>;

Types infer_iota(const InferInput& in) {
  in.check_operand_count(0);
  const auto& shape = in.attrs.get<Shape>("shape");
  const int64_t axis = in.attrs.get<int64_t>("axis");
  const DType dtype = in.attrs.get<DType>("dtype");
  in.check(axis >= 0 && axis < shape.rank(), "axis {} is not among the {} dimensions", axis, shape.rank());
  in.check(dtype != DType::kBool, "element type bool cannot count");
  return {{dtype, shape}};
}

// The static sizes multiplied up between one bounded dimension and the next, and the bounded dimensions.
struct Outline {
  Ints products = {1};
  std::vector<Dim> bounded;
  explicit Outline(const Shape& shape) {
    for (const Dim& dim : shape.dims()) {
      if (dim.symbol == 0) {
        products.back() *= dim.size;
      } else {
        bounded.push_back(dim);
        products.push_back(1);
      }
    }
  }
  bool operator==(const Outline&) const = default;
};

Types infer_reshape(const InferInput& in) {
  in.check_operand_count(1);
  const auto& from = in.operands[0].shape;
  const auto& to = in.attrs.get<Shape>("shape");
  in.check(from.elements() == to.elements(), "{} elements cannot take shape {}", from.elements(),
           to.to_string());
  in.check(Outline(from) == Outline(to),
           "shape {} would join or split a bounded dimension; it must stay one of its own, with as many "
           "elements before and after it",
           to.to_string());
  return {{in.operands[0].dtype, to}};
}

Types infer_transpose(const InferInput& in) {
  in.check_operand_count(1);
  const auto& permutation = in.attrs.get<Ints>("permutation");
  const Shape& from = in.operands[0].shape;
  Ints sorted = permutation;
  std::sort(sorted.begin(), sorted.end());
  in.check(sorted == axes_up_to(from.rank()), "[{}] is no permutation of the {} dimensions",
           fmt::join(permutation, ", "), from.rank());
  Shape to;
  for (const int64_t axis : permutation) to.push_back(from.dim(static_cast<int>(axis)));
  return {{in.operands[0].dtype, to}};
}

Types infer_broadcast(const InferInput& in) {
  in.check_operand_count(1);
  const Shape& from = in.operands[0].shape;
  const auto& to = in.attrs.get<Shape>("shape");
  const auto& dims = in.attrs.get<Ints>("dims");
  in.check(static_cast<int>(dims.size()) == from.rank(), "dims [{}] name {} axes for {} dimensions",
           fmt::join(dims, ", "), dims.size(), from.rank());
  check_axes(in, dims, to.rank(), "dims");
  for (int i = 0; i < from.rank(); ++i) {
    const Dim wanted = to.dim(static_cast<int>(dims[static_cast<size_t>(i)]));
    in.check(from.dim(i) == wanted || from.dim(i) == Dim(1), "axis {} does not stretch to shape {}", i,
             to.to_string());
  }
  return {{in.operands[0].dtype, to}};
}

Types infer_slice(const InferInput& in) {
  in.check_operand_count(1);
  const Shape& from = in.operands[0].shape;
  const auto& starts = in.attrs.get<Ints>("starts");
  const auto& limits = in.attrs.get<Ints>("limits");
  in.check(static_cast<int>(starts.size()) == from.rank() && starts.size() == limits.size(),
           "{} starts and {} limits for {} dimensions", starts.size(), limits.size(), from.rank());
  Shape to;
  for (int i = 0; i < from.rank(); ++i) {
    const int64_t start = starts[static_cast<size_t>(i)], limit = limits[static_cast<size_t>(i)];
    in.check(0 <= start && start <= limit && limit <= from[i], "[{}, {}) is no part of axis {} of size {}",
             start, limit, i, from[i]);
    const bool whole = start == 0 && limit == from[i];
    in.check(whole || from.dim(i).symbol == 0, "axis {} is bounded and can only be taken whole", i);
    to.push_back(whole ? from.dim(i) : Dim(limit - start));
  }
  return {{in.operands[0].dtype, to}};
}

Types infer_concatenate(const InferInput& in) {
  in.check(!in.operands.empty(), "no parts given, at least one is wanted");
  const int64_t axis = in.attrs.get<int64_t>("axis");
  Shape to = in.operands[0].shape;
  in.check(axis >= 0 && axis < to.rank(), "axis {} is not among the {} dimensions", axis, to.rank());
  const int at = static_cast<int>(axis);
  int64_t total = 0;
  for (size_t i = 0; i < in.operands.size(); ++i) {
    const Shape& part = in.operands[i].shape;
    check_dtype(in, i, in.operands[0].dtype, fmt::format("part {}", i));
    in.check(part.rank() == to.rank() && part.without(at) == to.without(at),
             "part {} differs from part 0 elsewhere than along axis {}", i, axis);
    in.check(in.operands.size() == 1 || part.dim(at).symbol == 0, "axis {} of part {} is bounded", axis, i);
    total += part[at];
  }
  if (in.operands.size() > 1) to.set_dim(at, total);
  return {{in.operands[0].dtype, Shape(to.dims())}};  // checks the number of elements
}

Types infer_pad(const InferInput& in) {
  in.check_operand_count(1);
  const Shape& from = in.operands[0].shape;
  const auto& low = in.attrs.get<Ints>("low");
  const auto& high = in.attrs.get<Ints>("high");
  in.check(static_cast<int>(low.size()) == from.rank() && low.size() == high.size(),
           "{} and {} paddings for {} dimensions", low.size(), high.size(), from.rank());
  constexpr int64_t kMost = int64_t{1} << 40;
  Shape to;
  for (int i = 0; i < from.rank(); ++i) {
    const int64_t before = low[static_cast<size_t>(i)], after = high[static_cast<size_t>(i)];
    in.check(before >= 0 && after >= 0 && before < kMost && after < kMost,
             "padding of axis {} by {} and {}; neither may be negative", i, before, after);
    const bool none = before == 0 && after == 0;
    in.check(none || from.dim(i).symbol == 0, "axis {} is bounded and cannot be padded", i);
    to.push_back(none ? from.dim(i) : Dim(from[i] + before + after));
  }
  return {{in.operands[0].dtype, to}};
}

std::vector<Value> broadcast_vjp(const VjpInput& in) {
  // Sums over the new axes and the stretched ones.
  const Value a = in.operand(0);
  const auto& dims = in.node.attrs.get<Ints>("dims");
  Ints summed;
  for (int axis = 0; axis < in.result().shape().rank(); ++axis) {
    const auto it = std::find(dims.begin(), dims.end(), axis);
    const bool kept = it != dims.end() &&
                      a.shape().dim(static_cast<int>(it - dims.begin())) == in.result().shape().dim(axis);
    if (!kept) summed.push_back(axis);
  }
  return {reshape(reduce_sum(in.gradients[0], summed), a.shape())};
}

std::vector<Value> concatenate_vjp(const VjpInput& in) {
  const int axis = static_cast<int>(in.node.attrs.get<int64_t>("axis"));
  std::vector<Value> out;
  int64_t start = 0;
  for (const Value& part : in.node.operands) {
    const int64_t limit = start + part.shape()[axis];
    out.push_back(in.wanted[out.size()] ? slice_axis(in.gradients[0], axis, start, limit) : Value{});
    start = limit;
  }
  return out;
}

}  // namespace

const OpDef iota_op = {
    .name = "iota", .infer = infer_iota, .no_vjp = "no operands", .samples = []() -> std::vector<OpSample> {
      const auto attrs = [](Shape shape, int64_t axis, DType dtype) {
        return Attrs{{"shape", shape}, {"axis", axis}, {"dtype", dtype}};
      };
      return {{"columns", {}, attrs({3, 5}, 1, DType::kI32)}, {"rows", {}, attrs({3, 5, 2}, 0, DType::kF32)}};
    }};

const OpDef reshape_op = {.name = "reshape",
                          .infer = infer_reshape,
                          .vjp = [](const VjpInput& in) -> std::vector<Value> {
                            return {reshape(in.gradients[0], in.operand(0).shape())};
                          },
                          .samples = []() -> std::vector<OpSample> {
                            return {{"split", {normal({3, 10})}, {{"shape", Shape{3, 5, 2}}}},
                                    {"scalar", {normal({1, 1})}, {{"shape", Shape{}}}}};
                          }};

const OpDef transpose_op = {.name = "transpose",
                            .infer = infer_transpose,
                            .vjp = [](const VjpInput& in) -> std::vector<Value> {
                              const auto& permutation = in.node.attrs.get<Ints>("permutation");
                              Ints inverse(permutation.size());
                              for (size_t i = 0; i < permutation.size(); ++i)
                                inverse[static_cast<size_t>(permutation[i])] = static_cast<int64_t>(i);
                              return {transpose(in.gradients[0], inverse)};
                            },
                            .samples = []() -> std::vector<OpSample> {
                              return {{"matrix", {normal({33, 18})}, {{"permutation", Ints{1, 0}}}},
                                      {"heads", {normal({2, 5, 3, 7})}, {{"permutation", Ints{0, 2, 1, 3}}}},
                                      {"rotation", {normal({2, 5, 3})}, {{"permutation", Ints{2, 0, 1}}}},
                                      {"integers", {integers({4, 3}, 0, 99)}, {{"permutation", Ints{1, 0}}}}};
                            }};

const OpDef broadcast_in_dim_op = {.name = "broadcast_in_dim",
                                   .infer = infer_broadcast,
                                   .vjp = broadcast_vjp,
                                   .samples = []() -> std::vector<OpSample> {
                                     const auto attrs = [](Shape shape, Ints dims) {
                                       return Attrs{{"shape", shape}, {"dims", dims}};
                                     };
                                     return {{"scalar", {normal({})}, attrs({3, 5}, {})},
                                             {"row", {normal({17})}, attrs({3, 17}, {1})},
                                             {"column", {normal({3})}, attrs({3, 17}, {0})},
                                             {"stretch", {normal({3, 1, 4})}, attrs({3, 5, 4}, {0, 1, 2})},
                                             {"middle", {normal({2, 4})}, attrs({2, 3, 4}, {0, 2})}};
                                   }};

const OpDef slice_op = {.name = "slice",
                        .infer = infer_slice,
                        .vjp = [](const VjpInput& in) -> std::vector<Value> {
                          const Shape& shape = in.operand(0).shape();
                          Ints low = in.node.attrs.get<Ints>("starts"), high;
                          const auto& limits = in.node.attrs.get<Ints>("limits");
                          for (int i = 0; i < shape.rank(); ++i)
                            high.push_back(shape[i] - limits[static_cast<size_t>(i)]);
                          return {pad(in.gradients[0], low, high, 0)};
                        },
                        .samples = []() -> std::vector<OpSample> {
                          const auto attrs = [](Ints starts, Ints limits) {
                            return Attrs{{"starts", starts}, {"limits", limits}};
                          };
                          return {{"block", {normal({7, 9})}, attrs({2, 3}, {6, 8})},
                                  {"columns", {normal({4, 3, 10})}, attrs({0, 0, 5}, {4, 3, 10})},
                                  {"nothing", {normal({4})}, attrs({2}, {2})}};
                        }};

const OpDef concatenate_op = {.name = "concatenate",
                              .infer = infer_concatenate,
                              .vjp = concatenate_vjp,
                              .samples = []() -> std::vector<OpSample> {
                                const auto attrs = [](int64_t axis) { return Attrs{{"axis", axis}}; };
                                return {
                                    {"columns", {normal({3, 5}), normal({3, 2}), normal({3, 1})}, attrs(1)},
                                    {"rows", {normal({2, 5}), normal({3, 5})}, attrs(0)},
                                    {"alone", {normal({2, 5})}, attrs(0)},
                                    {"integers", {integers({3}, 0, 9), integers({4}, 0, 9)}, attrs(0)}};
                              }};

const OpDef pad_op = {.name = "pad",
                      .infer = infer_pad,
                      .vjp = [](const VjpInput& in) -> std::vector<Value> {
                        const Shape& shape = in.operand(0).shape();
                        const Ints starts = in.node.attrs.get<Ints>("low");
                        Ints limits = starts;
                        for (int i = 0; i < shape.rank(); ++i) limits[static_cast<size_t>(i)] += shape[i];
                        return {slice(in.gradients[0], starts, limits)};
                      },
                      .samples = []() -> std::vector<OpSample> {
                        const auto attrs = [](Ints low, Ints high, double value) {
                          return Attrs{{"low", low}, {"high", high}, {"value", value}};
                        };
                        return {{"around", {normal({3, 5})}, attrs({1, 0}, {2, 3}, 0.5)},
                                {"row", {normal({4})}, attrs({0}, {3}, 0)}};
                      }};

Value constant(Graph& graph, double value, DType dtype) {
  Tensor tensor = Tensor(TensorType{dtype, Shape{}});
  tensor.set(0, value);
  return graph.constant(std::move(tensor));
}

Value full(Graph& graph, Shape shape, double value, DType dtype) {
  return broadcast_to(constant(graph, value, dtype), shape);
}

Value iota(Graph& graph, Shape shape, int axis, DType dtype) {
  return graph.add_node(iota_op, {}, {{"shape", shape}, {"axis", int64_t{axis}}, {"dtype", dtype}})[0];
}

Value reshape(Value a, Shape shape) {
  return a.shape() == shape ? a : make(reshape_op, {a}, {{"shape", shape}});
}

Value transpose(Value a, Ints permutation) {
  if (permutation == axes_up_to(a.shape().rank())) return a;
  return make(transpose_op, {a}, {{"permutation", std::move(permutation)}});
}

Value broadcast_in_dim(Value a, Shape shape, Ints dims) {
  return make(broadcast_in_dim_op, {a}, {{"shape", shape}, {"dims", std::move(dims)}});
}

Value slice(Value a, Ints starts, Ints limits) {
  return make(slice_op, {a}, {{"starts", std::move(starts)}, {"limits", std::move(limits)}});
}

Value slice_axis(Value a, int axis, int64_t start, int64_t limit) {
  const int rank = a.shape().rank();
  require(axis >= -rank && axis < rank, "slice: axis {} is not among the {} dimensions of {}", axis, rank,
          a.type().to_string());
  Ints starts(static_cast<size_t>(rank), 0), limits = a.shape().sizes();
  const auto at = static_cast<size_t>(axis < 0 ? axis + rank : axis);
  starts[at] = start;
  limits[at] = limit;
  return slice(a, std::move(starts), std::move(limits));
}

Value concatenate(std::span<const Value> parts, int axis) {
  require(!parts.empty(), "concatenate: no parts given, at least one is wanted");
  const int64_t at = axis < 0 ? axis + parts[0].shape().rank() : axis;
  return make(concatenate_op, {parts.begin(), parts.end()}, {{"axis", at}});
}

Value pad(Value a, Ints low, Ints high, double value) {
  return make(pad_op, {a}, {{"low", std::move(low)}, {"high", std::move(high)}, {"value", value}});
}

}  // namespace vertebra
