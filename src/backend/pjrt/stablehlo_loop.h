// Writes a loop of the graph as stablehlo.while with a fixed number of iterations: what every iteration has
// of its own (parameters, saved activations) is stacked before and sliced inside, results are stacked.
#pragma once

#include <map>

#include "backend/pjrt/find_loops.h"
#include "backend/pjrt/stablehlo_ops.h"
#include "base/function_ref.h"

namespace vertebra::pjrt {

struct LoopResults {
  std::vector<HloValue> carried;   // after the last iteration, as in the loop
  std::map<int, HloValue> stacks;  // by position: [iterations, ...]

  // Writes what takes the value of that place out of the results.
  HloValue value(HloEmitter& emit, const GraphLoop& loop, const LoopPlace& place) const;
};

// `outside` writes and returns a value from before the loop; `stack` returns another loop's stack.
LoopResults print_loop(HloEmitter& emit, const GraphLoop& loop, const Vendor& vendor, const Mesh& mesh,
                       FunctionRef<const HloValue&(const Value&)> outside,
                       FunctionRef<const HloValue&(int loop, int position)> stack);

}  // namespace vertebra::pjrt
