// The oracle: evaluates a graph with plain loops in double precision, primitives directly and composites
// through their decompositions. Slow and obvious on purpose; only tests call it.
#pragma once

#include <span>
#include <vector>

#include "graph/graph.h"
#include "tensor/tensor.h"

namespace vertebra {

struct ReferenceOptions {
  // Rounds the operands of products with compute = bf16, as a backend does. Off: smooth, for finite
  // differences.
  bool round_products = false;
  // Rounds every floating-point result of a primitive to its element type; outputs then have their own types.
  // Off: numbers stay double between nodes and floating-point outputs are f64.
  bool round_results = false;
};

// inputs[i] feeds graph input i; a floating-point input may be given in any floating-point type. A bounded
// dimension takes its size from the inputs. Throws invalid_argument for inputs that do not fit, unimplemented
// for a primitive without a rule here.
std::vector<Tensor> evaluate_reference(const Graph& graph, std::span<const Tensor> inputs,
                                       const ReferenceOptions& options = {});

}  // namespace vertebra
