#include "backend/reference/reference.h"

#include <array>
#include <optional>

#include "backend/reference/primitives.h"
#include "graph/op.h"

namespace vertebra {
namespace reference {

Primitive find_primitive(std::string_view name) {
  const Primitive found = find_elementwise(name);
  return found != nullptr ? found : find_structural(name);
}

namespace {

// The size of every bounded dimension's symbol in this evaluation.
using Symbols = std::array<std::optional<int64_t>, 256>;

Ints actual_sizes(const Shape& shape, const Symbols& symbols) {
  Ints out;
  for (const Dim& dim : shape.dims()) {
    if (dim.symbol == 0) {
      out.push_back(dim.size);
    } else {
      require(symbols[dim.symbol].has_value(), "no input tells the size of dimension n{} in {}", dim.symbol,
              shape.to_string());
      out.push_back(*symbols[dim.symbol]);
    }
  }
  return out;
}

std::vector<Array> evaluate(const Graph& graph, std::vector<Array> inputs, const Symbols& symbols,
                            const ReferenceOptions& options);

std::vector<Array> evaluate_node(const Node& node, std::span<const Array* const> operands,
                                 const Symbols& symbols, const ReferenceOptions& options) {
  if (!node.op->is_primitive()) {
    Graph graph;
    std::vector<Value> parameters;
    std::vector<Array> inputs;
    for (size_t i = 0; i < operands.size(); ++i) {
      parameters.push_back(graph.parameter(fmt::format("{}", i), node.operands[i].type()));
      inputs.push_back(*operands[i]);
    }
    const std::vector<Value> results = node.op->decompose(graph, node, parameters);
    for (size_t i = 0; i < results.size(); ++i) graph.add_output(fmt::format("{}", i), results[i]);
    return evaluate(graph, std::move(inputs), symbols, options);
  }
  const Primitive primitive = find_primitive(node.op->name);
  require(primitive != nullptr, Code::kUnimplemented, "the reference evaluation lacks the primitive '{}'",
          node.op->name);
  Array result(node.results[0].dtype, actual_sizes(node.results[0].shape, symbols));
  primitive({node, operands, options, result});
  if (options.round_results) {
    for (double& value : result.floats) value = round_to(result.dtype, value);
  }
  return {std::move(result)};
}

std::vector<Array> evaluate(const Graph& graph, std::vector<Array> inputs, const Symbols& symbols,
                            const ReferenceOptions& options) {
  std::vector<std::vector<Array>> values(graph.nodes().size());
  for (const auto& node : graph.nodes()) {
    auto& results = values[static_cast<size_t>(node->id)];
    if (is_parameter(*node)) {
      const int index = graph.input_index(node->attrs.get<std::string>("name"));
      results.push_back(std::move(inputs[static_cast<size_t>(index)]));
    } else if (is_constant(*node)) {
      results.push_back(array_from(constant_value(*node), node->results[0].dtype));
    } else {
      std::vector<const Array*> operands;
      for (const Value& v : node->operands)
        operands.push_back(&values[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)]);
      results = evaluate_node(*node, operands, symbols, options);
    }
  }
  std::vector<Array> out;
  for (const auto& output : graph.outputs())
    out.push_back(
        values[static_cast<size_t>(output.value.node->id)][static_cast<size_t>(output.value.index)]);
  return out;
}

// Checks one input against its declaration and notes the sizes of its bounded dimensions.
Array take_input(const Graph::Input& input, const Tensor& tensor, Symbols& symbols) {
  const TensorType& wanted = input.value.type();
  const auto fits = [&] {
    const bool both_float = is_float(wanted.dtype) && is_float(tensor.dtype());
    if (!both_float && wanted.dtype != tensor.dtype()) return false;
    if (tensor.shape().rank() != wanted.shape.rank()) return false;
    for (int i = 0; i < wanted.shape.rank(); ++i) {
      const Dim dim = wanted.shape.dim(i);
      const int64_t size = tensor.shape()[i];
      if (dim.symbol == 0 ? size != dim.size : size > dim.size) return false;
      if (dim.symbol == 0) continue;
      if (symbols[dim.symbol].value_or(size) != size) return false;
      symbols[dim.symbol] = size;
    }
    return true;
  };
  require(fits(), "input '{}' is {}, {} is wanted", input.name, tensor.type().to_string(),
          wanted.to_string());
  return array_from(tensor, wanted.dtype);
}

}  // namespace
}  // namespace reference

std::vector<Tensor> evaluate_reference(const Graph& graph, std::span<const Tensor> inputs,
                                       const ReferenceOptions& options) {
  require(inputs.size() == graph.inputs().size(), "{} inputs given, the graph wants {}", inputs.size(),
          graph.inputs().size());
  reference::Symbols symbols;
  std::vector<reference::Array> arrays;
  for (size_t i = 0; i < inputs.size(); ++i)
    arrays.push_back(reference::take_input(graph.inputs()[i], inputs[i], symbols));
  std::vector<Tensor> out;
  for (const reference::Array& array : reference::evaluate(graph, std::move(arrays), symbols, options)) {
    const DType dtype = array.floating() && !options.round_results ? DType::kF64 : array.dtype;
    out.push_back(reference::tensor_from(array, dtype));
  }
  return out;
}

}  // namespace vertebra
