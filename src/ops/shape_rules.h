// What the shape rules, gradients, decompositions and samples of several ops share: checks of operands that
// raise errors naming what was found and wanted, broadcasting, and zeros for absent gradients.
#pragma once

#include <string_view>
#include <vector>

#include "graph/op.h"

namespace vertebra {

// Checks of operand i; `what` names it in the error ("weight").
void check_float(const InferInput& in, size_t i, std::string_view what);
void check_dtype(const InferInput& in, size_t i, DType wanted, std::string_view what);
void check_rank(const InferInput& in, size_t i, int wanted, std::string_view what);
void check_shape(const InferInput& in, size_t i, const Shape& wanted, std::string_view what);
void check_type(const InferInput& in, size_t i, const TensorType& wanted, std::string_view what);
// A block-quantized operand: at least one dimension, the last one static and whole blocks.
void check_blocks(const InferInput& in, size_t i, std::string_view what);
// Attribute `axes`: within the rank, strictly increasing.
void check_axes(const InferInput& in, const std::vector<int64_t>& axes, int rank, std::string_view what);
// A product's attribute `compute`.
void check_compute(const InferInput& in);

// The element type that norms, softmax and losses of that type compute in: f64 for f64, otherwise f32.
DType inner_dtype(DType dtype);

// NumPy's broadcasting of two shapes; `op` names the op in errors.
Shape broadcast_shapes(std::string_view op, const Shape& a, const Shape& b);
// a broadcast to the shape, its axes aligned at the end; a itself when the shape is its own.
Value broadcast_to(Value a, const Shape& shape);
// a [d0, ...] broadcast along new axes at the end up to `shape`, whose first axes are a's.
Value broadcast_leading(Value a, const Shape& shape);
// a with a static dimension of size 1 put in at `axis`.
Value insert_axis(Value a, int axis);

Value zeros_like(Value a);
// The gradient of result i, zeros where nothing depends on it.
Value gradient_or_zeros(const VjpInput& in, int i);
// The first result of a new node.
Value make(const OpDef& op, std::vector<Value> operands, Attrs attrs = {});

// 0, 1, ..., count - 1.
std::vector<int64_t> axes_up_to(int count);
// Scalar i32/u32/bool-safe comparison with a constant of a's type.
Value compare_with(Value a, double constant_value, std::string_view direction);

// A sample operand that no gradient is asked for and that keeps its element type in the bf16 run of the
// tests.
OperandSample fixed(OperandSample sample);

}  // namespace vertebra
