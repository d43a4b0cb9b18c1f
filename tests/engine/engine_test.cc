// The engine's promises: decoding from the cache gives the bits of the whole forward pass, whatever else
// runs, however prompts are cut and pages sized; requests end as they asked to.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"
#include "tests/engine/same_result.h"
#include "tests/engine/tiny_model.h"
#include "tests/models/dense_graph.h"
#include "train/train_graph.h"

namespace vertebra {
namespace {

struct Precision {
  const char* type;
  DType compute;
};

GenerationRequest request_of(std::vector<int32_t> prompt, int64_t max_tokens, uint64_t seed) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 1;
  request.sampling.seed = seed;
  request.top_log_probabilities = kTinyVocabulary;  // the whole distribution: every logit counts
  return request;
}

class EngineBits : public ::testing::TestWithParam<Precision> {
 protected:
  GenerationResult alone(const GenerationRequest& request, EngineOptions options) {
    options.compute = GetParam().compute;
    Engine engine(*backend_, *tiny_.model, tiny_.parameters, options);
    return engine.generate({request})[0];
  }

  ThreadTeam team_{2};
  std::unique_ptr<Backend> backend_ = make_cpu_backend({.team = &team_, .isa = {}});
  TinyModel tiny_{*backend_, GetParam().type};
};

TEST_P(EngineBits, CachedDecodingIsTheWholeForwardPass) {
  for (const int64_t length : {1, 61, 130}) {
    const GenerationRequest request = request_of(tiny_prompt(1, length), 40, 5);
    const GenerationResult result = alone(request, {});
    std::vector<int32_t> tokens = request.prompt;
    for (const int32_t id : ids_of(result)) tokens.push_back(id);
    const Tensor logits = dense_logits(*backend_, *tiny_.model, tiny_.parameters, tokens, GetParam().compute);
    const auto all = logits.data<float>();
    for (size_t i = 0; i < result.tokens.size(); ++i) {
      const size_t row = static_cast<size_t>(length) - 1 + i;
      const auto wanted =
          likeliest_tokens(all.subspan(row * kTinyVocabulary, kTinyVocabulary), kTinyVocabulary);
      ASSERT_EQ(result.tokens[i].top.size(), wanted.size());
      for (size_t j = 0; j < wanted.size(); ++j) {
        ASSERT_EQ(result.tokens[i].top[j].id, wanted[j].id) << "row " << row << ", place " << j;
        ASSERT_EQ(result.tokens[i].top[j].log_probability, wanted[j].log_probability)
            << "row " << row << ", place " << j;
      }
    }
  }
}

TEST_P(EngineBits, LogProbabilitiesAreTheLossesOfTraining) {
  const GenerationRequest request = request_of(tiny_prompt(2, 20), 40, 6);
  const GenerationResult result = alone(request, {});
  std::vector<int32_t> tokens = request.prompt;
  for (const int32_t id : ids_of(result)) tokens.push_back(id);
  const auto length = static_cast<int64_t>(tokens.size());
  std::vector<int32_t> labels(tokens.begin() + 1, tokens.end()), positions, segments(tokens.size(), 0);
  labels.push_back(-1);
  for (int32_t i = 0; i < length; ++i) positions.push_back(i);
  BufferSet buffers;
  BoundExecutable executable(*backend_, build_evaluation(*tiny_.model, 1, length, GetParam().compute),
                             buffers, &tiny_.parameters);
  const std::pair<const char*, const std::vector<int32_t>*> batch[] = {{inputs::kTokens, &tokens},
                                                                       {inputs::kLabels, &labels},
                                                                       {inputs::kSegments, &segments},
                                                                       {inputs::kPositions, &positions}};
  for (const auto& [name, values] : batch)
    if (Buffer* buffer = buffers.find(name)) buffer->copy_from(Tensor::from<int32_t>({1, length}, *values));
  executable.run();
  const Tensor losses = buffers.at(outputs::kTokenLoss).to_host();
  double sum = 0;
  for (size_t i = 0; i < result.tokens.size(); ++i) {
    const double loss = losses.at(static_cast<int64_t>(19 + i));
    EXPECT_NEAR(result.tokens[i].log_probability, -loss, 1e-5 * (1 + loss)) << "token " << i;
    sum += result.tokens[i].log_probability;
  }
  EXPECT_DOUBLE_EQ(result.log_probability, sum);
}

TEST_P(EngineBits, ARequestAloneIsTheSameAmongOthers) {
  std::vector<GenerationRequest> all;
  const int64_t lengths[] = {70, 1, 3, 129, 64, 17, 33, 100};
  for (int i = 0; i < 8; ++i) all.push_back(request_of(tiny_prompt(i, lengths[i]), 20 + 5 * i, 40u + i));
  Engine engine(*backend_, *tiny_.model, tiny_.parameters,
                {.max_requests = 8, .tokens_per_step = 96, .page_size = 16, .compute = GetParam().compute});
  const std::vector<GenerationResult> together = engine.generate(all);
  for (size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same_bits(together[i], alone(all[i], {.page_size = 16}));
  }
  // The same engine, whose pages and slots have been used before, and fewer slots than requests.
  for (size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same_bits(engine.generate({all[i]})[0], together[i]);
  }
  Engine crowded(*backend_, *tiny_.model, tiny_.parameters,
                 {.max_requests = 3, .tokens_per_step = 32, .page_size = 16, .compute = GetParam().compute});
  const std::vector<GenerationResult> queued = crowded.generate(all);
  for (size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same_bits(queued[i], together[i]);
  }
}

TEST_P(EngineBits, ChunksAndPagesOfAnySizeGiveTheSameBits) {
  const GenerationRequest request = request_of(tiny_prompt(3, 131), 30, 9);
  const GenerationResult wanted = alone(request, {});
  for (const int64_t tokens_per_step : {1, 7, 8, 64, 130, 192}) {
    for (const int64_t page_size : {1, 5, 16, 64, 100, 192}) {
      SCOPED_TRACE(fmt::format("{} tokens a step, pages of {}", tokens_per_step, page_size));
      expect_same_bits(
          alone(request, {.max_requests = 1, .tokens_per_step = tokens_per_step, .page_size = page_size}),
          wanted);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(EngineBits, AnyNumberOfThreadsGivesTheSameBits) {
  const GenerationRequest request = request_of(tiny_prompt(4, 75), 20, 3);
  const GenerationResult wanted = alone(request, {});
  for (const int threads : {1, 3, 4}) {
    SCOPED_TRACE(threads);
    ThreadTeam team(threads);
    const auto backend = make_cpu_backend({.team = &team, .isa = {}});
    const TinyModel tiny(*backend, GetParam().type);
    Engine engine(*backend, *tiny.model, tiny.parameters, {.compute = GetParam().compute});
    expect_same_bits(engine.generate({request})[0], wanted);
  }
}

// Greedy text of a random model soon goes round in circles, which is what prompt lookup finds.
TEST_P(EngineBits, TextIsTheSameWithTokensTriedAhead) {
  std::vector<GenerationRequest> all;
  for (int i = 0; i < 8; ++i) {
    GenerationRequest request =
        request_of(tiny_prompt(i, 5 + 11 * i), 60 + 4 * i, 40u + static_cast<uint64_t>(i));
    if (i % 3 != 2) request.sampling.temperature = 0;
    if (i % 4 == 1) request.sampling.repetition_penalty = 1.05;
    all.push_back(std::move(request));
  }
  Engine plain(*backend_, *tiny_.model, tiny_.parameters, {.page_size = 16, .compute = GetParam().compute});
  std::vector<GenerationResult> wanted = plain.generate(all);
  all[3].stop_tokens = {wanted[3].tokens[40].id};  // ends in the midst of what was tried
  wanted[3] = plain.generate({all[3]})[0];
  const bool states = keeps_states(build_serving_step(*tiny_.model, serving_shape(*tiny_.model, {})));
  for (const int64_t draft_tokens : {1, 3, 8}) {
    SCOPED_TRACE(draft_tokens);
    Engine engine(*backend_, *tiny_.model, tiny_.parameters,
                  {.max_requests = 5,
                   .tokens_per_step = 40,
                   .page_size = 16,
                   .compute = GetParam().compute,
                   .draft_tokens = draft_tokens});
    const std::vector<GenerationResult> found = engine.generate(all);
    int64_t accepted = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      SCOPED_TRACE(i);
      expect_same_bits(found[i], wanted[i]);
      EXPECT_EQ(found[i].stop_reason, wanted[i].stop_reason);
      EXPECT_LE(found[i].accepted, found[i].drafted);
      accepted += found[i].accepted;
    }
    // A draft that was wrong would stay in a state: nothing is tried where layers keep states.
    if (states) {
      EXPECT_EQ(accepted, 0);
    } else {
      EXPECT_GT(accepted, 10);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, EngineBits,
    ::testing::Values(Precision{"llama", DType::kF32}, Precision{"llama", DType::kBF16},
                      Precision{"gpt2", DType::kF32}, Precision{"gpt2", DType::kBF16},
                      Precision{"lfm2", DType::kF32}, Precision{"qwen3_5_text", DType::kF32},
                      Precision{"gemma4_text", DType::kF32}, Precision{"gpt_oss", DType::kF32},
                      Precision{"gpt_oss", DType::kBF16}),
    [](const auto& each) { return fmt::format("{}_{}", each.param.type, dtype_name(each.param.compute)); });

class EngineTest : public ::testing::Test {
 protected:
  Engine make(EngineOptions options = {}) {
    return Engine(*backend_, *tiny_.model, tiny_.parameters, options);
  }
  static void expect_refused(Engine& engine, GenerationRequest request, const std::string& word) {
    try {
      engine.submit(std::move(request));
      FAIL() << "was taken; wanted an error about " << word;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  }

  ThreadTeam team_{2};
  std::unique_ptr<Backend> backend_ = make_cpu_backend({.team = &team_, .isa = {}});
  TinyModel tiny_{*backend_, "llama"};
};

TEST_F(EngineTest, ARequestBeyondTheContextIsRefusedWithItsLength) {
  Engine engine = make();
  EXPECT_EQ(engine.context_length(), kTinyContext);
  expect_refused(engine, request_of(tiny_prompt(0, 200), 1, 0), "200 tokens");
  expect_refused(engine, request_of(tiny_prompt(0, 190), 3, 0), "193 in all");
  EXPECT_EQ(engine.generate({request_of(tiny_prompt(0, 190), 2, 0)})[0].tokens.size(), 2u);
  Engine small = make({.context_length = 32});
  expect_refused(small, request_of(tiny_prompt(0, 32), 1, 0), "32");
  EXPECT_THROW(make({.context_length = kTinyContext + 1}), Error);
}

TEST_F(EngineTest, RequestsThatMakeNoSenseAreRefused) {
  Engine engine = make();
  expect_refused(engine, request_of({}, 1, 0), "no tokens");
  expect_refused(engine, request_of({0, kTinyVocabulary}, 1, 0), "301");
  expect_refused(engine, request_of({-1}, 1, 0), "-1");
  expect_refused(engine, request_of({1}, 0, 0), "max_tokens");
  expect_refused(engine, request_of({1}, int64_t{1} << 62, 0), "context");
  expect_refused(engine, request_of({1}, std::numeric_limits<int64_t>::max(), 0), "context");
  GenerationRequest request = request_of({1}, 1, 0);
  request.sampling.top_p = 0;
  expect_refused(engine, request, "top_p");
  request.sampling.top_p = std::nan("");
  expect_refused(engine, request, "top_p");
  EXPECT_FALSE(engine.step());
  EXPECT_THROW(engine.take(0), Error);
}

TEST_F(EngineTest, StopTokensEndTheAnswerAndAreNoPartOfIt) {
  Engine engine = make();
  const GenerationResult whole = engine.generate({request_of(tiny_prompt(5, 9), 30, 2)})[0];
  EXPECT_EQ(whole.stop_reason, StopReason::kMaxTokens);
  EXPECT_EQ(whole.tokens.size(), 30u);
  EXPECT_EQ(whole.prompt_tokens, 9);
  const std::vector<int32_t> ids = ids_of(whole);
  GenerationRequest request = request_of(tiny_prompt(5, 9), 30, 2);
  request.stop_tokens = {ids[12], ids[20]};
  const GenerationResult stopped = engine.generate({request})[0];
  EXPECT_EQ(stopped.stop_reason, StopReason::kStopToken);
  const auto first = static_cast<size_t>(std::find(ids.begin(), ids.end(), ids[12]) - ids.begin());
  const size_t end =
      std::min(first, static_cast<size_t>(std::find(ids.begin(), ids.end(), ids[20]) - ids.begin()));
  EXPECT_EQ(ids_of(stopped),
            std::vector<int32_t>(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(end)));
  double sum = 0;  // the stop token's probability is part of the answer's
  for (size_t i = 0; i <= end; ++i) sum += whole.tokens[i].log_probability;
  EXPECT_DOUBLE_EQ(stopped.log_probability, sum);
}

TEST_F(EngineTest, ACallbackSeesEveryTokenAndMayEndTheRequest) {
  Engine engine = make();
  std::vector<int32_t> seen;
  const int64_t number =
      engine.submit(request_of(tiny_prompt(6, 9), 30, 2), [&](const GeneratedToken& token) {
        seen.push_back(token.id);
        return seen.size() < 7;
      });
  while (engine.step()) {
  }
  const GenerationResult result = engine.take(number);
  EXPECT_EQ(result.stop_reason, StopReason::kCancelled);
  EXPECT_EQ(seen.size(), 7u);
  EXPECT_EQ(ids_of(result), seen);
  EXPECT_THROW(engine.take(number), Error);
}

TEST_F(EngineTest, SeedsDecideAndNothingElse) {
  Engine engine = make();
  std::set<std::vector<int32_t>> texts;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const auto request = request_of(tiny_prompt(7, 12), 16, seed);
    const auto ids = ids_of(engine.generate({request})[0]);
    EXPECT_EQ(ids, ids_of(engine.generate({request})[0])) << "seed " << seed;
    texts.insert(ids);
  }
  EXPECT_EQ(texts.size(), 6u);
}

}  // namespace
}  // namespace vertebra
