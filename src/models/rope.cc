#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "base/error.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

double positive(const Json& settings, const char* key, std::string_view source) {
  const auto value = json_get<double>(settings, key, fmt::format("{}: rope_parameters", source));
  require(std::isfinite(value) && value > 0, "{}: rope_parameters.{} is {}, a number above 0 was wanted",
          source, key, value);
  return value;
}

double positive_or(const Json& settings, const char* key, std::string_view source, double fallback) {
  const auto it = settings.find(key);
  return it == settings.end() || it->is_null() ? fallback : positive(settings, key, source);
}

bool given(const Json& settings, const char* key) {
  const auto it = settings.find(key);
  return it != settings.end() && !it->is_null();
}

// What every pair's frequency is divided by.
std::vector<double> factor_list(const Json& settings, const char* key, size_t pairs,
                                std::string_view source) {
  const Json list = json_get<Json>(settings, key, source);
  require(list.is_array() && list.size() == pairs,
          "{}: rope_parameters.{} needs {} numbers, one for every rotated pair", source, key, pairs);
  std::vector<double> out;
  for (const Json& each : list) {
    require(each.is_number() && std::isfinite(each.get<double>()) && each.get<double>() > 0,
            "{}: rope_parameters.{} holds {}, numbers above 0 were wanted", source, key, json_line(each));
    out.push_back(each.get<double>());
  }
  return out;
}

void refuse_unknown(const Json& settings, std::string_view source) {
  static const std::set<std::string, std::less<>> known = {
      "rope_type", "type", "rope_theta", "factor", "partial_rotary_factor",
      "original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "attention_factor", "mscale",
      "mscale_all_dim", "beta_fast", "beta_slow", "truncate", "short_factor", "long_factor",
      "llama_4_scaling_beta",
      // One number for all axes of a position: text has one axis, whose angles do not depend on the sections.
      "mrope_section", "mrope_interleaved", "max_position_embeddings", "finetuned"};
  for (const auto& [key, value] : settings.items()) {
    require(known.contains(key), Code::kUnimplemented, "{}: rope_parameters.{} = {} is not supported", source,
            key, json_line(value));
  }
}

}  // namespace

Json rope_settings(const Json& config, std::string_view source, double theta, const std::string& layer_type) {
  Json out = json_get<Json>(config, given(config, "rope_scaling") ? "rope_scaling" : "rope_parameters",
                            source, Json());
  if (out.is_object() && !layer_type.empty() && given(out, layer_type.c_str())) out = out[layer_type];
  if (out.is_null()) out = Json::object();
  require(out.is_object(), "{}: rope_parameters is {}, an object was wanted", source, json_line(out));
  // Beside the nested settings, hub files have some of them at the top.
  for (const char* key : {"rope_theta", "partial_rotary_factor", "original_max_position_embeddings"}) {
    if (!given(out, key) && given(config, key)) out[key] = config[key];
  }
  if (!given(out, "rope_theta")) out["rope_theta"] = theta;
  if (!given(out, "rope_type")) out["rope_type"] = given(out, "type") ? out["type"] : Json("default");
  return out;
}

RotaryPositions::RotaryPositions(const Json& settings, int64_t head_dim, int64_t context_length,
                                 std::string_view source) {
  refuse_unknown(settings, source);
  const auto type = json_get<std::string>(settings, "rope_type", source);
  theta_ = positive(settings, "rope_theta", source);
  const double part = positive_or(settings, "partial_rotary_factor", source, 1);
  require(part <= 1, "{}: partial_rotary_factor is {}, at most 1 was wanted", source, part);
  const auto rotary_dim = static_cast<int64_t>(static_cast<double>(head_dim) * part);
  require(head_dim % 2 == 0 && (rotary_dim % 2 == 0 || type == "proportional") && rotary_dim > 0,
          "{}: rotary positions turn pairs, but {} of {} head dimensions are to turn", source, rotary_dim,
          head_dim);
  // Proportional (Gemma 4): the frequencies of the whole head, those beyond the part at rest.
  const bool proportional = type == "proportional";
  const int64_t width = proportional ? head_dim : rotary_dim;
  for (int64_t i = 0; i < width / 2; ++i) {
    const bool turns = i < rotary_dim / 2;
    frequencies_.push_back(
        turns ? std::pow(theta_, -2.0 * static_cast<double>(i) / static_cast<double>(width)) : 0);
  }
  query_beta_ = positive_or(settings, "llama_4_scaling_beta", source, 0);
  if (query_beta_ > 0)
    original_context_ = static_cast<int64_t>(positive(settings, "original_max_position_embeddings", source));
  if (type == "linear" || proportional) {
    const double factor = positive_or(settings, "factor", source, 1);
    for (double& f : frequencies_) f /= factor;
  } else if (type == "llama3") {
    read_llama3(settings, source);
  } else if (type == "yarn") {
    read_yarn(settings, context_length, source);
  } else if (type == "longrope" || type == "su") {
    read_longrope(settings, context_length, source);
  } else {
    // Dynamic scaling begins beyond max_position_embeddings, where no sequence comes.
    require(type == "default" || type == "mrope" || type == "dynamic", Code::kUnimplemented,
            "{}: rope_parameters: rope_type '{}' is not supported; default, linear, dynamic, llama3, yarn, "
            "longrope and "
            "proportional "
            "are",
            source, type);
  }
}

// Llama 3.1: wavelengths that fit the original context less than low_freq_factor times are stretched by
// `factor`, those that fit it more than high_freq_factor times stay, between the two it is blended.
void RotaryPositions::read_llama3(const Json& settings, std::string_view source) {
  const double factor = positive(settings, "factor", source),
               low = positive(settings, "low_freq_factor", source),
               high = positive(settings, "high_freq_factor", source),
               original = positive(settings, "original_max_position_embeddings", source);
  require(high > low, "{}: rope_parameters.high_freq_factor {} is not above low_freq_factor {}", source, high,
          low);
  for (double& f : frequencies_) {
    const double turns = original * f / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    f = (1 - kept) * f / factor + kept * f;
  }
}

// YaRN (Peng et al. 2023).
void RotaryPositions::read_yarn(const Json& settings, int64_t context_length, std::string_view source) {
  const double original = positive(settings, "original_max_position_embeddings", source);
  const double factor =
      positive_or(settings, "factor", source, static_cast<double>(context_length) / original);
  const auto scale = [&](double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1; };
  attention_factor_ = scale(1);
  if (given(settings, "mscale") && given(settings, "mscale_all_dim")) {
    attention_factor_ =
        scale(positive(settings, "mscale", source)) / scale(positive(settings, "mscale_all_dim", source));
  }
  attention_factor_ = positive_or(settings, "attention_factor", source, attention_factor_);

  // The pair that turns `turns` times within the original context.
  const auto pairs = static_cast<double>(frequencies_.size());
  const auto pair_of = [&](double turns) {
    return pairs * std::log(original / (turns * 2 * std::numbers::pi)) / std::log(theta_);
  };
  double first = pair_of(positive_or(settings, "beta_fast", source, 32)),
         last = pair_of(positive_or(settings, "beta_slow", source, 1));
  if (json_get<bool>(settings, "truncate", source, true)) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, 2 * pairs - 1);
  if (first == last) last += 0.001;
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    frequencies_[i] *= stretched / factor + (1 - stretched);
  }
}

// LongRoPE (Ding et al. 2024): lists of factors, one for sequences within the original context, one beyond.
void RotaryPositions::read_longrope(const Json& settings, int64_t context_length, std::string_view source) {
  const auto original =
      positive_or(settings, "original_max_position_embeddings", source, static_cast<double>(context_length));
  original_context_ = static_cast<int64_t>(original);
  const auto short_factors = factor_list(settings, "short_factor", frequencies_.size(), source),
             long_factors = factor_list(settings, "long_factor", frequencies_.size(), source);
  long_frequencies_ = frequencies_;
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    frequencies_[i] /= short_factors[i];
    long_frequencies_[i] /= long_factors[i];
  }
  const double factor =
      positive_or(settings, "factor", source, static_cast<double>(context_length) / original);
  attention_factor_ = factor <= 1 ? 1 : std::sqrt(1 + std::log(factor) / std::log(original));
  attention_factor_ = positive_or(settings, "attention_factor", source, attention_factor_);
}

Value RotaryPositions::operator()(ModelContext& context, Value x, Value positions) const {
  const bool beyond = !long_frequencies_.empty() && context.longest_sequence() > original_context_;
  const std::vector<double>& frequencies = beyond ? long_frequencies_ : frequencies_;
  const auto pairs = static_cast<int64_t>(frequencies.size());
  Tensor table(DType::kF32, {pairs});
  for (int64_t i = 0; i < pairs; ++i) table.set(i, frequencies[static_cast<size_t>(i)]);
  const Value frequency = context.graph().constant(table);
  const auto turn = [&](Value part) {
    const Value turned = rope(part, positions, frequency);
    return attention_factor_ == 1 ? turned : multiply(turned, attention_factor_);
  };
  const int64_t D = x.shape()[2];
  if (2 * pairs == D) return turn(x);
  return concatenate(std::vector<Value>{turn(slice_axis(x, 2, 0, 2 * pairs)), slice_axis(x, 2, 2 * pairs, D)},
                     2);
}

Value RotaryPositions::query_scale(Value positions) const {
  if (query_beta_ == 0) return {};
  const Value times = floor(divide(convert(positions, DType::kF32), static_cast<double>(original_context_)));
  const Value scale = add(multiply(logarithm(add(times, 1.0)), query_beta_), 1.0);
  return reshape(scale, Shape{positions.shape().dim(0), 1, 1});
}

}  // namespace vertebra
