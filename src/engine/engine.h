// The engine: many requests generating at once, one ragged forward pass a step, keys and values in a
// paged cache. Works on token ids; text is text_generation.h. Called by chat, generate, evaluation and
// training samples; one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/buffer_set.h"
#include "engine/sampler.h"
#include "engine/serving_graph.h"
#include "models/model.h"

namespace vertebra {

struct EngineOptions {
  int64_t max_requests = 8;       // running at once; further ones wait
  int64_t tokens_per_step = 256;  // prefill is cut into chunks so that a step has at most this many tokens
  int64_t page_size = 64;         // tokens a cache page holds
  int64_t context_length = 0;     // 0: the model's
  DType compute = DType::kF32;
  DType cache = DType::kF32;  // of keys and values: f32, bf16, f16 or q8_0
  int64_t draft_tokens = 0;   // most tokens tried at once by prompt lookup (speculate.h), none where layers
                              // keep states; the text stays the same
};

enum class StopReason { kStopToken, kMaxTokens, kCancelled };
std::string_view stop_reason_name(StopReason reason);  // "end_turn", "max_tokens", "cancelled"

struct GenerationRequest {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  std::vector<int32_t> stop_tokens;  // end the answer; not part of it
  int top_log_probabilities = 0;     // alternatives reported with every token
};

struct GeneratedToken {
  int32_t id = 0;
  double log_probability = 0;
  std::vector<SampledToken> top;
};

struct GenerationResult {
  std::vector<GeneratedToken> tokens;
  StopReason stop_reason = StopReason::kMaxTokens;
  // Probability that the model gives the whole answer, its stop token included (natural logarithm).
  double log_probability = 0;
  int64_t prompt_tokens = 0;
  int64_t drafted = 0, accepted = 0;  // tokens tried by prompt lookup, and how many of them were right
};

// The sizes of the engine's one graph. Throws invalid_argument for options that fit no engine of that model.
ServingShape serving_shape(const Model& model, const EngineOptions& options);
// What such an engine hands to a device beside the host: the step, and the choice of tokens at random.
struct DeviceGraphs {
  Graph step, sampling;
};
DeviceGraphs device_graphs(const Model& model, const EngineOptions& options);

class Engine {
 public:
  // `parameters` holds the model's parameters by name and must outlive the engine.
  Engine(Backend& backend, const Model& model, const BufferSet& parameters, EngineOptions options = {});
  ~Engine();

  // Called with every token as it is chosen (the stop token is not); returns false to end the request.
  using TokenCallback = std::function<bool(const GeneratedToken&)>;

  // Queues a request; returns its number. Throws invalid_argument for an empty prompt, an id outside the
  // vocabulary, or prompt + max_tokens beyond the context (saying how long it was).
  int64_t submit(GenerationRequest request, TokenCallback on_token = {});
  // One forward pass over what is running; false when nothing is left to do.
  bool step();
  // The result of a finished request, once.
  GenerationResult take(int64_t request);

  // All requests, to the end; results in their order.
  std::vector<GenerationResult> generate(std::vector<GenerationRequest> requests);

  int64_t context_length() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vertebra
