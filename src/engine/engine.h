// The engine: many requests generating at once, one ragged forward pass a step, keys and values in a
// paged cache whose pages requests with the same beginning share. Which tokens come out depends on the
// request alone: not on its company, on what was cached, or on having been set aside for want of pages. Works
// on token ids; text is assistant.h. Called by chat, generate, evaluation and training samples; one thread at
// a time.
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
  int64_t cache_tokens = 0;   // that pages hold in all (0: max_requests whole contexts). When they run short,
                              // the youngest request is set aside and computed again later
  bool share_prefixes = true;   // a request takes over full pages that others computed for the same beginning
  int64_t state_snapshots = 8;  // of layers that keep states: beginnings that can be taken over
  int64_t max_waiting = 0;      // requests in the queue before submit refuses (0: no bound)
  double prefill_stretch = 2.2;  // a step with prompts and answers takes at most about this many times as
                                 // long as one of answers alone; 0: no matter how long
};

enum class StopReason { kStopToken, kMaxTokens, kCancelled };
std::string_view stop_reason_name(StopReason reason);  // "end_turn", "max_tokens", "cancelled"

struct GenerationRequest {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  std::vector<int32_t> stop_tokens;  // end the answer; not part of it
  int top_log_probabilities = 0;     // alternatives reported with every token
  std::string client;                // clients take turns when requests wait
  std::string cache_scope;           // only requests of the same scope share pages
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
  int64_t cached_prompt_tokens = 0;   // of these, taken over from other requests
  int64_t preemptions = 0;            // how often the request was set aside
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
  // vocabulary, or prompt + max_tokens beyond the context (saying how long it was) or beyond all pages; and
  // resource_exhausted when the queue is full.
  int64_t submit(GenerationRequest request, TokenCallback on_token = {});
  // One forward pass over what is running; false when nothing is left to do.
  bool step();
  // Ends a request: at the next step it is no longer there, and its result says kCancelled. Also from a
  // callback. False when it is unknown or has finished.
  bool cancel(int64_t request);
  // Whether take has a result.
  bool finished(int64_t request) const;
  // The result of a finished request, once.
  GenerationResult take(int64_t request);

  // All requests, to the end; results in their order.
  std::vector<GenerationResult> generate(std::vector<GenerationRequest> requests);

  int64_t context_length() const;
  int64_t running() const;  // requests in slots
  int64_t waiting() const;  // and in the queue
  // No beginning computed so far is taken over: for parameters that have changed.
  void forget_prefixes();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vertebra
