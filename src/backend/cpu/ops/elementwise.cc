// Kernels of the elementwise primitives: each node is a program of one instruction.
#include "backend/cpu/ops/elementwise_program.h"
#include "graph/op.h"

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

}  // namespace vertebra::cpu
