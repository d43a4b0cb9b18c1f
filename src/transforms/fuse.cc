#include <algorithm>
#include <functional>
#include <map>

#include "graph/op.h"
#include "ops/ops.h"
#include "transforms/passes.h"

namespace vertebra {
namespace {

std::vector<int> count_uses(const Graph& graph) {
  std::vector<int> uses(graph.nodes().size(), 0);
  for (const auto& node : graph.nodes()) {
    for (const Value& v : node->operands) ++uses[static_cast<size_t>(v.node->id)];
  }
  for (const auto& output : graph.outputs()) ++uses[static_cast<size_t>(output.value.node->id)];
  return uses;
}

std::vector<bool> ancestors_of(const Graph& graph, Value value) {
  std::vector<bool> is_ancestor(graph.nodes().size(), false);
  is_ancestor[static_cast<size_t>(value.node->id)] = true;
  for (size_t i = static_cast<size_t>(value.node->id) + 1; i-- > 0;) {
    if (!is_ancestor[i]) continue;
    for (const Value& v : graph.nodes()[i]->operands) is_ancestor[static_cast<size_t>(v.node->id)] = true;
  }
  return is_ancestor;
}

// loss node -> gradient node, for each pair of linear_cross_entropy and linear_cross_entropy_grad that
// can become one: same operands and attributes, and the incoming gradient does not depend on the loss.
std::map<const Node*, const Node*> loss_pairs(const Graph& graph) {
  std::map<const Node*, const Node*> pairs;
  for (const auto& gradient : graph.nodes()) {
    if (gradient->op->name != "linear_cross_entropy_grad") continue;
    for (const auto& loss : graph.nodes()) {
      if (loss->op->name != "linear_cross_entropy" || pairs.contains(loss.get())) continue;
      const bool same =
          std::equal(loss->operands.begin(), loss->operands.end(), gradient->operands.begin()) &&
          loss->attrs == gradient->attrs;
      if (!same || ancestors_of(graph, gradient->operands[3])[static_cast<size_t>(loss->id)]) continue;
      pairs[loss.get()] = gradient.get();
      break;
    }
  }
  return pairs;
}

// The merged node stands where the loss stood, so what the incoming gradient needs is moved before it.
Graph merge_losses(const Graph& graph) {
  const auto pairs = loss_pairs(graph);
  std::map<const Node*, const Node*> loss_of;  // by gradient node
  for (const auto& [loss, gradient] : pairs) loss_of[gradient] = loss;

  Graph target;
  std::vector<std::vector<Value>> mapped(graph.nodes().size());
  const auto translate = [&](Value v) {
    return mapped[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  };
  for (const auto& input : graph.inputs()) {
    target.set_scope(input.value.node->scope);
    mapped[static_cast<size_t>(input.value.node->id)] = {target.parameter(input.name, input.value.type())};
  }
  const std::function<void(const Node&)> emit = [&](const Node& node) {
    auto& results = mapped[static_cast<size_t>(node.id)];
    if (!results.empty()) return;
    if (const auto it = loss_of.find(&node); it != loss_of.end()) return emit(*it->second);
    std::vector<Value> operands;
    for (const Value& v : node.operands) {
      emit(*v.node);
      operands.push_back(translate(v));
    }
    const auto pair = pairs.find(&node);
    if (pair != pairs.end()) {
      emit(*pair->second->operands[3].node);
      operands.push_back(translate(pair->second->operands[3]));
    }
    target.set_scope(node.scope);
    if (pair == pairs.end()) {
      results = copy_node(target, node, std::move(operands));
    } else {
      const std::vector<Value> both =
          target.add_node(find_op("linear_cross_entropy_both"), operands, node.attrs);
      results = {both[0]};
      mapped[static_cast<size_t>(pair->second->id)] = {both[1], both[2]};
    }
  };
  for (const auto& node : graph.nodes()) emit(*node);
  copy_outputs(graph, target, translate);
  return target;
}

// The name of the epilogue that an activation node becomes, or empty.
std::string activation_of(const Node& node) {
  if (node.op->name == "silu") return "silu";
  if (node.op->name == "gelu") return node.attrs.get<bool>("tanh_approximation") ? "gelu_tanh" : "gelu";
  return "";
}

bool is_plain_linear(const Node& node) {
  return node.op->name == "linear" && !node.attrs.get<bool>("has_residual") &&
         node.attrs.get<std::string>("activation") == "none";
}

Graph fuse_epilogues(const Graph& graph) {
  const std::vector<int> uses = count_uses(graph);
  const auto only_here = [&](const Value& v) { return uses[static_cast<size_t>(v.node->id)] == 1; };
  return rebuild(
      graph, /*only_live=*/true, [&](Graph& target, const Node& node, std::vector<Value> operands) {
        if (node.op->name == "add") {
          for (size_t side = 0; side < 2; ++side) {
            const Value sum_of = node.operands[side], residual = node.operands[1 - side];
            if (sum_of.node->op->name != "linear" || !only_here(sum_of) || residual.type() != sum_of.type())
              continue;
            const Node& linear_now = *operands[side].node;  // may carry an activation already
            if (linear_now.attrs.get<bool>("has_residual")) continue;
            std::vector<Value> inputs = linear_now.operands;
            inputs.push_back(operands[1 - side]);
            Attrs attrs = linear_now.attrs;
            attrs.set("has_residual", true);
            return target.add_node(*linear_now.op, std::move(inputs), std::move(attrs));
          }
        }
        if (const std::string activation = activation_of(node); !activation.empty()) {
          const Value source = node.operands[0];
          if (is_plain_linear(*source.node) && only_here(source) && is_plain_linear(*operands[0].node)) {
            Attrs attrs = operands[0].node->attrs;
            attrs.set("activation", activation);
            return target.add_node(*operands[0].node->op, operands[0].node->operands, std::move(attrs));
          }
        }
        return copy_node(target, node, std::move(operands));
      });
}

}  // namespace

Graph fuse(const Graph& graph) {
  const Graph merged = merge_losses(graph);
  const Graph fused = fuse_epilogues(merged);
  return eliminate_dead_code(fused);
}

}  // namespace vertebra
