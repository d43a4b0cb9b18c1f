#include <algorithm>
#include <map>

#include "graph/op.h"
#include "ops/ops.h"
#include "transforms/passes.h"

namespace vertebra {
namespace {

constexpr size_t kMostLayers = 16;

// Layers that are one node later, the first one's place being its place.
using Groups = std::map<const Node*, std::vector<const Node*>>;

bool is_plain(const Node& node) {
  return node.op->name == "linear" && !node.attrs.get<bool>("has_residual") &&
         node.attrs.get<std::string>("activation") == "none";
}

Groups find_groups(const Graph& graph, FunctionRef<bool(const Node&)> wanted) {
  Groups groups;
  for (const auto& node : graph.nodes()) {
    if (!is_plain(*node) || !wanted(*node)) continue;
    const auto joins = [&](const Node& first) {
      return first.operands[0] == node->operands[0] && first.attrs == node->attrs &&
             groups.at(&first).size() < kMostLayers &&
             std::all_of(
                 node->operands.begin() + 1, node->operands.end(),
                 [&](const Value& v) { return v.node->id < first.id; });
    };
    const auto group =
        std::find_if(groups.begin(), groups.end(), [&](const auto& each) { return joins(*each.first); });
    (group == groups.end() ? groups[node.get()] : group->second).push_back(node.get());
  }
  std::erase_if(groups, [](const auto& group) { return group.second.size() < 2; });
  return groups;
}

}  // namespace

Graph group_linears(const Graph& graph, FunctionRef<bool(const Node&)> wanted) {
  const Groups groups = find_groups(graph, wanted);
  Graph target;
  std::vector<std::vector<Value>> mapped(graph.nodes().size());
  const auto translate = [&](Value v) {
    return mapped[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  };
  for (const auto& node : graph.nodes()) {
    auto& results = mapped[static_cast<size_t>(node->id)];
    if (!results.empty()) continue;  // of a group that began before
    target.set_scope(node->scope);
    const auto group = groups.find(node.get());
    if (is_parameter(*node)) {
      results = {target.parameter(node->attrs.get<std::string>("name"), node->results[0])};
    } else if (group == groups.end()) {
      std::vector<Value> operands;
      for (const Value& v : node->operands) operands.push_back(translate(v));
      results = copy_node(target, *node, std::move(operands));
    } else {
      std::vector<Value> operands = {translate(node->operands[0])};
      for (size_t operand = 1; operand < node->operands.size(); ++operand) {
        for (const Node* layer : group->second) operands.push_back(translate(layer->operands[operand]));
      }
      const auto values = target.add_node(find_op("linear_group"), std::move(operands),
                                          {{"compute", node->attrs.get<DType>("compute")},
                                           {"layers", static_cast<int64_t>(group->second.size())},
                                           {"has_bias", node->attrs.get<bool>("has_bias")}});
      for (size_t i = 0; i < values.size(); ++i)
        mapped[static_cast<size_t>(group->second[i]->id)] = {values[i]};
    }
  }
  copy_outputs(graph, target, translate);
  return target;
}

}  // namespace vertebra
