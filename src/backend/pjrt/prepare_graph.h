// The passes that turn a graph into what has a translation to StableHLO: primitives, and the composites that
// the vendor's compiler does better than their decomposition.
#pragma once

#include "backend/pjrt/vendors.h"
#include "graph/graph.h"

namespace vertebra::pjrt {

// Throws unimplemented for a primitive that has no translation to StableHLO, naming op and scope.
Graph prepare_graph(const Graph& graph, const Vendor& vendor, const Mesh& mesh = {});

}  // namespace vertebra::pjrt
