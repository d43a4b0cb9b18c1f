#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"

namespace vertebra {
namespace {

// What every instruction set has; four of them hide the latency of a product.
typedef float Floats __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(16)));
constexpr size_t kLanes = 4, kVectors = 4, kStep = kLanes * kVectors;

Floats load(const float* from) {
  Floats out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

float largest_of(std::span<const float> values) {
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  Floats most[kVectors];
  for (Floats& each : most) each = Floats{kLeast, kLeast, kLeast, kLeast};
  size_t i = 0;
  for (; i + kStep <= values.size(); i += kStep) {
    for (size_t v = 0; v < kVectors; ++v) {
      const Floats x = load(&values[i + v * kLanes]);
      most[v] = x > most[v] ? x : most[v];
    }
  }
  float largest = kLeast;
  for (; i < values.size(); ++i) largest = std::max(largest, values[i]);
  for (const Floats& each : most) {
    for (size_t l = 0; l < kLanes; ++l) largest = std::max(largest, each[l]);
  }
  return largest;
}

int32_t likeliest_of(std::span<const float> values) {
  const auto found = std::find(values.begin(), values.end(), largest_of(values));
  return found == values.end() ? 0 : static_cast<int32_t>(found - values.begin());  // end: no numbers
}

// e^x for x <= 0, within 2e-7 of it; e^-87 for what is below.
inline Floats exp_below(Floats x) {
  const Floats least = Floats{} - 87.0f;
  x = x < least ? least : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the nearest integer
  const Floats shifted = x * 1.44269504f + kRound, n = shifted - kRound;
  const Floats f = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n ln 2, |f| <= ln 2 / 2
  Floats p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 0.5f;
  const Floats power = (Floats)(((Words)shifted + 127u) << 23);
  return (p * f * f + f + 1.0f) * power;
}

// The sum of e^((values - largest) scale): the C library's exp takes 0.3 ms for a vocabulary of 49,152, a
// tenth of a small model's step.
double sum_of_exponentials(std::span<const float> values, float largest, float scale) {
  constexpr size_t kPiece = 32 * kStep;  // summed in fp32
  double sum = 0;
  for (size_t begin = 0; begin < values.size(); begin += kPiece) {
    const size_t end = std::min(values.size(), begin + kPiece);
    Floats sums[kVectors] = {};
    size_t i = begin;
    for (; i + kStep <= end; i += kStep) {
      for (size_t v = 0; v < kVectors; ++v)
        sums[v] += exp_below((load(&values[i + v * kLanes]) - largest) * scale);
    }
    for (; i < end; ++i) sums[0][0] += exp_below(Floats{(values[i] - largest) * scale})[0];
    for (const Floats& each : sums) {
      for (size_t l = 0; l < kLanes; ++l) sum += static_cast<double>(each[l]);
    }
  }
  return sum;
}

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
  const float largest = largest_of(logits);
  return largest + std::log(sum_of_exponentials(logits, largest, 1));
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
    return chosen(likeliest_of(scores));
  }
  keep(scores);
  double mass = 0;
  for (const double weight : weights_) mass += weight;
  double target = sampling_uniform(options_.seed, position) * mass;
  for (size_t i = 0; i < order_.size(); ++i) {
    target -= weights_[i];
    if (target < 0) return chosen(order_[i]);
  }
  return chosen(order_.back());
}

void Sampler::keep(std::span<const float> scores) {
  const auto largest = static_cast<double>(largest_of(scores));
  const auto weight = [&](int32_t id) {
    return std::exp((scores[static_cast<size_t>(id)] - largest) / options_.temperature);
  };
  const size_t all = scores.size(),
               most = options_.top_k > 0 ? std::min(static_cast<size_t>(options_.top_k), all) : all;
  order_.clear();
  weights_.clear();
  if (most == all && options_.top_p >= 1) {  // no order is needed
    for (int32_t id = 0; id < static_cast<int32_t>(all); ++id) {
      const double its = weight(id);
      if (its < options_.min_p) continue;
      order_.push_back(id);
      weights_.push_back(its);
    }
  } else {
    keep_likeliest(scores, most, weight);
    std::sort(order_.begin(), order_.end());
    for (const int32_t id : order_) weights_.push_back(weight(id));
  }
  if (order_.empty()) {  // logits that are not numbers
    order_ = {0};
    weights_ = {1};
  }
}

template <class Weight>
void Sampler::keep_likeliest(std::span<const float> scores, size_t most, const Weight& weight) {
  const bool whole = most == scores.size();
  double total =
      whole ? sum_of_exponentials(scores, largest_of(scores), static_cast<float>(1 / options_.temperature))
            : 0;
  // The likeliest few hold nearly all of the mass: more of the order is only worked out when they do not.
  size_t kept = 0;
  for (size_t ordered = whole ? std::min<size_t>(most, 256) : most;; ordered = std::min(most, ordered * 8)) {
    order_by_logit(scores, ordered, order_);
    if (!whole) {
      total = 0;
      for (const int32_t id : order_) total += weight(id);
    }
    double mass = 0;
    for (kept = 0; kept < order_.size(); ++kept) {
      const double its = weight(order_[kept]);
      if (its < options_.min_p || (kept > 0 && mass >= options_.top_p * total)) break;
      mass += its;
    }
    if (kept < order_.size() || ordered == most) break;
  }
  order_.resize(std::max<size_t>(kept, 1));
}

}  // namespace vertebra
