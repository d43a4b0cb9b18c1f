// Turns a graph of primitives with bounded dimensions into one of static shapes that computes the same on
// padded inputs: rows beyond the actual size may hold anything and never reach a row within.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "graph/graph.h"

namespace vertebra::pjrt {

// The bounded dimensions that a graph's inputs carry, in ascending order of symbol.
struct Symbol {
  uint8_t symbol = 0;
  int64_t bound = 0;
  bool operator==(const Symbol&) const = default;
};
std::vector<Symbol> symbols_of(const Graph& graph);

// `sizes[i]` is the padded size of symbols[i]. The result has one more i32 scalar input per symbol, in that
// order, after the graph's own: the actual size. A symbol that no input carries has its bound. Throws
// unimplemented for an op whose elements move across a bounded dimension in a way that cannot be masked.
Graph pad_bounded(const Graph& graph, const std::vector<Symbol>& symbols, const std::vector<int64_t>& sizes);

}  // namespace vertebra::pjrt
