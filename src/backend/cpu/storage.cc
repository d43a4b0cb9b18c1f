#include "backend/cpu/storage.h"

#include "backend/cpu/planner.h"

namespace vertebra::cpu {
namespace {

enum class Readers : uint8_t { kNone, kRounding, kOther };

}  // namespace

StoredTypes::StoredTypes(const Graph& graph, std::span<const Kernel* const> kernels) {
  // Who reads each value, under whatever shape: aliases pass what is said of them on to their operand, so
  // nodes are visited from the last one.
  std::vector<std::vector<Readers>> readers;
  for (const auto& node : graph.nodes()) readers.emplace_back(node->results.size(), Readers::kNone);
  const auto readers_of = [&](Value v) -> Readers& {
    return readers[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  };
  for (const auto& output : graph.outputs()) readers_of(output.value) = Readers::kOther;
  for (auto it = graph.nodes().rbegin(); it != graph.nodes().rend(); ++it) {
    const Node& node = **it;
    for (size_t i = 0; i < node.operands.size(); ++i) {
      const Kernel* kernel = kernels[static_cast<size_t>(node.id)];
      Readers found = Readers::kOther;
      if (is_alias(node)) {
        found = readers[static_cast<size_t>(node.id)][0];
      } else if (kernel != nullptr && kernel->rounds_operand(static_cast<int>(i))) {
        found = Readers::kRounding;
      }
      Readers& known = readers_of(node.operands[i]);
      known = std::max(known, found);
    }
  }
  for (const auto& node : graph.nodes()) {
    auto& types = types_.emplace_back(node->results);
    const auto id = static_cast<size_t>(node->id);
    for (size_t i = 0; i < types.size(); ++i) {
      if (is_alias(*node)) {
        types[i].dtype = of(node->operands[0]).dtype;
      } else if (kernels[id] != nullptr && types[i].dtype == DType::kF32 &&
                 readers[id][i] == Readers::kRounding && kernels[id]->can_round_result(static_cast<int>(i))) {
        types[i].dtype = DType::kBF16;
      }
    }
  }
}

}  // namespace vertebra::cpu
