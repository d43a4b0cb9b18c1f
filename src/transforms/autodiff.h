// Reverse-mode differentiation on the graph. Called by the trainer on the graph of a loss; the
// gradient of an op is in the op's own file.
#pragma once

#include <span>
#include <vector>

#include "graph/graph.h"

namespace vertebra {

// Appends to the loss's graph the nodes that compute d loss / d value for each of `wrt`, and returns
// them in that order, each of its value's type (zeros where the loss does not depend on it). `loss` is
// a floating-point scalar. Nodes made for the gradient of a node of scope S get the scope "gradient/S".
// Throws unimplemented naming the op and its reason when a gradient must pass through an op that has none.
std::vector<Value> gradients(Value loss, std::span<const Value> wrt);

}  // namespace vertebra
