// Requests in each other's company: what they take over of each other's pages, being set aside for want of
// pages, being cancelled, waiting. In all of it a request's text is the one it has alone.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "engine/kv_cache.h"
#include "engine/prefill_budget.h"
#include "engine/request_queue.h"
#include "tests/engine/same_result.h"
#include "tests/engine/tiny_model.h"

namespace vertebra {
namespace {

// `shared` tokens of one of three texts, then some of the request's own; every setting varies.
GenerationRequest mixed_request(int number) {
  const Philox random(3, static_cast<uint64_t>(number));
  GenerationRequest request;
  request.prompt =
      tiny_prompt(static_cast<int>(random.below(0, 3)), static_cast<int64_t>(random.below(1, 90)));
  for (const int32_t id : tiny_prompt(100 + number, 1 + static_cast<int64_t>(random.below(2, 30))))
    request.prompt.push_back(id);
  request.max_tokens = 1 + static_cast<int64_t>(random.below(3, 50));
  request.sampling.temperature = number % 3 == 0 ? 0 : 1;
  request.sampling.seed = static_cast<uint64_t>(number);
  if (number % 5 == 1) request.sampling.repetition_penalty = 1.05;
  if (number % 4 == 2) request.stop_tokens = {7, 11, 13, 17, 19};
  if (number % 4 == 0) request.top_log_probabilities = 5;
  request.client = std::to_string(number % 3);
  return request;
}

class Sharing : public ::testing::TestWithParam<const char*> {
 protected:
  Engine make(EngineOptions options) { return Engine(*backend_, *tiny_.model, tiny_.parameters, options); }

  ThreadTeam team_{2};
  std::unique_ptr<Backend> backend_ = make_cpu_backend({.team = &team_, .isa = {}});
  TinyModel tiny_{*backend_, GetParam()};
};

constexpr EngineOptions kAlone = {.max_requests = 1, .page_size = 16, .share_prefixes = false};

TEST_P(Sharing, APrefixThatIsCachedChangesNoBit) {
  Engine plain = make(kAlone);
  Engine sharing = make({.max_requests = 3, .tokens_per_step = 48, .page_size = 16});
  GenerationRequest request;
  request.prompt = tiny_prompt(1, 100);
  request.max_tokens = 20;
  request.sampling.temperature = 1;
  request.top_log_probabilities = kTinyVocabulary;
  const GenerationResult wanted = plain.generate({request})[0];
  GenerationResult found = sharing.generate({request})[0];
  expect_same_bits(found, wanted);
  EXPECT_EQ(found.cached_prompt_tokens, 0);
  found = sharing.generate({request})[0];
  expect_same_bits(found, wanted);
  EXPECT_EQ(found.cached_prompt_tokens, 96);  // whole pages, and never the last token

  // The next turn of a conversation: the answer's pages are found as well.
  for (const int32_t id : ids_of(wanted)) request.prompt.push_back(id);
  request.prompt.push_back(5);
  found = sharing.generate({request})[0];
  expect_same_bits(found, plain.generate({request})[0]);
  EXPECT_EQ(found.cached_prompt_tokens, 112);

  // Another text from the second page on; another scope; parameters that have changed.
  GenerationRequest other = request;
  other.prompt[20] += 1;
  found = sharing.generate({other})[0];
  expect_same_bits(found, plain.generate({other})[0]);
  EXPECT_LE(found.cached_prompt_tokens, 16);
  other = request;
  other.cache_scope = "someone else's";
  EXPECT_EQ(sharing.generate({other})[0].cached_prompt_tokens, 0);
  sharing.forget_prefixes();
  EXPECT_EQ(sharing.generate({request})[0].cached_prompt_tokens, 0);
}

TEST_P(Sharing, HundredsOfMixedRequestsHaveTheTextTheyHaveAlone) {
  const int requests = std::string_view(GetParam()) == "llama" ? 200 : 50;
  std::vector<GenerationRequest> all;
  for (int i = 0; i < requests; ++i) all.push_back(mixed_request(i));
  Engine plain = make(kAlone);
  std::vector<GenerationResult> wanted;
  for (const GenerationRequest& request : all) wanted.push_back(plain.generate({request})[0]);
  struct Company {
    const char* name;
    EngineOptions options;
    bool preempts;
  };
  const Company companies[] = {
      {"sharing", {.max_requests = 6, .tokens_per_step = 64, .page_size = 16}, false},
      {"not sharing",
       {.max_requests = 6, .tokens_per_step = 64, .page_size = 16, .share_prefixes = false},
       false},
      {"few pages", {.max_requests = 6, .tokens_per_step = 64, .page_size = 16, .cache_tokens = 200}, true},
      {"few pages, drafts",
       {.max_requests = 6, .tokens_per_step = 64, .page_size = 8, .draft_tokens = 6, .cache_tokens = 200},
       true},
      {"few snapshots",
       {.max_requests = 5, .tokens_per_step = 40, .page_size = 4, .draft_tokens = 3, .state_snapshots = 2},
       false}};
  for (const Company& company : companies) {
    SCOPED_TRACE(company.name);
    Engine engine = make(company.options);
    int64_t cached = 0, preemptions = 0;
    const std::vector<GenerationResult> found = engine.generate(all);
    for (size_t i = 0; i < all.size(); ++i) {
      SCOPED_TRACE(i);
      expect_same_bits(found[i], wanted[i]);
      if (HasFatalFailure()) return;
      EXPECT_LT(found[i].cached_prompt_tokens, found[i].prompt_tokens);
      cached += found[i].cached_prompt_tokens;
      preemptions += found[i].preemptions;
    }
    EXPECT_EQ(cached > 0, company.options.share_prefixes);
    EXPECT_EQ(preemptions > 0, company.preempts);
    EXPECT_EQ(engine.running() + engine.waiting(), 0);
  }
}

// Layers with windows hold pages for a whole context only where they see it.
TEST_P(Sharing, LongTextsFitIntoTheWindowsPages) {
  Engine plain = make(kAlone);
  Engine small = make({.max_requests = 2, .tokens_per_step = 16, .page_size = 4});
  std::vector<GenerationRequest> all;
  for (int i = 0; i < 4; ++i) {
    GenerationRequest request;
    request.prompt = tiny_prompt(i / 2, 120);
    request.max_tokens = kTinyContext - 120;
    all.push_back(request);
  }
  const std::vector<GenerationResult> found = small.generate(all);
  for (size_t i = 0; i < all.size(); ++i) expect_same_bits(found[i], plain.generate({all[i]})[0]);
}

INSTANTIATE_TEST_SUITE_P(Models, Sharing,
                         ::testing::Values("llama", "lfm2", "qwen3_5_text", "gemma4_text", "gpt_oss"));

class Company : public ::testing::Test {
 protected:
  Engine make(EngineOptions options) { return Engine(*backend_, *tiny_.model, tiny_.parameters, options); }
  static GenerationRequest request(int number, int64_t length, int64_t max_tokens, std::string client = "") {
    GenerationRequest out;
    out.prompt = tiny_prompt(number, length);
    out.max_tokens = max_tokens;
    out.client = std::move(client);
    return out;
  }

  ThreadTeam team_{2};
  std::unique_ptr<Backend> backend_ = make_cpu_backend({.team = &team_, .isa = {}});
  TinyModel tiny_{*backend_, "llama"};
};

TEST_F(Company, ACancelledRequestIsGoneAtTheNextStep) {
  Engine engine = make({.max_requests = 2, .page_size = 16});
  const int64_t first = engine.submit(request(0, 20, 100)), second = engine.submit(request(1, 20, 30));
  const int64_t third = engine.submit(request(2, 20, 30));
  EXPECT_FALSE(engine.cancel(99));
  for (int i = 0; i < 5; ++i) engine.step();
  EXPECT_EQ(engine.running(), 2);
  EXPECT_EQ(engine.waiting(), 1);
  EXPECT_TRUE(engine.cancel(first));
  engine.step();
  const GenerationResult result = engine.take(first);
  EXPECT_EQ(result.stop_reason, StopReason::kCancelled);
  EXPECT_LT(result.tokens.size(), 10u);
  EXPECT_FALSE(engine.cancel(first));
  EXPECT_EQ(engine.running(), 2);  // the third has its slot
  EXPECT_EQ(engine.waiting(), 0);
  const int64_t fourth = engine.submit(request(3, 20, 30));
  EXPECT_TRUE(engine.cancel(fourth));  // while it waits
  while (engine.step()) {
  }
  EXPECT_EQ(engine.take(fourth).stop_reason, StopReason::kCancelled);
  Engine plain = make(kAlone);
  EXPECT_EQ(ids_of(engine.take(second)), ids_of(plain.generate({request(1, 20, 30)})[0]));
  EXPECT_EQ(ids_of(engine.take(third)), ids_of(plain.generate({request(2, 20, 30)})[0]));
}

TEST_F(Company, ACallbackMayCancelAnotherRequest) {
  Engine engine = make({.max_requests = 3, .page_size = 16});
  const int64_t other = engine.submit(request(0, 20, 100));
  const int64_t one = engine.submit(request(1, 20, 30), [&](const GeneratedToken&) {
    engine.cancel(other);
    return true;
  });
  while (engine.step()) {
  }
  EXPECT_EQ(engine.take(other).stop_reason, StopReason::kCancelled);
  EXPECT_EQ(engine.take(one).tokens.size(), 30u);
}

TEST_F(Company, AFullQueueRefuses) {
  Engine engine = make({.max_requests = 1, .max_waiting = 2});
  engine.submit(request(0, 5, 5));
  engine.step();
  engine.submit(request(1, 5, 5));
  engine.submit(request(2, 5, 5));
  try {
    engine.submit(request(3, 5, 5));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kResourceExhausted);
    EXPECT_NE(std::string(error.what()).find("2 requests are waiting"), std::string::npos) << error.what();
  }
  while (engine.step()) {
  }
  EXPECT_EQ(engine.take(2).tokens.size(), 5u);
}

TEST_F(Company, ARequestThatFindsNoPlaceEvenAloneIsRefused) {
  Engine engine = make({.page_size = 16, .cache_tokens = 64});
  EXPECT_EQ(engine.generate({request(0, 50, 14)})[0].tokens.size(), 14u);
  try {
    engine.submit(request(0, 50, 15));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kOutOfRange);
    EXPECT_NE(std::string(error.what()).find("the cache holds 64"), std::string::npos) << error.what();
  }
}

TEST_F(Company, TheOldestIsNeverSetAside) {
  Engine engine = make({.max_requests = 4, .tokens_per_step = 32, .page_size = 8, .cache_tokens = 160});
  std::vector<GenerationRequest> all;
  for (int i = 0; i < 8; ++i) all.push_back(request(i, 30, 100));
  const std::vector<GenerationResult> found = engine.generate(all);
  Engine plain = make(kAlone);
  EXPECT_EQ(found[0].preemptions, 0);
  int64_t preemptions = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(ids_of(found[i]), ids_of(plain.generate({all[i]})[0])) << i;
    preemptions += found[i].preemptions;
  }
  EXPECT_GT(preemptions, 2);
}

TEST_F(Company, CachesOfOtherTypesHaveTheSameBitsInAnyCompany) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    SCOPED_TRACE(dtype_name(dtype));
    Engine plain = make({.max_requests = 1, .page_size = 16, .cache = dtype, .share_prefixes = false});
    Engine engine = make(
        {.max_requests = 4, .tokens_per_step = 40, .page_size = 16, .cache = dtype, .cache_tokens = 256});
    std::vector<GenerationRequest> all;
    for (int i = 0; i < 12; ++i) all.push_back(mixed_request(i));
    const std::vector<GenerationResult> found = engine.generate(all);
    for (size_t i = 0; i < all.size(); ++i) expect_same_bits(found[i], plain.generate({all[i]})[0]);
  }
  try {
    make({.cache = DType::kQ8_0});
    FAIL() << "heads of 18 are no whole blocks";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("heads of 18"), std::string::npos) << error.what();
  }
  EXPECT_THROW(make({.cache = DType::kQ4_0}), Error);
}

TEST(Q8Cache, HasTheSameBitsInAnyCompany) {
  ThreadTeam team(2);
  const auto backend = make_cpu_backend({.team = &team, .isa = {}});
  const Json sizes = {
      {"depth", 2}, {"embedding", 128}, {"heads", 2}, {"feed_forward", 96}, {"key_value_heads", 1}};
  const auto model = make_model(default_config("llama", sizes, kTinyVocabulary, kTinyContext), "test");
  BufferSet parameters;
  for (const ParameterSpec& spec : model->parameters())
    parameters.set(spec.name, backend->upload(initial_value(spec, 7)));
  Engine plain(*backend, *model, parameters,
               {.max_requests = 1, .tokens_per_step = 7, .cache = DType::kQ8_0, .share_prefixes = false});
  Engine engine(*backend, *model, parameters,
                {.max_requests = 4,
                 .tokens_per_step = 40,
                 .page_size = 16,
                 .cache = DType::kQ8_0,
                 .cache_tokens = 256});
  std::vector<GenerationRequest> all;
  for (int i = 0; i < 24; ++i) all.push_back(mixed_request(i));
  const std::vector<GenerationResult> found = engine.generate(all);
  for (size_t i = 0; i < all.size(); ++i) expect_same_bits(found[i], plain.generate({all[i]})[0]);
}

// ---- The parts ---------------------------------------------------------------------------------------

TEST(PagePool, TakesWhatWasNotUsedForLongest) {
  PagePool pool(3);
  const std::vector<int32_t> text = {1, 2};
  const PageKey a = first_page_key("", text), b = next_page_key(a, text), c = next_page_key(b, text);
  EXPECT_NE(a, first_page_key("scope", text));
  EXPECT_NE(a, b);
  for (const PageKey& key : {a, b, c}) {
    const int32_t page = pool.take();
    pool.publish(page, key);
    pool.release(page);
  }
  EXPECT_EQ(pool.available(), 3);
  pool.hold(pool.find(a));  // used once more
  pool.release(pool.find(a));
  const int32_t taken = pool.take();
  EXPECT_EQ(pool.find(b), -1);
  EXPECT_GE(pool.find(a), 0);
  EXPECT_GE(pool.find(c), 0);
  pool.release(taken);
  EXPECT_EQ(pool.take(), taken);  // what holds nothing goes first
  pool.hold(pool.find(a));
  pool.hold(pool.find(a));
  pool.hold(pool.find(c));
  EXPECT_EQ(pool.take(), -1);
  pool.release(pool.find(a));
  EXPECT_EQ(pool.available(), 0);  // one holder is left
  pool.publish(taken, a);
  EXPECT_NE(pool.find(a), taken);  // the first place keeps the key
  pool.forget_all();
  EXPECT_EQ(pool.find(a), -1);
}

TEST(RequestQueue, ClientsTakeTurns) {
  RequestQueue<int> queue;
  for (const int request : {1, 2, 3, 4}) queue.push("many", request);
  queue.push("few", 10);
  queue.push("other", 20);
  std::vector<int> order = {queue.pop(), queue.pop()};
  queue.push("few", 11);
  queue.remove_if([](int request) { return request == 3; }, [](int) {});
  EXPECT_EQ(queue.size(), 4);
  while (!queue.empty()) order.push_back(queue.pop());
  EXPECT_EQ(order, (std::vector<int>{1, 10, 20, 2, 11, 4}));
}

TEST(PrefillBudget, KeepsStepsNearTheStretch) {
  constexpr double kAnswers = 0.015, kToken = 0.0008;
  PrefillBudget budget(2.5);
  std::vector<double> steps;
  for (int i = 0; i < 400; ++i) {
    const int64_t tokens = budget.tokens(7, 1);
    double seconds = kAnswers + kToken * static_cast<double>(tokens);
    if (i % 50 == 40) seconds *= 8;  // another program had the processor
    budget.record(tokens, 7, seconds);
    if (i >= 20 && i % 50 != 40) steps.push_back(seconds);
  }
  EXPECT_LT(*std::max_element(steps.begin(), steps.end()), 3 * kAnswers);
  std::nth_element(steps.begin(), steps.begin() + 100, steps.end());
  EXPECT_GT(steps[100], 2 * kAnswers);  // and no less than it may
  EXPECT_GT(budget.tokens(1, 7), 4 * budget.tokens(7, 1));
}

}  // namespace
}  // namespace vertebra
