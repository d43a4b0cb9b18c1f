#include "graph/op.h"

namespace vertebra {

void InferInput::raise(const std::string& what) const {
  std::string types;
  for (const TensorType& type : operands) types += (types.empty() ? "" : ", ") + type.to_string();
  fail(Code::kInvalidArgument, "{}: {} (operands: {})", op, what, types.empty() ? "none" : types);
}

void InferInput::check_operand_count(size_t wanted) const {
  check(operands.size() == wanted, "{} operands given, {} wanted", operands.size(), wanted);
}

OperandSample normal(Shape shape, double deviation) {
  return {{DType::kF32, shape}, OperandSample::Fill::kNormal, -deviation, deviation, {}, true};
}

OperandSample uniform(Shape shape, double low, double high) {
  return {{DType::kF32, shape}, OperandSample::Fill::kUniform, low, high, {}, true};
}

OperandSample integers(Shape shape, int64_t low, int64_t high, DType dtype) {
  return {
      {dtype, shape}, OperandSample::Fill::kIntegers, static_cast<double>(low), static_cast<double>(high), {},
      false};
}

OperandSample values(Shape shape, std::vector<double> values, DType dtype) {
  return {{dtype, shape}, OperandSample::Fill::kValues, 0, 0, std::move(values), is_float(dtype)};
}

OperandSample blocks(Shape shape, DType dtype) {
  return {{dtype, shape}, OperandSample::Fill::kBlocks, 0, 0, {}, false};
}

}  // namespace vertebra
