#include <algorithm>
#include <map>
#include <optional>

#include "graph/op.h"
#include "transforms/passes.h"

namespace vertebra {
namespace {

constexpr std::string_view kGradient = "gradient/";

// "model/layers.3/attention" -> "model/layers.3"; nothing where no component is "layers.N".
std::optional<std::string> layer_of(std::string_view scope) {
  for (size_t start = 0; start < scope.size();) {
    const size_t end = std::min(scope.find('/', start), scope.size());
    if (scope.substr(start, end - start).starts_with("layers.")) return std::string(scope.substr(0, end));
    start = end + 1;
  }
  return std::nullopt;
}

bool in_gradient(const Node& node) { return node.scope.starts_with(kGradient); }

// The same op on the same operands, kept apart from the first computation when equal nodes are merged.
std::vector<Value> compute_again(Graph& target, const Node& node, std::vector<Value> operands) {
  Attrs attrs = node.attrs;
  attrs.set("recompute", true);
  target.set_scope("recompute/" + node.scope);
  return target.add_node(*node.op, std::move(operands), std::move(attrs));
}

}  // namespace

Graph rematerialize(const Graph& graph) {
  // By node of `graph`: the layer of a forward node. Gradient nodes carry the scope of what they
  // differentiate.
  std::vector<std::optional<std::string>> layer(graph.nodes().size());
  std::vector<bool> is_gradient(graph.nodes().size(), false);
  for (const auto& node : graph.nodes()) {
    const auto id = static_cast<size_t>(node->id);
    is_gradient[id] = in_gradient(*node);
    layer[id] =
        layer_of(is_gradient[id] ? std::string_view(node->scope).substr(kGradient.size()) : node->scope);
  }
  const auto recomputed = [&](const Node& node) {
    const auto id = static_cast<size_t>(node.id);
    return !is_gradient[id] && layer[id].has_value() && !is_parameter(node) && !is_constant(node);
  };

  Graph target;
  std::vector<std::vector<Value>> mapped(graph.nodes().size()), again(graph.nodes().size());
  const auto value_in = [](const std::vector<std::vector<Value>>& map, Value v) {
    return map[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  };
  // The value of a forward node of `where`'s layer, computed a second time; what lies outside is read.
  const auto recompute = [&](auto&& self, Value v, const std::string& where) -> Value {
    const auto id = static_cast<size_t>(v.node->id);
    if (!recomputed(*v.node) || layer[id] != where) return value_in(mapped, v);
    if (again[id].empty()) {
      std::vector<Value> operands;
      for (const Value& operand : v.node->operands) operands.push_back(self(self, operand, where));
      again[id] = compute_again(target, *v.node, std::move(operands));
    }
    return value_in(again, v);
  };

  for (const auto& node : graph.nodes()) {
    const auto id = static_cast<size_t>(node->id);
    target.set_scope(node->scope);
    if (is_parameter(*node)) {
      mapped[id] = {target.parameter(node->attrs.get<std::string>("name"), node->results[0])};
      continue;
    }
    std::vector<Value> operands;
    for (const Value& v : node->operands) {
      operands.push_back(is_gradient[id] && layer[id].has_value() ? recompute(recompute, v, *layer[id])
                                                                  : value_in(mapped, v));
    }
    target.set_scope(node->scope);
    mapped[id] = copy_node(target, *node, std::move(operands));
  }
  copy_outputs(graph, target, [&](Value v) { return value_in(mapped, v); });
  return target;
}

Graph recompute_cheap(const Graph& graph) {
  // By node: its first reader among the gradients, and its last reader. Nothing where there is none.
  const size_t count = graph.nodes().size();
  std::vector<const Node*> first_gradient(count, nullptr), last_reader(count, nullptr);
  for (const auto& node : graph.nodes()) {
    for (const Value& v : node->operands) {
      const auto id = static_cast<size_t>(v.node->id);
      if (in_gradient(*node) && first_gradient[id] == nullptr) first_gradient[id] = node.get();
      last_reader[id] = node.get();
    }
  }
  const auto worth_it = [&](const Node& node) {
    const Node* reader = first_gradient[static_cast<size_t>(node.id)];
    if (!node.op->cheap || in_gradient(node) || reader == nullptr || !layer_of(node.scope)) return false;
    return std::all_of(node.operands.begin(), node.operands.end(), [&](const Value& v) {
      return is_parameter(*v.node) || last_reader[static_cast<size_t>(v.node->id)]->id > reader->id;
    });
  };

  std::vector<std::vector<Value>> operands_of(count), again(count);
  return rebuild(graph, /*only_live=*/false,
                 [&](Graph& target, const Node& node, std::vector<Value> operands) {
                   if (in_gradient(node)) {
                     for (size_t i = 0; i < operands.size(); ++i) {
                       const Value old = node.operands[i];
                       const auto id = static_cast<size_t>(old.node->id);
                       if (!worth_it(*old.node)) continue;
                       if (again[id].empty()) again[id] = compute_again(target, *old.node, operands_of[id]);
                       operands[i] = again[id][static_cast<size_t>(old.index)];
                     }
                     target.set_scope(node.scope);
                   } else if (node.op->cheap) {
                     operands_of[static_cast<size_t>(node.id)] = operands;
                   }
                   return copy_node(target, node, std::move(operands));
                 });
}

}  // namespace vertebra
