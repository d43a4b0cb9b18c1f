// What an executable holds on each device, and what of it would fit: for an error before the device runs out
// of memory, and for the one it reports when it does.
#pragma once

#include <cstdint>
#include <string>

#include "backend/pjrt/device_mesh.h"
#include "graph/graph.h"

namespace vertebra::pjrt {

struct MemoryUse {
  uint64_t inputs = 0;     // bytes: parameters, state, batch
  uint64_t results = 0;    // that take over no input
  uint64_t temporary = 0;  // activations and the compiler's own
  uint64_t device = 0;     // what there is; 0: unknown

  uint64_t total() const { return inputs + results + temporary; }
  bool fits() const { return device == 0 || total() <= device; }
  // "7.5 GB: 1.5 of parameters, ...; what would fit: ..."
  std::string to_string() const;
};

// Of a static graph whose executable needs that much temporary memory.
MemoryUse memory_use(const Graph& graph, const DeviceMesh& mesh, uint64_t temporary);

}  // namespace vertebra::pjrt
