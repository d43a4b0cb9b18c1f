// The passes that turn a graph into primitives for a plugin.
#pragma once

#include "graph/graph.h"

namespace vertebra::pjrt {

// Throws unimplemented for a primitive that has no translation to StableHLO, naming op and scope.
Graph prepare_graph(const Graph& graph);

}  // namespace vertebra::pjrt
