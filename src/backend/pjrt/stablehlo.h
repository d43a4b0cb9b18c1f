// Prints a graph as a StableHLO module. The graph holds primitives and static shapes only (prepare_graph,
// pad_bounded); the text is the same in every process and run.
#pragma once

#include <string>

#include "backend/pjrt/vendors.h"
#include "graph/graph.h"

namespace vertebra::pjrt {

// Arguments are the graph's inputs in order, results its outputs in order; donated inputs carry
// tf.aliasing_output. On a mesh of several devices arguments and results carry their shardings, in the words
// of the vendor's partitioner. Names lead back to inputs, scopes and ops. Throws unimplemented naming the op
// that has no translation.
std::string print_stablehlo(const Graph& graph, const Vendor& vendor, const Mesh& mesh = {});

}  // namespace vertebra::pjrt
