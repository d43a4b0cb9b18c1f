#include "transforms/autodiff.h"

#include "graph/op.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

size_t id_of(Value v) { return static_cast<size_t>(v.node->id); }

// reaches[node]: the node depends on one of `wrt`, through floating-point values only.
std::vector<bool> nodes_reached_from(const Graph& graph, std::span<const Value> wrt) {
  std::vector<bool> reaches(graph.nodes().size(), false);
  for (const Value& v : wrt) reaches[id_of(v)] = true;
  for (const auto& node : graph.nodes()) {
    for (const Value& operand : node->operands) {
      if (is_float(operand.dtype()) && reaches[id_of(operand)]) reaches[static_cast<size_t>(node->id)] = true;
    }
  }
  return reaches;
}

}  // namespace

std::vector<Value> gradients(Value loss, std::span<const Value> wrt) {
  Graph& graph = loss.graph();
  require(loss.shape().rank() == 0 && is_float(loss.dtype()),
          "gradients: the loss must be a floating-point scalar, found {}", loss.type().to_string());
  for (const Value& v : wrt) {
    require(!is_block_quantized(v.dtype()), Code::kUnimplemented,
            "gradients: a value of type {} has no gradient: block-quantized weights are constants",
            v.type().to_string());
  }
  const std::string scope_before = graph.scope();
  const size_t forward_nodes = graph.nodes().size();
  const std::vector<bool> reaches = nodes_reached_from(graph, wrt);

  // Gradient of every result of every forward node, summed in the order in which users are visited
  // (from the last node to the first), so that the order of additions is fixed by the graph.
  std::vector<std::vector<Value>> adjoints(forward_nodes);
  for (size_t i = 0; i < forward_nodes; ++i) adjoints[i].resize(graph.nodes()[i]->results.size());
  graph.set_scope("gradient");
  adjoints[id_of(loss)][static_cast<size_t>(loss.index)] = constant(graph, 1.0, loss.dtype());

  for (size_t i = id_of(loss) + 1; i-- > 0;) {
    const Node& node = *graph.nodes()[i];
    bool used = false;
    for (const Value& g : adjoints[i]) used |= g.defined();
    if (!used || !reaches[i] || node.operands.empty()) continue;
    std::vector<bool> wanted;
    bool any = false;
    for (const Value& operand : node.operands) {
      wanted.push_back(is_float(operand.dtype()) && reaches[id_of(operand)]);
      any |= wanted.back();
    }
    if (!any) continue;
    require(node.op->vjp != nullptr, Code::kUnimplemented, "no gradient passes through {} ({}): {}",
            node.op->name, node.scope, node.op->no_vjp);
    graph.set_scope(node.scope.empty() ? "gradient" : "gradient/" + node.scope);
    const std::vector<Value> operand_gradients = node.op->vjp(VjpInput{graph, node, adjoints[i], wanted});
    VERTEBRA_CHECK(operand_gradients.size() == node.operands.size(),
                   "a gradient function returned another number of values");
    for (size_t k = 0; k < operand_gradients.size(); ++k) {
      const Value gradient = operand_gradients[k];
      if (!gradient.defined() || !wanted[k]) continue;
      const Value operand = node.operands[k];
      require(gradient.type() == operand.type(), Code::kInternal,
              "the gradient of operand {} of {} is {}, the operand {}", k, node.op->name,
              gradient.type().to_string(), operand.type().to_string());
      Value& sum = adjoints[id_of(operand)][static_cast<size_t>(operand.index)];
      sum = sum.defined() ? add(sum, gradient) : gradient;
    }
  }

  graph.set_scope("gradient");
  std::vector<Value> out;
  for (const Value& v : wrt) {
    const Value gradient = adjoints[id_of(v)][static_cast<size_t>(v.index)];
    out.push_back(gradient.defined() ? gradient : full(graph, v.shape(), 0, v.dtype()));
  }
  graph.set_scope(scope_before);
  return out;
}

}  // namespace vertebra
