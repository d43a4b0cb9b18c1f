// Where every value of a graph lives while it runs: in an input's or output's buffer, in a constant, or at
// an offset of the executable's arena. Decides at compile time, from liveness, which values share memory,
// which kernels work in place and which outputs are copied at the end. Called by the CPU executable.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "backend/cpu/kernel.h"
#include "backend/cpu/storage.h"
#include "graph/graph.h"

namespace vertebra::cpu {

// One place of memory; two values with the same place share it.
struct Place {
  enum class Kind { kNone, kInput, kOutput, kConstant, kArena } kind = Kind::kNone;
  int index = 0;      // of the input, the output, or the id of the constant's node
  size_t offset = 0;  // in the arena
  bool operator==(const Place&) const = default;
};

struct Plan {
  std::vector<std::vector<Place>> values;  // [node id][result]
  std::vector<size_t> workspace;           // [node id]: arena offset of the kernel's workspace
  struct Copy {
    Place from, to;
    TensorType type;
  };
  // After the last kernel: first what would be overwritten by the others, then the rest.
  std::vector<Copy> final_copies;
  size_t arena_bytes = 0;
};

// True for nodes whose result is their operand's memory under another type (reshape, stop_gradient).
bool is_alias(const Node& node);

// `kernels[node id]` is null for inputs, constants and aliases. Every output may be passed the buffer of the
// input it takes over, or another buffer.
Plan plan_memory(const Graph& graph, std::span<const Kernel* const> kernels, const StoredTypes& types,
                 int threads);

}  // namespace vertebra::cpu
