#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace vertebra {
namespace {

// Orders by logit, the lower id first among equals, so that every cut is deterministic.
void order_by_logit(std::span<const float> logits, size_t wanted, std::vector<int32_t>& order) {
  order.resize(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  const auto middle = order.begin() + static_cast<std::ptrdiff_t>(std::min(wanted, order.size()));
  std::partial_sort(order.begin(), middle, order.end(), before);
  order.erase(middle, order.end());
}

}  // namespace

void check_sampling(const SamplingOptions& o) {
  require(o.temperature >= 0 && o.temperature <= 10, "temperature is {}, 0 to 10 was wanted", o.temperature);
  require(o.top_k >= 0, "top_k is {}, 0 (all) or more was wanted", o.top_k);
  require(o.top_p > 0 && o.top_p <= 1, "top_p is {}, more than 0 and at most 1 was wanted", o.top_p);
  require(o.min_p >= 0 && o.min_p < 1, "min_p is {}, 0 to below 1 was wanted", o.min_p);
  require(o.repetition_penalty > 0 && o.repetition_penalty <= 10,
          "repetition_penalty is {}, more than 0 and at most 10 was wanted", o.repetition_penalty);
}

double log_sum_exp(std::span<const float> logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return largest + std::log(sum);
}

std::vector<SampledToken> likeliest_tokens(std::span<const float> logits, int count) {
  std::vector<int32_t> order;
  order_by_logit(logits, static_cast<size_t>(std::max(0, count)), order);
  const double normalizer = log_sum_exp(logits);
  std::vector<SampledToken> out;
  for (const int32_t id : order) out.push_back({id, logits[static_cast<size_t>(id)] - normalizer});
  return out;
}

SampledToken Sampler::sample(std::span<const float> logits, std::span<const int32_t> seen, int64_t position) {
  std::span<const float> scores = logits;
  if (options_.repetition_penalty != 1) {
    penalized_.assign(logits.begin(), logits.end());
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (const int32_t id : seen) {
      const float logit = logits[static_cast<size_t>(id)];
      penalized_[static_cast<size_t>(id)] = logit > 0 ? logit / penalty : logit * penalty;
    }
    scores = penalized_;
  }
  const auto chosen = [&](int32_t id) {
    return SampledToken{id, logits[static_cast<size_t>(id)] - log_sum_exp(logits)};
  };
  if (options_.temperature == 0) {
    return chosen(static_cast<int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin()));
  }
  order_by_logit(scores, options_.top_k > 0 ? static_cast<size_t>(options_.top_k) : scores.size(), order_);
  weights_.clear();
  double total = 0;
  const double largest = scores[static_cast<size_t>(order_[0])];
  for (const int32_t id : order_) {
    weights_.push_back(std::exp((scores[static_cast<size_t>(id)] - largest) / options_.temperature));
    total += weights_.back();
  }
  // weights_[0] is 1 and the weights fall: both cuts keep a prefix. Only logits that are not numbers keep
  // nothing.
  size_t kept = 0;
  double mass = 0;
  while (kept < weights_.size() && weights_[kept] >= options_.min_p &&
         (kept == 0 || mass < options_.top_p * total)) {
    mass += weights_[kept++];
  }
  double target = Philox(options_.seed, "sample").uniform(static_cast<uint64_t>(position)) * mass;
  for (size_t i = 0; i < kept; ++i) {
    target -= weights_[i];
    if (target < 0) return chosen(order_[i]);
  }
  return chosen(order_[kept > 0 ? kept - 1 : 0]);
}

}  // namespace vertebra
