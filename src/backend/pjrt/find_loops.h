// Finds what a graph does again and again, layer after layer, so that the printer can write it once, as a
// loop: a chip whose compiler holds few instructions wants that (docs/decisions/0010-layers-as-loops.md).
// Looks at the nodes alone, not at names: any chain of equal pieces is a loop.
#pragma once

#include <optional>
#include <vector>

#include "graph/graph.h"

namespace vertebra::pjrt {

// `count` iterations of `period` nodes that do the same. Constants and parameters are not counted.
struct GraphLoop {
  // Where an operand of a node comes from.
  struct Operand {
    enum class Kind {
      kInside,     // the node at position `index` of the same iteration
      kCarried,    // carried[index]: made by the iteration before
      kEach,       // each[index]: another value for every iteration, from before the loop
      kInvariant,  // invariants[index]
      kConstant,   // a constant, invariants[index]: written again inside
    };
    Kind kind = Kind::kInside;
    int index = 0;
  };
  struct Carried {
    int position = 0;  // of the node that makes it for the next iteration
    Value initial;     // for the first
    bool operator==(const Carried&) const = default;
  };
  struct Each {
    std::vector<Value> values;
    // With `loop` >= 0, values[k] is the node at `position` of iteration `first` + k * `step` of that loop of
    // the list, step 1 or -1: its stack of results serves as it is.
    int loop = -1, position = 0, first = 0, step = 0;
  };

  int period = 0, count = 0;
  std::vector<const Node*> nodes;              // iteration by iteration
  std::vector<std::vector<Operand>> operands;  // [position][operand]
  std::vector<Carried> carried;
  std::vector<Each> each;
  std::vector<Value> invariants;
  std::vector<int> collected;  // positions, rising: their results of every iteration are used outside

  const Node& node(int iteration, int position) const {
    return *nodes[static_cast<size_t>(iteration * period + position)];
  }
};

// Where a node stands.
struct LoopPlace {
  int loop = -1, iteration = 0, position = 0;
};

struct GraphLoops {
  std::vector<GraphLoop> loops;   // in the order of their nodes; no node is in two
  std::vector<LoopPlace> places;  // by node id
};

// Of primitive nodes (one result each). Pieces of fewer than 24 nodes, without a matrix product, fewer than 3
// iterations, and pieces that hand nothing to the next (they may run side by side) are left as they are, and
// so are those that hold an output which takes over an input.
GraphLoops find_loops(const Graph& graph);

}  // namespace vertebra::pjrt
