// Prompts for the engine and the time they take; shared by the benchmarks of generation.
#pragma once

#include <algorithm>
#include <vector>

#include "bench/figure.h"
#include "engine/engine.h"

namespace vertebra::bench {

// `count` requests of `prompt` made-up tokens, each with a greedy answer of `answer` tokens.
inline std::vector<GenerationRequest> requests_of(int count, int64_t prompt, int64_t answer,
                                                  int64_t vocabulary) {
  std::vector<GenerationRequest> out;
  for (int64_t i = 0; i < count; ++i) {
    GenerationRequest request;
    for (int64_t t = 0; t < prompt; ++t)
      request.prompt.push_back(static_cast<int32_t>((t * 37 + i * 101) % vocabulary));
    request.max_tokens = answer;
    out.push_back(std::move(request));
  }
  return out;
}

// Seconds, the best of `rounds` after one that warms up.
inline double fastest(Engine& engine, const std::vector<GenerationRequest>& requests, int rounds) {
  double best_s = 1e30;
  for (int round = 0; round < rounds + 1; ++round) {
    const double start = now_s();
    engine.generate(requests);
    if (round > 0) best_s = std::min(best_s, now_s() - start);
  }
  return best_s;
}

}  // namespace vertebra::bench
