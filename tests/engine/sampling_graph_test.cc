// Sampling where the logits are chooses the tokens that the Sampler chooses.
#include "engine/sampling_graph.h"

#include <gtest/gtest.h>

#include <limits>
#include <optional>

#include "backend/buffer_set.h"
#include "backend/cpu/cpu_backend.h"
#include "base/rng.h"
#include "engine/sampler.h"

namespace vertebra {
namespace {

constexpr int64_t kRows = 6, kVocabulary = 301;

Tensor random_logits(uint64_t seed) {
  Tensor out(DType::kF32, {kRows, kVocabulary});
  const Philox random(seed, "logits");
  for (int64_t i = 0; i < out.elements(); ++i) out.set(i, 3 * random.normal(static_cast<uint64_t>(i)));
  return out;
}

class SamplingGraph : public ::testing::Test {
 protected:
  SamplingGraph() : logits_type_{DType::kF32, {Dim(kRows, 3), Dim(kVocabulary)}} {}

  // Tokens and log probabilities of the rows at `position`, one option each.
  std::vector<SampledToken> run(const Tensor& logits, const std::vector<SamplingOptions>& options,
                                int64_t position) {
    const auto rows = static_cast<int64_t>(options.size());
    if (!executable_) executable_.emplace(*backend_, build_sampling("logits", logits_type_), buffers_);
    buffers_.at("logits").copy_from(logits);
    const auto put = [&](const char* name, auto value_of) {
      Tensor values(DType::kF32, {rows});
      for (int64_t i = 0; i < rows; ++i)
        values.set(i, static_cast<double>(value_of(options[static_cast<size_t>(i)])));
      buffers_.at(name).copy_from(values);
    };
    put(sampling::kTemperature, [](const auto& o) { return o.temperature; });
    put(sampling::kTopK, [](const auto& o) { return o.top_k; });
    put(sampling::kTopP, [](const auto& o) { return o.top_p; });
    put(sampling::kMinP, [](const auto& o) { return o.min_p; });
    put(sampling::kUniform, [&](const auto& o) { return sampling_uniform(o.seed, position); });
    executable_->run();
    const Tensor tokens = buffers_.at(sampling::kToken).to_host(),
                 logs = buffers_.at(sampling::kLogProbability).to_host();
    std::vector<SampledToken> out;
    for (int64_t i = 0; i < rows; ++i) out.push_back({static_cast<int32_t>(tokens.at(i)), logs.at(i)});
    return out;
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  TensorType logits_type_;
  BufferSet buffers_;
  std::optional<BoundExecutable> executable_;
};

TEST_F(SamplingGraph, ChoosesWhatTheSamplerChooses) {
  const std::vector<SamplingOptions> options = {
      {},
      {.temperature = 0.8, .seed = 1},
      {.temperature = 1, .top_k = 7, .seed = 2},
      {.temperature = 1.5, .top_p = 0.7, .seed = 3},
      {.temperature = 1, .min_p = 0.1, .seed = 4},
      {.temperature = 2, .top_k = 20, .top_p = 0.9, .min_p = 0.01, .seed = 5}};
  for (int64_t position = 0; position < 60; ++position) {
    const Tensor logits = random_logits(static_cast<uint64_t>(position));
    const auto found = run(logits, options, position);
    for (size_t i = 0; i < options.size(); ++i) {
      const auto row = logits.data<float>().subspan(i * kVocabulary, kVocabulary);
      const SampledToken wanted = Sampler(options[i]).sample(row, {}, position);
      EXPECT_EQ(found[i].id, wanted.id) << "row " << i << ", position " << position;
      EXPECT_NEAR(found[i].log_probability, wanted.log_probability, 1e-4);
    }
  }
}

TEST_F(SamplingGraph, FewerRowsThanTheBoundAndExtremes) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Tensor logits(DType::kF32, {2, kVocabulary});
  for (int64_t i = 0; i < logits.elements(); ++i) logits.set(i, -kInfinity);
  logits.set(17, 3);
  logits.set(kVocabulary + 5, 1e38);
  logits.set(kVocabulary + 9, 1e38);
  const auto found = run(logits, {{.temperature = 1, .top_p = 0.5}, {}}, 0);
  EXPECT_EQ(found[0].id, 17);
  EXPECT_NEAR(found[0].log_probability, 0, 1e-6);
  EXPECT_EQ(found[1].id, 5);  // the lowest id among equals
}

TEST_F(SamplingGraph, TopKOneIsGreedy) {
  Tensor logits = random_logits(7);
  logits.set(200, 50);
  const std::vector<SamplingOptions> options(kRows, {.temperature = 5, .top_k = 1, .seed = 9});
  for (int64_t position = 0; position < 20; ++position) EXPECT_EQ(run(logits, options, position)[0].id, 200);
}

}  // namespace
}  // namespace vertebra
