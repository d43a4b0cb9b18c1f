// The sampler: each cut keeps what it says, chance is fair and decided by (seed, position) alone.
#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/error.h"

namespace vertebra {
namespace {

using Logits = std::vector<float>;

SampledToken sample(const Logits& logits, const SamplingOptions& options, int64_t position = 0,
                    const std::vector<int32_t>& seen = {}) {
  return Sampler(options).sample(logits, seen, position);
}

// Ids drawn at positions 0 .. count-1, with how often.
std::map<int32_t, int> draw(const Logits& logits, const SamplingOptions& options, int count,
                            const std::vector<int32_t>& seen = {}) {
  std::map<int32_t, int> out;
  Sampler sampler(options);
  for (int i = 0; i < count; ++i) ++out[sampler.sample(logits, seen, i).id];
  return out;
}

std::set<int32_t> drawn(const Logits& logits, const SamplingOptions& options,
                        const std::vector<int32_t>& seen = {}) {
  std::set<int32_t> out;
  for (const auto& [id, times] : draw(logits, options, 2000, seen)) out.insert(id);
  return out;
}

// Logits whose softmax is the given distribution.
Logits logits_of(const std::vector<double>& probabilities) {
  Logits out;
  for (const double p : probabilities) out.push_back(static_cast<float>(std::log(p)));
  return out;
}

TEST(Sampler, GreedyTakesTheLowestIdAmongEquals) {
  EXPECT_EQ(sample({1, 5, 2, 5, 5}, {}).id, 1);
  EXPECT_EQ(sample({0, 0, 0}, {}).id, 0);
  EXPECT_EQ(sample({-3, -2, -2}, {}).id, 1);
}

TEST(Sampler, LogProbabilityIsTheModelsOwn) {
  const Logits logits = logits_of({0.5, 0.2, 0.2, 0.1});
  EXPECT_NEAR(sample(logits, {}).log_probability, std::log(0.5), 1e-6);
  const SampledToken hot = sample(logits, {.temperature = 3, .top_k = 2, .seed = 4});
  EXPECT_NEAR(hot.log_probability, logits[static_cast<size_t>(hot.id)], 1e-6);
  const auto top = likeliest_tokens(logits, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].id, 0);
  EXPECT_EQ(top[1].id, 1);  // equals in the order of their ids
  EXPECT_EQ(top[2].id, 2);
  EXPECT_EQ(likeliest_tokens(logits, 9).size(), 4u);
}

// A vocabulary of a real size, logits from the largest down to where nothing is left of them, and what is
// ruled out altogether.
TEST(Sampler, NormalizesLargeVocabularies) {
  Logits logits;
  double sum = 0;
  for (int i = 0; i < 50'003; ++i) {
    logits.push_back(30 + static_cast<float>(-0.0025 * ((i * 7919) % 50'003)));
    sum += std::exp(static_cast<double>(logits.back()) - 30);
  }
  EXPECT_NEAR(log_sum_exp(logits), 30 + std::log(sum), 1e-6);
  logits[100] = -std::numeric_limits<float>::infinity();
  const auto gone = static_cast<double>(30 - 0.0025f * static_cast<float>(100 * 7919 % 50'003));
  EXPECT_NEAR(log_sum_exp(logits), 30 + std::log(sum - std::exp(gone - 30)), 1e-6);
  EXPECT_EQ(sample(logits, {}).id, 0);
  EXPECT_TRUE(std::isnan(log_sum_exp(Logits(40, std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Sampler, ChanceIsFair) {
  const std::vector<double> wanted = {0.4, 0.3, 0.15, 0.1, 0.05};
  constexpr int kDraws = 20000;
  const auto found = draw(logits_of(wanted), {.temperature = 1, .seed = 12}, kDraws);
  double chi_squared = 0;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double expected = wanted[i] * kDraws;
    const double times = found.contains(static_cast<int32_t>(i)) ? found.at(static_cast<int32_t>(i)) : 0;
    chi_squared += (times - expected) * (times - expected) / expected;
  }
  EXPECT_LT(chi_squared, 18.5);  // 4 degrees of freedom, one in a thousand; the seed is fixed
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  const Logits logits = logits_of({0.8, 0.2});
  // At temperature 1/2 the odds 4 : 1 become 16 : 1; at 2, 2 : 1.
  EXPECT_NEAR(draw(logits, {.temperature = 0.5, .seed = 1}, 20000)[1] / 20000.0, 1.0 / 17, 0.01);
  EXPECT_NEAR(draw(logits, {.temperature = 2, .seed = 1}, 20000)[1] / 20000.0, 1.0 / 3, 0.015);
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  const Logits logits = {1, 3, 2, 3, 0};
  EXPECT_EQ(drawn(logits, {.temperature = 5, .top_k = 1}), (std::set<int32_t>{1}));
  EXPECT_EQ(drawn(logits, {.temperature = 5, .top_k = 3}), (std::set<int32_t>{1, 2, 3}));
  EXPECT_EQ(drawn(logits, {.temperature = 5, .top_k = 99}).size(), 5u);
  EXPECT_EQ(drawn(logits, {.temperature = 5}).size(), 5u);
}

TEST(Sampler, TopPKeepsTheSmallestSetThatIsLargeEnough) {
  const Logits logits = logits_of({0.5, 0.3, 0.15, 0.05});
  EXPECT_EQ(drawn(logits, {.temperature = 1, .top_p = 0.4}), (std::set<int32_t>{0}));
  EXPECT_EQ(drawn(logits, {.temperature = 1, .top_p = 0.51}), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(drawn(logits, {.temperature = 1, .top_p = 0.81}), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(drawn(logits, {.temperature = 1, .top_p = 1e-9}), (std::set<int32_t>{0}));
  EXPECT_EQ(drawn(logits, {.temperature = 1}).size(), 4u);
}

TEST(Sampler, MinPKeepsAShareOfTheLikeliest) {
  const Logits logits = logits_of({0.5, 0.3, 0.15, 0.05});
  EXPECT_EQ(drawn(logits, {.temperature = 1, .min_p = 0.5}), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(drawn(logits, {.temperature = 1, .min_p = 0.2}), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(drawn(logits, {.temperature = 1, .min_p = 0.99}), (std::set<int32_t>{0}));
}

TEST(Sampler, RepetitionPenaltyLowersWhatWasSeen) {
  // Divided when positive, multiplied when negative; once however often a token was seen.
  EXPECT_EQ(sample({4, 3, -1}, {.repetition_penalty = 2}, 0, {0}).id, 1);
  EXPECT_EQ(sample({4, 3, -1}, {.repetition_penalty = 1.2}, 0, {0}).id, 0);
  EXPECT_EQ(sample({-1, -1.5f}, {.repetition_penalty = 2}, 0, {0}).id, 1);
  EXPECT_EQ(sample({4, 1.5f}, {.repetition_penalty = 2}, 0, {0, 0, 0}).id, 0);
  EXPECT_NEAR(sample({4, 3}, {.repetition_penalty = 2}, 0, {0}).log_probability, -1.3132617, 1e-6);
}

TEST(Sampler, SeedAndPositionDecide) {
  const Logits logits(64, 0.0f);
  const SamplingOptions one = {.temperature = 1, .seed = 1}, two = {.temperature = 1, .seed = 2};
  int same_seed = 0, other_seed = 0, next_position = 0;
  for (int64_t i = 0; i < 100; ++i) {
    same_seed += sample(logits, one, i).id == sample(logits, one, i).id;
    other_seed += sample(logits, one, i).id == sample(logits, two, i).id;
    next_position += sample(logits, one, i).id == sample(logits, one, i + 1).id;
  }
  EXPECT_EQ(same_seed, 100);
  EXPECT_LT(other_seed, 15);
  EXPECT_LT(next_position, 15);
}

TEST(Sampler, ExtremeLogitsGiveATokenOfTheVocabulary) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(sample({-kInfinity, 1, -kInfinity}, {.temperature = 1}).id, 1);
  EXPECT_EQ(sample({3e38f, -3e38f}, {.temperature = 1}).id, 0);
  EXPECT_EQ(sample({5, 1}, {.temperature = 1e-30}).id, 0);
  const float nan = std::nanf("");
  for (const SamplingOptions& options :
       {SamplingOptions{}, SamplingOptions{.temperature = 1, .top_p = 0.9}}) {
    const int32_t id = sample({nan, nan, nan}, options).id;
    EXPECT_TRUE(id >= 0 && id < 3) << id;
  }
}

TEST(Sampler, OptionsOutOfRangeAreNamed) {
  const auto refused = [](const SamplingOptions& options, const std::string& name) {
    try {
      const Sampler sampler(options);
      FAIL() << name << " was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  };
  const double nan = std::nan("");
  refused({.temperature = -1}, "temperature");
  refused({.temperature = nan}, "temperature");
  refused({.top_k = -1}, "top_k");
  refused({.top_p = 0}, "top_p");
  refused({.top_p = 1.1}, "top_p");
  refused({.min_p = 1}, "min_p");
  refused({.repetition_penalty = 0}, "repetition_penalty");
  refused({.repetition_penalty = nan}, "repetition_penalty");
}

}  // namespace
}  // namespace vertebra
