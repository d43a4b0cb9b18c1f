#include "ops/shape_rules.h"

#include <algorithm>
#include <numeric>

#include "ops/ops.h"
#include "ops/registry.h"

namespace vertebra {

void check_float(const InferInput& in, size_t i, std::string_view what) {
  in.check(is_float(in.operands[i].dtype), "{} has element type {}, a floating-point one is wanted", what,
           dtype_name(in.operands[i].dtype));
}

void check_dtype(const InferInput& in, size_t i, DType wanted, std::string_view what) {
  in.check(in.operands[i].dtype == wanted, "{} has element type {}, {} is wanted", what,
           dtype_name(in.operands[i].dtype), dtype_name(wanted));
}

void check_rank(const InferInput& in, size_t i, int wanted, std::string_view what) {
  in.check(in.operands[i].shape.rank() == wanted, "{} has {} dimensions, {} are wanted", what,
           in.operands[i].shape.rank(), wanted);
}

void check_shape(const InferInput& in, size_t i, const Shape& wanted, std::string_view what) {
  in.check(in.operands[i].shape == wanted, "{} has shape {}, {} is wanted", what,
           in.operands[i].shape.to_string(), wanted.to_string());
}

void check_type(const InferInput& in, size_t i, const TensorType& wanted, std::string_view what) {
  in.check(in.operands[i] == wanted, "{} has type {}, {} is wanted", what, in.operands[i].to_string(),
           wanted.to_string());
}

void check_blocks(const InferInput& in, size_t i, std::string_view what) {
  const TensorType& type = in.operands[i];
  in.check(is_block_quantized(type.dtype), "{} has element type {}, a block-quantized one is wanted", what,
           dtype_name(type.dtype));
  const int64_t elements = block_size(type.dtype).elements;
  in.check(type.shape.rank() >= 1 && type.shape.dim(-1).symbol == 0 && type.shape[-1] % elements == 0,
           "{} has rows of shape {}, of {} whole blocks of {} elements are wanted", what,
           type.shape.to_string(), dtype_name(type.dtype), elements);
}

void check_axes(const InferInput& in, const std::vector<int64_t>& axes, int rank, std::string_view what) {
  for (size_t i = 0; i < axes.size(); ++i) {
    in.check(axes[i] >= 0 && axes[i] < rank, "{} holds {}, but there are {} dimensions", what, axes[i], rank);
    in.check(i == 0 || axes[i] > axes[i - 1], "{} [{}] must be increasing", what, fmt::join(axes, ", "));
  }
}

void check_compute(const InferInput& in) {
  const DType compute = in.attrs.get<DType>("compute");
  in.check(compute == DType::kF32 || compute == DType::kBF16, "compute is {}, f32 or bf16 is wanted",
           dtype_name(compute));
}

DType inner_dtype(DType dtype) { return dtype == DType::kF64 ? DType::kF64 : DType::kF32; }

Shape broadcast_shapes(std::string_view op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape out;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const Dim da = ia < 0 ? Dim(1) : a.dim(ia), db = ib < 0 ? Dim(1) : b.dim(ib);
    require(da == db || da == Dim(1) || db == Dim(1), "{}: the shapes {} and {} do not broadcast", op,
            a.to_string(), b.to_string());
    out.push_back(da == Dim(1) ? db : da);
  }
  return out;
}

Value broadcast_to(Value a, const Shape& shape) {
  if (a.shape() == shape) return a;
  std::vector<int64_t> dims;
  for (int i = 0; i < a.shape().rank(); ++i) dims.push_back(i + shape.rank() - a.shape().rank());
  return broadcast_in_dim(a, shape, std::move(dims));
}

Value broadcast_leading(Value a, const Shape& shape) {
  if (a.shape() == shape) return a;
  return broadcast_in_dim(a, shape, axes_up_to(a.shape().rank()));
}

Value insert_axis(Value a, int axis) {
  Shape shape;
  for (int i = 0; i <= a.shape().rank(); ++i) {
    if (i == axis) shape.push_back(1);
    if (i < a.shape().rank()) shape.push_back(a.shape().dim(i));
  }
  return reshape(a, shape);
}

Value zeros_like(Value a) { return full(a.graph(), a.shape(), 0, a.dtype()); }

Value gradient_or_zeros(const VjpInput& in, int i) {
  const Value gradient = in.gradients[static_cast<size_t>(i)];
  return gradient.defined() ? gradient : zeros_like(in.result(i));
}

Value make(const OpDef& op, std::vector<Value> operands, Attrs attrs) {
  VERTEBRA_CHECK(!operands.empty() && operands[0].defined(), "an op is built on no value");
  Graph& graph = operands[0].graph();
  return graph.add_node(op, std::move(operands), std::move(attrs))[0];
}

std::vector<int64_t> axes_up_to(int count) {
  std::vector<int64_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), int64_t{0});
  return out;
}

Value compare_with(Value a, double constant_value, std::string_view direction) {
  const Value other = full(a.graph(), a.shape(), constant_value, a.dtype());
  return make(compare_op, {a, other}, {{"direction", std::string(direction)}});
}

OperandSample fixed(OperandSample sample) {
  sample.differentiable = false;
  return sample;
}

}  // namespace vertebra
