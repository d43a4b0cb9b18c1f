// The pass that joins elementwise ops. Run last, on primitives, by backends that run fused_elementwise.
#pragma once

#include "graph/graph.h"

namespace vertebra {

// Joins elementwise ops of equal shape, and the broadcasts they read, into fused_elementwise nodes, so that
// what is between them is never written to memory. An op joins its readers' node when everything else that
// reads it comes after that node; values that others read become further results. What it leaves unread
// (broadcasts) is for eliminate_dead_code. f16, f64, i64, i8 and u8 are left alone.
Graph fuse_elementwise(const Graph& graph);

}  // namespace vertebra
