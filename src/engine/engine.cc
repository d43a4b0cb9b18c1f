#include "engine/engine.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>

#include "engine/kv_cache.h"
#include "engine/prefill_budget.h"
#include "engine/request_queue.h"
#include "engine/sampling_graph.h"
#include "engine/serving_graph.h"
#include "engine/speculate.h"
#include "models/sharding.h"

namespace vertebra {
namespace {

// A request on its way. What is not cached of `tokens` is fed next.
struct Sequence {
  int64_t number = 0;
  GenerationRequest request;
  Engine::TokenCallback on_token;
  Sampler sampler;
  PromptLookup lookup;
  std::vector<int32_t> tokens = {};  // prompt and answer
  CachedText text = {};
  bool cancelled = false;
  GenerationResult result = {};

  int64_t missing() const { return static_cast<int64_t>(tokens.size()) - text.cached; }
  bool decodes() const { return missing() == 1; }
};

// A sequence whose next tokens a step chooses: one row of logits for the one after its text, then one for
// each token tried.
struct Choosing {
  Sequence* sequence = nullptr;
  std::vector<int32_t> draft;
};

// What a step feeds of a sequence.
struct Feed {
  Sequence* sequence = nullptr;
  int64_t count = 0;           // of its next tokens
  std::vector<int32_t> draft;  // tried after these
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
  require(options.cache_tokens >= 0 && options.max_waiting >= 0 && options.state_snapshots >= 0,
          "cache_tokens, max_waiting and state_snapshots are 0 or more");
  require(options.prefill_stretch == 0 || options.prefill_stretch > 1,
          "prefill_stretch is {}, more than 1 was wanted, or 0 for no bound", options.prefill_stretch);
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
  shape.pages = options.cache_tokens > 0 ? ceil_divide(options.cache_tokens, options.page_size)
                                         : shape.pages_per_request * options.max_requests;
  shape.state_snapshots = options.share_prefixes ? options.state_snapshots : 0;
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
  RequestQueue<std::unique_ptr<Sequence>> waiting;
  std::map<int64_t, std::unique_ptr<Sequence>> set_aside;  // for want of pages, by number
  std::map<int64_t, std::unique_ptr<Sequence>> running;    // by number: the oldest first
  std::map<int64_t, GenerationResult> finished;
  std::optional<KvCache> cache;
  PrefillBudget budget;
  // Inputs of the step under construction, kept to be filled again without allocating.
  std::vector<Feed> feeds;
  std::vector<int32_t> tokens, positions, requests, sampled;
  std::vector<Choosing> choosing;
  std::optional<BoundExecutable> sampler;  // chooses at random on the device, once somebody asks
  std::vector<float> sampling_options;
  std::optional<BoundExecutable> state_copy;

  Impl(Backend& backend_in, const Model& model_in, const BufferSet& parameters, EngineOptions options_in)
      : backend(backend_in),
        model(model_in),
        options(options_in),
        shape(serving_shape(model_in, options_in)),
        budget(options_in.prefill_stretch) {
    if (options.context_length == 0) options.context_length = model.shape().context_length;
    shape.mesh = backend.mesh();
    shape.choose_on_device = !backend.host_memory();
    check_model_fits(model, shape.mesh);
    shape.parameter_types = stored_types(model, parameters);
    Graph step = build_serving_step(model, shape);
    const std::vector<int64_t> windows = windows_of(step);
    KvCache::CopyState copy_state;
    executable.emplace(backend, step, buffers, &parameters);
    if (keeps_states(step)) {
      // What was tried in vain has gone into a state, which has no position to go back to.
      options.draft_tokens = 0;
      if (shape.state_snapshots > 0) state_copy.emplace(backend, build_state_copy(step), buffers);
      copy_state = [this](int64_t from, int64_t to) { copy_states(from, to); };
    }
    cache.emplace(shape, windows, options.share_prefixes, std::move(copy_state));
  }

  void copy_states(int64_t from, int64_t to) {
    upload(serving::kCopyFrom, {static_cast<int32_t>(from)}, {1});
    upload(serving::kCopyTo, {static_cast<int32_t>(to)}, {});
    state_copy->run();
  }

  void admit() {
    const auto start = [&](std::unique_ptr<Sequence>& sequence) {
      return cache->admit(sequence->text, static_cast<int64_t>(sequence->tokens.size()) + 1);
    };
    // Those set aside come first: they have waited and begun.
    while (!set_aside.empty() && start(set_aside.begin()->second))
      running.insert(set_aside.extract(set_aside.begin()));
    while (set_aside.empty() && !waiting.empty() && start(waiting.front())) {
      std::unique_ptr<Sequence> next = waiting.pop();
      running.emplace(next->number, std::move(next));
    }
  }

  // The result stays until it is taken.
  void finish(std::unique_ptr<Sequence> sequence) {
    if (sequence->text.slot >= 0) cache->release(sequence->text);
    if (sequence->cancelled) sequence->result.stop_reason = StopReason::kCancelled;
    finished[sequence->number] = std::move(sequence->result);
  }

  void sweep_cancelled() {
    const auto is_cancelled = [](const auto& each) { return each->cancelled; };
    waiting.remove_if(is_cancelled, [&](auto sequence) { finish(std::move(sequence)); });
    for (auto* const group : {&running, &set_aside}) {
      for (auto it = group->begin(); it != group->end();) {
        if (is_cancelled(it->second)) finish(std::move(it->second));
        it = it->second == nullptr ? group->erase(it) : std::next(it);
      }
    }
  }

  // Pages for the first `length` tokens of a running sequence. When there are too few, the youngest one gives
  // its pages back, to be computed again later; false when that is the sequence itself.
  bool make_room(Sequence& sequence, int64_t length) {
    while (!cache->reserve(sequence.text, length)) {
      const auto youngest = std::prev(running.end());
      Sequence* const victim = youngest->second.get();
      VERTEBRA_CHECK(running.size() > 1, "the cache has no room for a single request that submit has let in");
      std::erase_if(feeds, [&](const Feed& feed) { return feed.sequence == victim; });
      cache->release(victim->text);
      ++victim->result.preemptions;
      set_aside.insert(running.extract(youngest));
      if (victim == &sequence) return false;
    }
    return true;
  }

  // The last token of an answer, and what may follow it, `most` tokens in all.
  void plan_answer(Sequence& sequence, int64_t most) {
    if (!make_room(sequence, sequence.text.cached + 1)) return;
    // The token after the last right one is chosen as well: one less than may still come.
    const int64_t still = sequence.request.max_tokens - static_cast<int64_t>(sequence.result.tokens.size());
    const auto draft = sequence.lookup.draft(sequence.tokens);
    int64_t count = std::clamp<int64_t>(std::min(most, still) - 1, 0, static_cast<int64_t>(draft.size()));
    // Nobody is set aside for what is only tried.
    while (count > 0 && !cache->reserve(sequence.text, sequence.text.cached + 1 + count)) --count;
    feeds.push_back({&sequence, 1, {draft.begin(), draft.begin() + static_cast<std::ptrdiff_t>(count)}});
  }

  // At most `most` tokens of a prompt (or of a text that was set aside); how many they are.
  int64_t plan_prompt(Sequence& sequence, int64_t most) {
    const int64_t before = sequence.text.cached;
    cache->adopt(sequence.text, sequence.tokens);
    if (sequence.result.preemptions == 0)
      sequence.result.cached_prompt_tokens += sequence.text.cached - before;
    int64_t count = std::min(sequence.missing(), most);
    if (cache->wants_borders()) {
      const int64_t border = (sequence.text.cached + count) / cache->page_size() * cache->page_size();
      if (border > sequence.text.cached) count = border - sequence.text.cached;
    }
    if (count <= 0 || !make_room(sequence, sequence.text.cached + count)) return 0;
    feeds.push_back({&sequence, count, {}});
    return count;
  }

  // Answers go on first, one token each and what may follow; what is left of the step is for prompts, the
  // oldest first. While prompts wait, nothing is tried at their cost.
  void plan_step() {
    feeds.clear();
    std::vector<Sequence*> answers, prompts;
    for (const auto& [number, sequence] : running)
      (sequence->decodes() && sequence->text.cached > 0 ? answers : prompts).push_back(sequence.get());
    const auto is_running = [&](const Sequence* sequence) { return sequence->text.slot >= 0; };
    int64_t left = shape.tokens;
    auto others = static_cast<int64_t>(answers.size());
    for (Sequence* const sequence : answers) {
      --others;
      if (!is_running(sequence)) continue;
      plan_answer(*sequence, prompts.empty() ? left - others : 1);
      left = shape.tokens;
      for (const Feed& feed : feeds) left -= feed.count + static_cast<int64_t>(feed.draft.size());
    }
    if (!feeds.empty() && !prompts.empty() && options.prefill_stretch > 0) {
      left = std::min(
          left, budget.tokens(static_cast<int64_t>(feeds.size()), static_cast<int64_t>(prompts.size())));
    }
    for (Sequence* const sequence : prompts) {
      if (left > 0 && is_running(sequence)) left -= plan_prompt(*sequence, left);
    }
  }

  // The step's inputs.
  void fill_step() {
    tokens.clear();
    positions.clear();
    requests.clear();
    sampled.clear();
    choosing.clear();
    for (Feed& feed : feeds) {
      Sequence& sequence = *feed.sequence;
      const auto first = sequence.tokens.begin() + static_cast<std::ptrdiff_t>(sequence.text.cached);
      tokens.insert(tokens.end(), first, first + static_cast<std::ptrdiff_t>(feed.count));
      tokens.insert(tokens.end(), feed.draft.begin(), feed.draft.end());
      const auto rows = feed.count + static_cast<int64_t>(feed.draft.size());
      for (int64_t i = 0; i < rows; ++i) {
        positions.push_back(static_cast<int32_t>(sequence.text.cached + i));
        requests.push_back(sequence.text.slot);
      }
      if (feed.count < sequence.missing()) continue;
      for (auto row = static_cast<int32_t>(tokens.size() - feed.draft.size()) - 1;
           row < static_cast<int32_t>(tokens.size()); ++row)
        sampled.push_back(row);
      choosing.push_back({&sequence, std::move(feed.draft)});
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
    for (const KvCache::Table& table : cache->tables())
      upload(fmt::format("{}{}", serving::kPageTable, table.window).c_str(), table.entries,
             {shape.requests, shape.pages_per_request});
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

  // The forward pass of what was planned, and what follows from it.
  void run_step() {
    const auto start = std::chrono::steady_clock::now();
    run_forward();
    Rows rows;
    if (!choosing.empty()) rows = read_rows();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    int64_t answers = 0, prompt_tokens = 0;
    for (const Feed& feed : feeds) {
      const bool answer = feed.count == 1 && feed.sequence->text.cached > 0;
      (answer ? answers : prompt_tokens) += feed.count;
    }
    budget.record(prompt_tokens, answers, seconds.count());
    // First everything that the step has computed is settled: callbacks may say that they want no more.
    for (const Feed& feed : feeds)
      cache->advance(feed.sequence->text, feed.sequence->tokens, feed.sequence->text.cached + feed.count);
    size_t row = 0;
    for (Choosing& each : choosing) {
      const size_t first = row;
      row += 1 + each.draft.size();
      int64_t right = 0;
      const bool ended = advance_all(each, rows, first, right);
      Sequence& sequence = *each.sequence;
      cache->advance(sequence.text, sequence.tokens, sequence.text.cached + right);
      if (ended) finish(std::move(running.extract(sequence.number).mapped()));
    }
  }

  // Adds tokens to a sequence from `row` on, as long as what was tried is what is chosen, and counts these;
  // true when it has ended.
  bool advance_all(Choosing& choosing_now, const Rows& rows, size_t row, int64_t& right_tokens) {
    Sequence& sequence = *choosing_now.sequence;
    const auto& draft = choosing_now.draft;
    size_t right = 0;
    bool ended = false;
    for (;; ++right) {
      const SampledToken choice = choose(sequence, rows, row + right);
      ended = advance(sequence, choice, row_of(rows.logits, row + right));
      if (ended || right == draft.size() || choice.id != draft[right]) break;
    }
    right_tokens = static_cast<int64_t>(right);
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
  require(
      static_cast<int64_t>(in_all) <= e.cache->longest(), Code::kOutOfRange,
      "the prompt has {} tokens and {} more are to be generated, but the cache holds {}: raise cache_tokens",
      length, request.max_tokens, e.cache->longest());
  require(e.options.max_waiting == 0 || e.waiting.size() < e.options.max_waiting, Code::kResourceExhausted,
          "{} requests are waiting, which is the most: try again later", e.waiting.size());
  const SamplingOptions sampling = request.sampling;
  auto sequence =
      std::make_unique<Sequence>(Sequence{e.next_number, std::move(request), std::move(on_token),
                                          Sampler(sampling), PromptLookup(e.options.draft_tokens)});
  sequence->tokens = sequence->request.prompt;
  sequence->text.scope = sequence->request.cache_scope;
  sequence->result.prompt_tokens = length;
  const std::string client = sequence->request.client;
  e.waiting.push(client, std::move(sequence));
  return e.next_number++;
}

bool Engine::step() {
  Impl& e = *impl_;
  e.sweep_cancelled();
  e.admit();
  if (e.running.empty()) return false;
  e.plan_step();
  e.fill_step();
  e.run_step();
  return true;
}

bool Engine::cancel(int64_t request) {
  Impl& e = *impl_;
  bool found = false;
  const auto mark = [&](const std::unique_ptr<Sequence>& sequence) {
    if (sequence->number == request) sequence->cancelled = found = true;
  };
  for (const auto* const group : {&e.running, &e.set_aside})
    if (const auto it = group->find(request); it != group->end()) mark(it->second);
  e.waiting.for_each(mark);
  return found;
}

int64_t Engine::running() const { return static_cast<int64_t>(impl_->running.size()); }
int64_t Engine::waiting() const {
  return impl_->waiting.size() + static_cast<int64_t>(impl_->set_aside.size());
}
void Engine::forget_prefixes() { impl_->cache->forget(); }

bool Engine::finished(int64_t request) const { return impl_->finished.contains(request); }

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
