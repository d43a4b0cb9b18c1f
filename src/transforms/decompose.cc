#include "graph/op.h"
#include "transforms/passes.h"

namespace vertebra {

Graph decompose(const Graph& graph, FunctionRef<bool(const Node&)> keep) {
  bool changed = false;
  const auto rewrite = [&](Graph& target, const Node& node, std::vector<Value> operands) {
    if (node.op->decompose == nullptr || keep(node)) return copy_node(target, node, std::move(operands));
    changed = true;
    std::vector<Value> results = node.op->decompose(target, node, operands);
    VERTEBRA_CHECK(results.size() == node.results.size(),
                   "a decomposition returned another number of values");
    for (size_t i = 0; i < results.size(); ++i) {
      require(results[i].type() == node.results[i], Code::kInternal,
              "result {} of {} decomposes into {}, not {}", i, node.op->name, results[i].type().to_string(),
              node.results[i].to_string());
    }
    return results;
  };
  Graph out = rebuild(graph, /*only_live=*/false, rewrite);
  // Decompositions may use composites; none uses itself, directly or through others, so this ends.
  while (changed) {
    changed = false;
    Graph next = rebuild(out, /*only_live=*/false, rewrite);
    out = std::move(next);
  }
  return out;
}

}  // namespace vertebra
