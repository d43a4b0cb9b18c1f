// Fills the operands of an op's samples and builds the graph of one sample. For the tests that go over
// the registry, of the ops and of the backends.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/rng.h"
#include "graph/graph.h"
#include "graph/op.h"
#include "tests/tensor/random_blocks.h"

namespace vertebra {

inline bool has_blocks(const OpSample& sample) {
  return std::any_of(sample.operands.begin(), sample.operands.end(),
                     [](const OperandSample& operand) { return is_block_quantized(operand.type.dtype); });
}

// The operand's type in a run whose main element type is `dtype`.
inline TensorType sample_type(const OperandSample& operand, DType dtype) {
  TensorType type = operand.type;
  if (type.dtype == DType::kF32 && operand.differentiable) type.dtype = dtype;
  return type;
}

// The operand's values in a tensor of that element type; the same on every machine and in every run.
inline Tensor sample_tensor(const OpDef& op, const OpSample& sample, size_t operand_index, DType dtype) {
  const OperandSample& operand = sample.operands[operand_index];
  const Philox random(7, std::string(op.name) + "/" + sample.name + "/" + std::to_string(operand_index));
  if (operand.fill == OperandSample::Fill::kBlocks) return random_blocks(operand.type, random);
  Tensor out(dtype, operand.type.shape);
  for (int64_t i = 0; i < out.elements(); ++i) {
    const auto at = static_cast<uint64_t>(i);
    double value = 0;
    switch (operand.fill) {
      case OperandSample::Fill::kNormal:
        value = (operand.low + operand.high) / 2 + (operand.high - operand.low) / 2 * random.normal(at);
        break;
      case OperandSample::Fill::kUniform:
        value = operand.low + (operand.high - operand.low) * random.uniform(at);
        break;
      case OperandSample::Fill::kIntegers:
        value = std::floor(operand.low + (operand.high - operand.low) * random.uniform(at));
        break;
      case OperandSample::Fill::kValues:
        value = operand.values.at(static_cast<size_t>(i));
        break;
      case OperandSample::Fill::kBlocks:
        break;
    }
    out.set(i, value);
  }
  return out;
}

struct SampleGraph {
  Graph graph;
  std::vector<Value> operands;
  std::vector<Value> results;
};

// Inputs "operand0", ...; outputs "result0", ... of the op applied to them.
inline SampleGraph sample_graph(const OpDef& op, const OpSample& sample, DType dtype) {
  SampleGraph out;
  for (size_t i = 0; i < sample.operands.size(); ++i)
    out.operands.push_back(
        out.graph.parameter("operand" + std::to_string(i), sample_type(sample.operands[i], dtype)));
  out.results = out.graph.add_node(op, out.operands, sample.attrs);
  for (size_t i = 0; i < out.results.size(); ++i)
    out.graph.add_output("result" + std::to_string(i), out.results[i]);
  return out;
}

inline std::vector<DType> sample_dtypes(const OpSample& sample) {
  const bool has_float =
      std::any_of(sample.operands.begin(), sample.operands.end(), [](const OperandSample& operand) {
        return operand.type.dtype == DType::kF32 && operand.differentiable;
      });
  return sample.bf16 && has_float ? std::vector<DType>{DType::kF32, DType::kBF16}
                                  : std::vector<DType>{DType::kF32};
}

}  // namespace vertebra
