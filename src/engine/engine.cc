#include "engine/engine.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>

#include "engine/sampling_graph.h"
#include "engine/serving_graph.h"
#include "engine/speculate.h"
#include "models/sharding.h"

namespace vertebra {
namespace {

// A request on its way: `cached` tokens of `tokens` are in the cache; the rest is fed next.
struct Sequence {
  int64_t number = 0;
  GenerationRequest request;
  Engine::TokenCallback on_token;
  Sampler sampler;
  PromptLookup lookup;
  std::vector<int32_t> tokens;  // prompt and answer
  int64_t cached = 0;
  int slot = -1;  // row of the page table
  std::vector<int32_t> pages;
  GenerationResult result;

  bool decodes() const { return static_cast<int64_t>(tokens.size()) - cached == 1; }
};

// A sequence whose next tokens a step chooses: one row of logits for the one after its text, then one for
// each token tried.
struct Choosing {
  Sequence* sequence = nullptr;
  std::vector<int32_t> draft;
};

Graph sampling_graph(const Model& model, const ServingShape& shape) {
  return build_sampling(
      serving::kLogits,
      {DType::kF32, {Dim(shape.sampled, serving::kSampledSymbol), model.shape().vocabulary}});
}

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::string_view stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kStopToken:
      return "end_turn";
    case StopReason::kMaxTokens:
      return "max_tokens";
    case StopReason::kCancelled:
      return "cancelled";
  }
  return "";
}

ServingShape serving_shape(const Model& model, const EngineOptions& options) {
  const int64_t longest = model.shape().context_length;
  const int64_t context = options.context_length == 0 ? longest : options.context_length;
  require(context >= 2 && context <= longest, "a context of {} tokens was asked for; the model has {}",
          context, longest);
  require(
      options.max_requests >= 1 && options.tokens_per_step >= options.max_requests && options.page_size >= 1,
      "the engine needs at least one request, as many tokens a step as requests, and pages of at least "
      "one token");
  require(options.draft_tokens >= 0, "draft_tokens is {}, 0 or more was wanted", options.draft_tokens);
  constexpr DType kCaches[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kQ8_0};
  require(std::find(std::begin(kCaches), std::end(kCaches), options.cache) != std::end(kCaches),
          "keys and values cannot be kept as {}; f32, bf16, f16 and q8_0 are known",
          dtype_name(options.cache));
  ServingShape shape;
  shape.tokens = options.tokens_per_step;
  shape.requests = options.max_requests;
  shape.sampled = std::min(shape.tokens, options.max_requests * (1 + options.draft_tokens));
  shape.page_size = options.page_size;
  shape.pages_per_request = ceil_divide(context, options.page_size);
  shape.pages = shape.pages_per_request * options.max_requests;
  shape.context_length = context;
  shape.compute = options.compute;
  shape.cache = options.cache;
  return shape;
}

DeviceGraphs device_graphs(const Model& model, const EngineOptions& options) {
  ServingShape shape = serving_shape(model, options);
  shape.choose_on_device = true;
  return {build_serving_step(model, shape), sampling_graph(model, shape)};
}

struct Engine::Impl {
  Backend& backend;
  const Model& model;
  BufferSet buffers;  // the step's inputs, the cache, the logits
  EngineOptions options;
  ServingShape shape;
  std::optional<BoundExecutable> executable;

  int64_t next_number = 0;
  std::deque<std::unique_ptr<Sequence>> waiting;
  std::vector<std::unique_ptr<Sequence>> running;  // in order of submission
  std::map<int64_t, GenerationResult> finished;
  std::vector<int32_t> free_pages;
  std::vector<int> free_slots;
  // Inputs of the step under construction, kept to be filled again without allocating.
  std::vector<int32_t> tokens, positions, requests, sampled, page_table;
  std::vector<Choosing> choosing;
  std::optional<BoundExecutable> sampler;  // chooses at random on the device, once somebody asks
  std::vector<float> sampling_options;

  Impl(Backend& backend_in, const Model& model_in, const BufferSet& parameters, EngineOptions options_in)
      : backend(backend_in),
        model(model_in),
        options(options_in),
        shape(serving_shape(model_in, options_in)) {
    if (options.context_length == 0) options.context_length = model.shape().context_length;
    shape.mesh = backend.mesh();
    shape.choose_on_device = !backend.host_memory();
    check_model_fits(model, shape.mesh);
    for (const ParameterSpec& spec : model.parameters()) {
      const Buffer* buffer = parameters.find(spec.name);
      if (buffer != nullptr && buffer->type().dtype != DType::kF32)
        shape.parameter_types[spec.name] = buffer->type().dtype;
    }
    Graph step = build_serving_step(model, shape);
    // What was tried in vain has gone into a state, which has no position to go back to.
    if (keeps_states(step)) options.draft_tokens = 0;
    executable.emplace(backend, std::move(step), buffers, &parameters);
    for (int64_t i = shape.pages; i-- > 0;) free_pages.push_back(static_cast<int32_t>(i));
    for (int64_t i = shape.requests; i-- > 0;) free_slots.push_back(static_cast<int>(i));
    page_table.assign(static_cast<size_t>(shape.requests * shape.pages_per_request), 0);
  }

  void admit() {
    while (!waiting.empty() && !free_slots.empty()) {
      Sequence& sequence = *waiting.front();
      sequence.slot = free_slots.back();
      free_slots.pop_back();
      running.push_back(std::move(waiting.front()));
      waiting.pop_front();
    }
  }

  void release(Sequence& sequence) {
    free_pages.insert(free_pages.end(), sequence.pages.rbegin(), sequence.pages.rend());
    free_slots.push_back(sequence.slot);
    finished[sequence.number] = std::move(sequence.result);
  }

  // Puts one token of a sequence into the step.
  void put(Sequence& sequence, int32_t token, int64_t position) {
    if (position / shape.page_size == static_cast<int64_t>(sequence.pages.size())) {
      VERTEBRA_CHECK(!free_pages.empty(),
                     "the cache ran out of pages that every running request has its share of");
      page_table[static_cast<size_t>(sequence.slot * shape.pages_per_request + position / shape.page_size)] =
          free_pages.back();
      sequence.pages.push_back(free_pages.back());
      free_pages.pop_back();
    }
    tokens.push_back(token);
    positions.push_back(static_cast<int32_t>(position));
    requests.push_back(sequence.slot);
  }

  // Feeds the next `count` tokens of a sequence.
  void feed(Sequence& sequence, int64_t count) {
    for (int64_t i = 0; i < count; ++i, ++sequence.cached)
      put(sequence, sequence.tokens[static_cast<size_t>(sequence.cached)], sequence.cached);
    if (sequence.cached == static_cast<int64_t>(sequence.tokens.size())) {
      sampled.push_back(static_cast<int32_t>(tokens.size()) - 1);
      choosing.push_back({&sequence, {}});
    }
  }

  // Feeds the last token of an answer, and what may follow it, `most` tokens in all.
  void feed_answer(Sequence& sequence, int64_t most) {
    feed(sequence, 1);
    // The token after the last right one is chosen as well: one less than may still come.
    const int64_t missing = sequence.request.max_tokens - static_cast<int64_t>(sequence.result.tokens.size());
    const auto draft = sequence.lookup.draft(sequence.tokens);
    const auto count = static_cast<size_t>(
        std::clamp<int64_t>(std::min(most, missing) - 1, 0, static_cast<int64_t>(draft.size())));
    choosing.back().draft.assign(draft.begin(), draft.begin() + static_cast<std::ptrdiff_t>(count));
    for (size_t i = 0; i < count; ++i) {
      put(sequence, draft[i], sequence.cached + static_cast<int64_t>(i));
      sampled.push_back(static_cast<int32_t>(tokens.size()) - 1);
    }
  }

  void fill_step() {
    tokens.clear();
    positions.clear();
    requests.clear();
    sampled.clear();
    choosing.clear();
    // Answers go on first, one token each and what may follow; what is left of the step is for prompts, the
    // oldest first. While prompts wait, nothing is tried at their cost.
    int64_t answers = 0, prompts = 0;
    for (const auto& sequence : running) (sequence->decodes() ? answers : prompts) += 1;
    int64_t left = shape.tokens;
    for (const auto& sequence : running) {
      if (!sequence->decodes()) continue;
      const auto before = static_cast<int64_t>(tokens.size());
      feed_answer(*sequence, prompts > 0 ? 1 : left - (--answers));
      left -= static_cast<int64_t>(tokens.size()) - before;
    }
    for (const auto& sequence : running) {
      const int64_t missing = static_cast<int64_t>(sequence->tokens.size()) - sequence->cached;
      const int64_t count = std::min(missing, left);
      if (count > 0) feed(*sequence, count);
      left -= std::max<int64_t>(0, count);
    }
  }

  void upload(const char* name, const std::vector<int32_t>& values, Shape tensor_shape) {
    buffers.at(name).copy_from(Tensor::view({DType::kI32, tensor_shape}, values.data(), nullptr));
  }

  void run_forward() {
    const auto n = static_cast<int64_t>(tokens.size());
    upload(serving::kTokens, tokens, {n});
    upload(serving::kPositions, positions, {n});
    upload(serving::kRequests, requests, {n});
    if (sampled.empty()) sampled.push_back(0);  // a step of prompts only still has one row of logits, unread
    upload(serving::kSampledRows, sampled, {static_cast<int64_t>(sampled.size())});
    upload(serving::kPageTable, page_table, {shape.requests, shape.pages_per_request});
    executable->run();
  }

  // What the Sampler alone knows: it looks at the text before, or lists alternatives.
  static bool needs_logits(const Sequence& sequence) {
    return sequence.request.sampling.repetition_penalty != 1 || sequence.request.top_log_probabilities > 0;
  }

  // Fills the device's tokens with choices at random; those of the step itself are the likeliest.
  void sample_on_device() {
    if (!sampler) sampler.emplace(backend, sampling_graph(model, shape), buffers);
    const auto upload_option = [&](const char* name, auto value_of) {
      sampling_options.clear();
      for (const Choosing& each : choosing) {
        for (size_t i = 0; i <= each.draft.size(); ++i)
          sampling_options.push_back(static_cast<float>(value_of(
              each.sequence->request.sampling, static_cast<int64_t>(each.sequence->tokens.size() + i))));
      }
      buffers.at(name).copy_from(Tensor::view({DType::kF32, {static_cast<int64_t>(sampling_options.size())}},
                                              sampling_options.data(), nullptr));
    };
    upload_option(sampling::kTemperature, [](const SamplingOptions& o, int64_t) { return o.temperature; });
    upload_option(sampling::kTopK, [](const SamplingOptions& o, int64_t) { return o.top_k; });
    upload_option(sampling::kTopP, [](const SamplingOptions& o, int64_t) { return o.top_p; });
    upload_option(sampling::kMinP, [](const SamplingOptions& o, int64_t) { return o.min_p; });
    upload_option(sampling::kUniform, [](const SamplingOptions& o, int64_t position) {
      return sampling_uniform(o.seed, position);
    });
    sampler->run();
  }

  // What the rows of a step say: logits where the host needs them, else what the device chose.
  struct Rows {
    Tensor logits, tokens, log_probabilities;
  };
  Rows read_rows() {
    Rows out;
    const auto asks = [&](auto predicate) {
      return std::any_of(choosing.begin(), choosing.end(),
                         [&](const Choosing& each) { return predicate(*each.sequence); });
    };
    if (!shape.choose_on_device || asks(needs_logits)) out.logits = buffers.at(serving::kLogits).to_host();
    if (shape.choose_on_device) {
      if (asks([](const Sequence& each) {
            return each.request.sampling.temperature > 0 && !needs_logits(each);
          }))
        sample_on_device();
      out.tokens = buffers.at(sampling::kToken).to_host();
      out.log_probabilities = buffers.at(sampling::kLogProbability).to_host();
    }
    return out;
  }

  SampledToken choose(Sequence& sequence, const Rows& rows, size_t row) {
    if (shape.choose_on_device && !needs_logits(sequence))
      return {rows.tokens.data<int32_t>()[row], rows.log_probabilities.data<float>()[row]};
    return sequence.sampler.sample(row_of(rows.logits, row), sequence.tokens,
                                   static_cast<int64_t>(sequence.tokens.size()));
  }

  // Adds tokens to a sequence from `row` on, as long as what was tried is what is chosen; true when it has
  // ended.
  bool advance_all(Choosing& choosing_now, const Rows& rows, size_t row) {
    Sequence& sequence = *choosing_now.sequence;
    const auto& draft = choosing_now.draft;
    size_t right = 0;
    bool ended = false;
    for (;; ++right) {
      const SampledToken choice = choose(sequence, rows, row + right);
      ended = advance(sequence, choice, row_of(rows.logits, row + right));
      if (ended || right == draft.size() || choice.id != draft[right]) break;
    }
    sequence.cached += static_cast<int64_t>(right);
    sequence.result.drafted += static_cast<int64_t>(draft.size());
    sequence.result.accepted += static_cast<int64_t>(right);
    if (!draft.empty())
      sequence.lookup.report(static_cast<int64_t>(draft.size()), static_cast<int64_t>(right));
    return ended;
  }

  std::span<const float> row_of(const Tensor& logits, size_t row) const {
    const auto V = static_cast<size_t>(model.shape().vocabulary);
    return logits.defined() ? logits.data<float>().subspan(row * V, V) : std::span<const float>();
  }

  // Adds the chosen token to a sequence; true when the sequence has ended.
  bool advance(Sequence& sequence, const SampledToken& choice, std::span<const float> logits) {
    GenerationResult& result = sequence.result;
    result.log_probability += choice.log_probability;
    const auto& stops = sequence.request.stop_tokens;
    if (std::find(stops.begin(), stops.end(), choice.id) != stops.end()) {
      result.stop_reason = StopReason::kStopToken;
      return true;
    }
    GeneratedToken token{choice.id, choice.log_probability, {}};
    if (sequence.request.top_log_probabilities > 0) {
      token.top = likeliest_tokens(logits, sequence.request.top_log_probabilities);
    }
    sequence.tokens.push_back(choice.id);
    result.tokens.push_back(token);
    if (sequence.on_token && !sequence.on_token(token)) {
      result.stop_reason = StopReason::kCancelled;
      return true;
    }
    return static_cast<int64_t>(result.tokens.size()) >= sequence.request.max_tokens;
  }
};

Engine::Engine(Backend& backend, const Model& model, const BufferSet& parameters, EngineOptions options)
    : impl_(std::make_unique<Impl>(backend, model, parameters, options)) {}

Engine::~Engine() = default;

int64_t Engine::context_length() const { return impl_->options.context_length; }

int64_t Engine::submit(GenerationRequest request, TokenCallback on_token) {
  Impl& e = *impl_;
  const auto length = static_cast<int64_t>(request.prompt.size());
  require(length > 0, "the prompt has no tokens; at least one is needed");
  for (const int32_t id : request.prompt) {
    require(id >= 0 && id < e.model.shape().vocabulary,
            "token {} of the prompt lies outside the vocabulary of {}", id, e.model.shape().vocabulary);
  }
  require(request.max_tokens >= 1, "max_tokens is {}, at least 1 was wanted", request.max_tokens);
  const uint64_t in_all = static_cast<uint64_t>(length) + static_cast<uint64_t>(request.max_tokens);
  require(in_all <= static_cast<uint64_t>(e.options.context_length), Code::kOutOfRange,
          "the prompt has {} tokens and {} more are to be generated: {} in all, but the context holds {}",
          length, request.max_tokens, in_all, e.options.context_length);
  const SamplingOptions sampling = request.sampling;
  auto sequence = std::make_unique<Sequence>(Sequence{e.next_number++,
                                                      std::move(request),
                                                      std::move(on_token),
                                                      Sampler(sampling),
                                                      PromptLookup(e.options.draft_tokens),
                                                      {},
                                                      0,
                                                      -1,
                                                      {},
                                                      {}});
  sequence->tokens = sequence->request.prompt;
  sequence->result.prompt_tokens = length;
  e.waiting.push_back(std::move(sequence));
  return e.next_number - 1;
}

bool Engine::step() {
  Impl& e = *impl_;
  e.admit();
  if (e.running.empty()) return false;
  e.fill_step();
  e.run_forward();
  if (!e.choosing.empty()) {
    const Impl::Rows rows = e.read_rows();
    size_t row = 0;
    for (Choosing& each : e.choosing) {
      const size_t first = row;
      row += 1 + each.draft.size();
      if (!e.advance_all(each, rows, first)) continue;
      e.release(*each.sequence);
      std::erase_if(e.running, [&](const auto& one) { return one.get() == each.sequence; });
    }
  }
  return true;
}

GenerationResult Engine::take(int64_t request) {
  const auto it = impl_->finished.find(request);
  require(it != impl_->finished.end(), Code::kNotFound, "request {} is unknown or not finished", request);
  GenerationResult out = std::move(it->second);
  impl_->finished.erase(it);
  return out;
}

std::vector<GenerationResult> Engine::generate(std::vector<GenerationRequest> requests) {
  std::vector<int64_t> numbers;
  for (GenerationRequest& request : requests) numbers.push_back(submit(std::move(request)));
  while (step()) {
  }
  std::vector<GenerationResult> out;
  for (const int64_t number : numbers) out.push_back(take(number));
  return out;
}

}  // namespace vertebra
