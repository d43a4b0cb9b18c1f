// rope: rotary position embedding, half-split as in Hugging Face Llama (Su et al. 2021). Its gradient is the
// rotation the other way round: the same op with negated frequencies.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Values = std::vector<Value>;

std::vector<TensorType> infer_rope(const InferInput& in) {
  in.check_operand_count(3);
  check_float(in, 0, "x");
  check_rank(in, 0, 3, "x [N, H, D]");
  const Shape& x = in.operands[0].shape;
  in.check(x[2] % 2 == 0 && x.dim(2).symbol == 0, "the head dimension {} must be even", x[2]);
  check_type(in, 1, {DType::kI32, Shape{x.dim(0)}}, "positions [N]");
  check_type(in, 2, {DType::kF32, Shape{x[2] / 2}}, "inverse_frequencies [D/2]");
  return {in.operands[0]};
}

Values decompose_rope(Graph&, const Node&, std::span<const Value> operands) {
  const Value x = convert(operands[0], inner_dtype(operands[0].dtype()));
  const Shape& shape = x.shape();
  const int64_t half = shape[2] / 2;
  const Shape table = {shape.dim(0), half}, part = {shape.dim(0), shape.dim(1), half};
  const Value positions = broadcast_leading(convert(operands[1], DType::kF32), table);
  const Value angles = multiply(positions, broadcast_to(operands[2], table));
  const Value cosines = convert(broadcast_in_dim(cosine(angles), part, {0, 2}), x.dtype());
  const Value sines = convert(broadcast_in_dim(sine(angles), part, {0, 2}), x.dtype());
  const Value x1 = slice_axis(x, 2, 0, half), x2 = slice_axis(x, 2, half, 2 * half);
  const Value y1 = subtract(multiply(x1, cosines), multiply(x2, sines));
  const Value y2 = add(multiply(x2, cosines), multiply(x1, sines));
  return {convert(concatenate(std::vector<Value>{y1, y2}, 2), operands[0].dtype())};
}

}  // namespace

const OpDef rope_op = {
    .name = "rope",
    .infer = infer_rope,
    .vjp = [](const VjpInput& in) -> Values {
      // The positions are integers, and the frequencies are no parameters.
      return {rope(in.gradients[0], in.operand(1), negate(in.operand(2))), Value{}, Value{}};
    },
    .decompose = decompose_rope,
    .samples = []() -> std::vector<OpSample> {
      return {{"heads", {normal({5, 3, 32}), integers({5}, 0, 900), fixed(uniform({16}, 0.01, 1))}, {}},
              {"a small head", {normal({4, 2, 6}), integers({4}, 0, 9), fixed(uniform({3}, 0, 1))}, {}},
              {"one row", {normal({1, 1, 16}), integers({1}, 0, 90), fixed(uniform({8}, 0, 1))}, {}}};
    }};

Value rope(Value x, Value positions, Value inverse_frequencies) {
  return make(rope_op, {x, positions, inverse_frequencies});
}

}  // namespace vertebra
