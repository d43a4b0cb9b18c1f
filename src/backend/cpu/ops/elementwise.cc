// Kernels of the elementwise primitives, each a program of one instruction, and of fused_elementwise.
#include "backend/cpu/ops/elementwise_program.h"
#include "graph/op.h"
#include "ops/fused_elementwise.h"

namespace vertebra::cpu {

std::unique_ptr<Kernel> make_elementwise(const Node& node) {
  ElementwiseSource source;
  source.domain = node.results[0].shape;
  ElementwiseSource::Instruction instruction = {
      node.op->name, {}, node.results[0].dtype, node.attrs.get_or<std::string>("direction", "")};
  for (size_t i = 0; i < node.operands.size(); ++i) {
    std::vector<int64_t> dims;
    for (int axis = 0; axis < source.domain.rank(); ++axis) dims.push_back(axis);
    source.operands.push_back({node.operands[i].dtype(), std::move(dims)});
    instruction.operands.push_back(static_cast<int>(i));
  }
  source.instructions = {std::move(instruction)};
  source.results = {static_cast<int>(node.operands.size())};
  return make_elementwise_kernel(source);
}

std::unique_ptr<Kernel> make_fused_elementwise(const Node& node) {
  ElementwiseSource source;
  source.domain = node.attrs.get<Shape>("shape");
  const auto& dims = node.attrs.get<std::vector<int64_t>>("dims");
  std::vector<DType> dtypes;
  auto next = dims.begin();
  for (const Value& operand : node.operands) {
    const auto end = next + operand.shape().rank();
    source.operands.push_back({operand.dtype(), {next, end}});
    dtypes.push_back(operand.dtype());
    next = end;
  }
  const std::vector<ElementwiseInstruction> program = parse_program(node.attrs.get<std::string>("program"));
  dtypes = program_dtypes(program, std::move(dtypes));
  for (size_t i = 0; i < program.size(); ++i) {
    source.instructions.push_back(
        {program[i].op, program[i].operands, dtypes[node.operands.size() + i], program[i].detail});
  }
  for (const int64_t result : node.attrs.get<std::vector<int64_t>>("results"))
    source.results.push_back(static_cast<int>(result));
  return make_elementwise_kernel(source);
}

}  // namespace vertebra::cpu
