// The graph of a serving step: one ragged forward over N tokens of many requests, attention over the
// paged cache, logits of the rows that are sampled. Compiled once, run for any N and M up to the bounds.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "backend/buffer_set.h"
#include "models/model.h"

namespace vertebra {

struct ServingShape {
  int64_t tokens = 256;  // bound of N
  int64_t sampled = 8;   // bound of M, rows whose logits are wanted
  int64_t requests = 8;  // R
  int64_t pages_per_request = 8;
  int64_t pages = 64;  // P, of layers that see everything
  int64_t page_size = 64;
  int64_t state_snapshots = 0;   // rows of the states beside those of the R requests
  int64_t context_length = 512;  // of a request, at most
  DType compute = DType::kF32;
  DType cache =
      DType::kF32;  // of keys and values: f32, bf16, f16, or q8_0 (i8 codes with a scale to 32 of them)
  Mesh mesh;        // of the backend
  bool choose_on_device = false;  // the likeliest tokens are outputs too (sampling::kToken, kLogProbability)
  std::map<std::string, DType, std::less<>> parameter_types;  // of parameters that are not f32

  // Of layers with that window (0: none): pages that a request needs at most, its own during a step and what
  // its next token sees; and P, which has room for another window of each request, of those that came before.
  int64_t most_pages(int64_t window) const;
  int64_t pages_for(int64_t window) const;
};

namespace serving {
inline constexpr uint8_t kTokenSymbol = 1, kSampledSymbol = 2;   // of the dimensions N and M
inline constexpr const char* kTokens = "engine/tokens";          // i32 [N]
inline constexpr const char* kPositions = "engine/positions";    // i32 [N]
inline constexpr const char* kRequests = "engine/requests";      // i32 [N]: row of the page table
inline constexpr const char* kPageTable = "engine/page_table/";  // and the window: i32 [R, pages_per_request]
inline constexpr const char* kSampledRows = "engine/sampled";    // i32 [M]: rows of N
inline constexpr const char* kCopyFrom = "engine/copy_from";
inline constexpr const char* kCopyTo = "engine/copy_to";
inline constexpr const char* kLogits = "engine/logits";  // f32 [M, V]
}  // namespace serving

// ServingShape::parameter_types of a model whose parameters lie in these buffers.
std::map<std::string, DType, std::less<>> stored_types(const Model& model, const BufferSet& parameters);
// Parameters are inputs of their names; caches "engine/k_cache/LAYER", "engine/v_cache/LAYER"
// [P, page_size, K, D] of the layer (of codes also "engine/k_scale/LAYER", "engine/v_scale/LAYER") and states
// "engine/state/LAYER/NAME" f32 [R + snapshots, ...] are donated. Throws invalid_argument for a cache of q8_0
// whose layers have heads that are no whole blocks.
Graph build_serving_step(const Model& model, const ServingShape& shape);
// Whether layers of that graph keep states of requests, which only go forward.
bool keeps_states(const Graph& step);
// The windows of its layers, each of which has its page table.
std::vector<int64_t> windows_of(const Graph& step);
// Row kCopyTo of all states of that graph becomes what row kCopyFrom is (i32 [1] and i32 []).
Graph build_state_copy(const Graph& step);

}  // namespace vertebra
