// Choosing tokens where the logits are, on devices whose memory is not the host's: what the Sampler does, as
// graphs. Penalties and lists of alternatives are left to the Sampler.
#pragma once

#include "graph/graph.h"

namespace vertebra {

namespace sampling {
inline constexpr const char* kTemperature = "engine/temperature";         // f32 [M]; 0: the likeliest
inline constexpr const char* kTopK = "engine/top_k";                      // f32 [M]; 0: all
inline constexpr const char* kTopP = "engine/top_p";                      // f32 [M]
inline constexpr const char* kMinP = "engine/min_p";                      // f32 [M]
inline constexpr const char* kUniform = "engine/uniform";                 // f32 [M] of sampling_uniform
inline constexpr const char* kToken = "engine/token";                     // i32 [M]
inline constexpr const char* kLogProbability = "engine/log_probability";  // f32 [M]: the model's own
}  // namespace sampling

struct SampledRows {
  Value token, log_probability;  // i32 [M], f32 [M]
};

// logits f32 [M, V]: the likeliest token of each row (the lowest id among equals).
SampledRows likeliest(Value logits);

// The graph from logits (input `logits_name` of type f32 [M, V]) and the inputs above to kToken and
// kLogProbability. The cuts keep what a threshold keeps: equals of the last one kept stay too, and top-k and
// top-p thresholds are found by halving, to 2^-30 of 88 temperatures.
Graph build_sampling(const char* logits_name, const TensorType& logits);

}  // namespace vertebra
