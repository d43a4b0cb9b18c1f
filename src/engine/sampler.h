// Chooses the next token from logits: greedy, or at random within temperature, top-k, top-p and min-p.
// Random numbers come from (seed, position): the same request gives the same text, whatever runs beside it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace vertebra {

struct SamplingOptions {
  double temperature = 0;  // 0: the likeliest token (the lowest id among equals)
  int64_t top_k = 0;       // keep the k likeliest; 0: all
  double top_p = 1;        // keep the smallest set with at least this probability (Holtzman et al. 2020)
  double min_p = 0;        // keep what has at least this share of the likeliest's probability
  double repetition_penalty =
      1;  // logits of tokens seen before: divided if positive, else multiplied (Keskar et al. 2019)
  uint64_t seed = 0;
};

// Throws invalid_argument naming the option that is out of range.
void check_sampling(const SamplingOptions& options);

struct SampledToken {
  int32_t id = 0;
  double log_probability = 0;  // under the model's own distribution: no temperature, no cut
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options) { check_sampling(options); }
  // `seen`: prompt and answer so far; `position`: number of the token in its request.
  SampledToken sample(std::span<const float> logits, std::span<const int32_t> seen, int64_t position);

 private:
  SamplingOptions options_;
  // Fills order_ with the ids that the cuts keep, ascending, and weights_ with exp((logit - largest) /
  // temperature) of each.
  void keep(std::span<const float> scores);
  template <class Weight>
  void keep_likeliest(std::span<const float> scores, size_t most, const Weight& weight);

  std::vector<float> penalized_;
  std::vector<int32_t> order_;
  std::vector<double> weights_;
};

// The number in [0, 1), exact in f32, that chooses the token at `position`: the first id, in ascending order,
// at which the mass of what the cuts keep goes beyond that share of it.
double sampling_uniform(uint64_t seed, int64_t position);

// log(sum(exp(logits))), in double precision.
double log_sum_exp(std::span<const float> logits);

// The `count` likeliest tokens with their log probabilities, likeliest first.
std::vector<SampledToken> likeliest_tokens(std::span<const float> logits, int count);

}  // namespace vertebra
