// What attention and paged_attention share: checks of heads, attributes, and the softmax over visible keys
// of their decompositions.
#pragma once

#include "graph/op.h"
#include "ops/ops.h"

namespace vertebra {

// H a multiple of K, equal head dimensions, all above 0, a scale and a window that make sense.
void check_heads(const InferInput& in, Dim query_heads, Dim key_heads, Dim query_d, Dim key_d);

// {scale, window} with the scale resolved for q [..., D].
Attrs attention_attrs(const AttentionOptions& options, Value q);

// out [..., H, D], lse [..., H] and sinks [H]: what attention gives when a head's sink is one more score of
// each of its rows, out exp(lse) / (exp(lse) + exp(sink)).
Value with_sinks(Value out, Value lse, Value sinks);

struct MaskedSoftmax {
  Value probabilities;  // 0 where not seen; all 0 in a row that sees nothing
  Value log_sum;        // without the last axis; 0 for a row that sees nothing
};
// Over the last axis; `seen` is bool of the scores' shape.
MaskedSoftmax masked_softmax(Value scores, Value seen);

}  // namespace vertebra
