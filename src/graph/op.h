// What an op is: its name, shape rule, gradient, decomposition and test samples. One file in src/ops
// defines one op or family; backends look ops up by name and never add to this.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace vertebra {

struct InferInput {
  std::string_view op;
  std::span<const TensorType> operands;
  const Attrs& attrs;

  // For shape rules: throws invalid_argument "OP: what (operands: f32[2, 3], ...)" when false.
  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) [[unlikely]]
      raise(fmt::format(format, std::forward<Args>(args)...));
  }
  void check_operand_count(size_t wanted) const;
  [[noreturn]] void raise(const std::string& what) const;
};

struct VjpInput {
  Graph& graph;
  const Node& node;                  // the forward node, in `graph`
  std::span<const Value> gradients;  // of each result; none where nothing depends on it
  std::vector<bool> wanted;          // which operands need a gradient

  Value operand(size_t i) const { return node.operands[i]; }
  Value result(int i = 0) const { return {const_cast<Node*>(&node), i}; }
};

// Operand types + attributes -> result types; throws invalid_argument through InferInput::check.
using InferFn = std::vector<TensorType> (*)(const InferInput&);
// The gradient of every operand as new nodes of the graph (none where there is none).
using VjpFn = std::vector<Value> (*)(const VjpInput&);
// The same function in simpler ops, built into `graph` on `operands`.
using DecomposeFn = std::vector<Value> (*)(Graph& graph, const Node& node, std::span<const Value> operands);

// How the generic tests fill one operand.
struct OperandSample {
  TensorType type;
  enum class Fill { kNormal, kUniform, kIntegers, kValues, kBlocks } fill = Fill::kNormal;
  double low = -1, high = 1;   // kNormal: mean (low+high)/2, deviation (high-low)/2; kIntegers: [low, high)
  std::vector<double> values;  // kValues
  bool differentiable = true;  // checked against finite differences (floating-point operands only); one that
                               // is not keeps its type in the bf16 run
};

OperandSample normal(Shape shape, double deviation = 1);
OperandSample uniform(Shape shape, double low, double high);
OperandSample integers(Shape shape, int64_t low, int64_t high, DType dtype = DType::kI32);  // [low, high)
OperandSample values(Shape shape, std::vector<double> values, DType dtype = DType::kF32);
OperandSample blocks(Shape shape, DType dtype);  // block-quantized: random codes and scales

struct OpSample {
  std::string name;
  std::vector<OperandSample> operands;
  Attrs attrs;
  double tolerance = 1e-5;  // of an f32 kernel against the reference, relative to the largest value
  bool bf16 = true;         // also run with every differentiable f32 operand in bf16
  std::vector<int> gradient_results =
      {};  // results that enter the test's loss; empty: all floating-point ones
};
using SamplesFn = std::vector<OpSample> (*)();

struct OpDef {
  std::string_view name;
  InferFn infer = nullptr;
  VjpFn vjp = nullptr;              // null only with a reason:
  std::string_view no_vjp = "";     // why there is no gradient ("integer results", "only in generation")
  DecomposeFn decompose = nullptr;  // null: a primitive, which every backend implements
  SamplesFn samples = nullptr;
  bool cheap = false;  // takes less to compute again, from operands at hand, than to keep for a gradient
  bool takes_blocks = false;  // may have block-quantized operands; its shape rule says which
  bool is_primitive() const { return decompose == nullptr; }
};

}  // namespace vertebra
