#include <unordered_map>

#include "graph/op.h"
#include "transforms/passes.h"

namespace vertebra {
namespace {

// A hash of op, operands and attribute names; equality decides the rest.
size_t hash_of(const Node& node, const std::vector<Value>& operands) {
  size_t hash = std::hash<const void*>()(node.op);
  const auto mix = [&](size_t value) { hash = (hash ^ value) * 0x100000001b3ull; };
  for (const Value& v : operands) {
    mix(static_cast<size_t>(v.node->id));
    mix(static_cast<size_t>(v.index));
  }
  for (const auto& [name, value] : node.attrs.items()) {
    mix(std::hash<std::string>()(name));
    mix(std::hash<std::string>()(to_string(value)));
  }
  return hash;
}

}  // namespace

Graph eliminate_common_subexpressions(const Graph& graph) {
  std::unordered_multimap<size_t, Node*> seen;
  return rebuild(graph, /*only_live=*/true,
                 [&](Graph& target, const Node& node, std::vector<Value> operands) {
                   const size_t hash = hash_of(node, operands);
                   const auto results_of = [](Node* found) {
                     std::vector<Value> results;
                     for (size_t i = 0; i < found->results.size(); ++i)
                       results.push_back({found, static_cast<int>(i)});
                     return results;
                   };
                   for (auto [it, end] = seen.equal_range(hash); it != end; ++it) {
                     const Node& other = *it->second;
                     if (other.op == node.op && other.operands == operands && other.attrs == node.attrs)
                       return results_of(it->second);
                   }
                   std::vector<Value> results = copy_node(target, node, std::move(operands));
                   seen.emplace(hash, results[0].node);
                   return results;
                 });
}

Graph eliminate_dead_code(const Graph& graph) { return rebuild(graph, /*only_live=*/true, copy_node); }

}  // namespace vertebra
