// Passes from graph to graph. Each keeps inputs (all of them, in order), outputs and donations, and
// the values that the outputs have; backends choose and order them.
#pragma once

#include "base/function_ref.h"
#include "graph/graph.h"

namespace vertebra {

// Replaces every composite node by its decomposition, again and again, except those for which `keep`
// says true (a backend keeps what it has a kernel for).
Graph decompose(const Graph& graph, FunctionRef<bool(const Node&)> keep);

// One node for equal computations: same op, operands and attributes.
Graph eliminate_common_subexpressions(const Graph& graph);

// Drops nodes that no output depends on.
Graph eliminate_dead_code(const Graph& graph);

// Merges ops that one kernel does in one sweep:
//  - linear_cross_entropy and its gradient over the same operands become linear_cross_entropy_both,
//    which computes each chunk of logits once instead of twice;
//  - linear followed by an addition of an equally shaped value (the residual), or by an activation whose
//    input nothing else reads, takes it in as its epilogue.
Graph fuse(const Graph& graph);

// Linear layers of the same x, without activation and residual, become one linear_group where the first of
// them stands: those for which `wanted` says true and whose weights are there by then.
Graph group_linears(const Graph& graph, FunctionRef<bool(const Node&)> wanted);

// Trades time for memory (Chen et al., "Training deep nets with sublinear memory cost", 2016): what the
// gradient of a layer reads from inside that layer's forward pass is computed a second time, just before it
// is needed, from the layer's inputs. A layer is a scope "layers.N"; run before the passes above.
Graph rematerialize(const Graph& graph);

// The part of that which costs next to nothing: what an op with OpDef::cheap (a norm, an activation) gave
// inside a layer is computed a second time for the gradients that read it, where its operands are kept for
// them in any case. The values are the same bits.
Graph recompute_cheap(const Graph& graph);

}  // namespace vertebra
