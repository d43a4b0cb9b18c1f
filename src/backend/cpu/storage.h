// In which element type a value lies in memory while a graph runs. An f32 value that nothing but products in
// bf16 reads is rounded by the kernel that computes it, not by each of those that read it: the same bits,
// half the memory. Decided at compile time; called by the CPU executable.
#pragma once

#include <span>
#include <vector>

#include "backend/cpu/kernel.h"
#include "graph/graph.h"

namespace vertebra::cpu {

// The types of all values as they lie in memory, by node id and result.
class StoredTypes {
 public:
  // `kernels[node id]` is null for inputs, constants and aliases.
  StoredTypes(const Graph& graph, std::span<const Kernel* const> kernels);

  const TensorType& of(Value v) const {
    return types_[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  }

 private:
  std::vector<std::vector<TensorType>> types_;
};

}  // namespace vertebra::cpu
