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

double sampling_uniform(uint64_t seed, int64_t position) {
  return static_cast<double>(Philox(seed, "sample").block(static_cast<uint64_t>(position))[0] >> 8) * 0x1p-24;
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
  keep(scores);
  double mass = 0;
  for (const int32_t id : order_) mass += weights_[static_cast<size_t>(id)];
  double target = sampling_uniform(options_.seed, position) * mass;
  for (const int32_t id : order_) {
    target -= weights_[static_cast<size_t>(id)];
    if (target < 0) return chosen(id);
  }
  return chosen(order_.back());
}

void Sampler::keep(std::span<const float> scores) {
  const float largest = *std::max_element(scores.begin(), scores.end());
  weights_.resize(scores.size());
  double total = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    weights_[i] = std::exp((scores[i] - static_cast<double>(largest)) / options_.temperature);
    total += weights_[i];
  }
  const size_t most =
      options_.top_k > 0 ? std::min(static_cast<size_t>(options_.top_k), scores.size()) : scores.size();
  if (most == scores.size() && options_.top_p >= 1) {  // no order is needed
    order_.clear();
    for (size_t i = 0; i < scores.size(); ++i) {
      if (weights_[i] >= options_.min_p) order_.push_back(static_cast<int32_t>(i));
    }
    if (order_.empty()) order_.push_back(0);  // logits that are not numbers
    return;
  }
  // The likeliest few hold nearly all of the mass: more of the order is only worked out when they do not.
  size_t kept = 0;
  for (size_t ordered = std::min<size_t>(most, options_.top_k > 0 ? most : 256);;
       ordered = std::min(most, ordered * 8)) {
    order_by_logit(scores, ordered, order_);
    if (most < scores.size() && ordered == most) {
      total = 0;
      for (const int32_t id : order_) total += weights_[static_cast<size_t>(id)];
    }
    double mass = 0;
    kept = 0;
    while (kept < order_.size() && weights_[static_cast<size_t>(order_[kept])] >= options_.min_p &&
           (kept == 0 || mass < options_.top_p * total)) {
      mass += weights_[static_cast<size_t>(order_[kept++])];
    }
    if (kept < order_.size() || ordered == most) break;
  }
  order_.resize(std::max<size_t>(kept, 1));
  std::sort(order_.begin(), order_.end());
}

}  // namespace vertebra
