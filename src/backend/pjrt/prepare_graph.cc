#include "backend/pjrt/prepare_graph.h"

#include "backend/pjrt/stablehlo_ops.h"
#include "base/error.h"
#include "graph/op.h"
#include "transforms/passes.h"

namespace vertebra::pjrt {

Graph prepare_graph(const Graph& graph, const Vendor&, const Mesh& mesh) {
  const Graph merged = fuse(eliminate_common_subexpressions(eliminate_dead_code(graph)));
  const Graph primitive = decompose(merged, [&](const Node& node) {
    if (node.op->name == "embedding")
      return is_block_quantized(node.operands[0].dtype());  // rows, then floats
    return node.op->name == "write_rows" || (node.op->name == "with_sharding" && mesh.devices() > 1);
  });
  Graph out = eliminate_dead_code(eliminate_common_subexpressions(primitive));
  for (const auto& node : out.nodes()) {
    if (is_parameter(*node) || is_constant(*node)) continue;
    require(find_translation(node->op->name) != nullptr, Code::kUnimplemented,
            "op '{}'{} has no translation to StableHLO", node->op->name,
            node->scope.empty() ? "" : " in '" + node->scope + "'");
  }
  return out;
}

}  // namespace vertebra::pjrt
