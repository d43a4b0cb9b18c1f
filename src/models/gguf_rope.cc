#include "models/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/log.h"

namespace vertebra {
namespace {

constexpr std::string_view kFactors = "rope_freqs.weight", kLong = "rope_factors_long.weight",
                           kShort = "rope_factors_short.weight";

// llama3 scaling (transformers' rope_type "llama3"): what each pair's frequency is divided by.
struct Llama3Scaling {
  double factor = 8, low = 1, high = 4, original = 8192;
};
std::vector<double> llama3_factors(const Llama3Scaling& scaling, double theta, int64_t head_dim) {
  std::vector<double> out;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (wavelength < scaling.original / scaling.high) {
      out.push_back(1);
    } else if (wavelength > scaling.original / scaling.low) {
      out.push_back(scaling.factor);
    } else {
      const double smooth = (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low);
      out.push_back(1 / ((1 - smooth) / scaling.factor + smooth));
    }
  }
  return out;
}

std::vector<double> read_factors(const GgufFile& file, std::string_view name, int64_t wanted) {
  const std::string& source = file.metadata().source();
  const GgufEntry* entry = file.find(name);
  require(entry != nullptr, Code::kDataLoss, "'{}' lacks the tensor {}", source, name);
  require(entry->type.shape.elements() == wanted && entry->type.dtype == DType::kF32, Code::kDataLoss,
          "'{}': {} is {} of type {}, {} factors of type f32 were wanted", source, name,
          entry->type.shape.to_string(), dtype_name(entry->type.dtype), wanted);
  const Tensor factors = file.read(*entry);
  std::vector<double> out;
  for (int64_t i = 0; i < wanted; ++i) {
    out.push_back(gguf_number_of(factors.at(i)));
    require(std::isfinite(out.back()) && out.back() > 0, Code::kDataLoss,
            "'{}': {}[{}] is {}, a number above 0 was wanted", source, name, i, out.back());
  }
  return out;
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::abs(a[i] - b[i]) > 1e-5 * b[i]) return false;
  }
  return true;
}

// rope_freqs.weight as settings: those of llama3 where they give these factors, else the factors themselves,
// in the form that "longrope" has them. Of llama3 only the largest factor can be read off; the original
// context is one of the powers of two.
Json scaling_of_factors(const std::vector<double>& factors, double theta, int64_t head_dim) {
  Llama3Scaling guess{.factor = *std::max_element(factors.begin(), factors.end())};
  for (double original = 32; original <= 1 << 20; original *= 2) {
    guess.original = original;
    if (!same(llama3_factors(guess, theta, head_dim), factors)) continue;
    return {{"rope_type", "llama3"},
            {"factor", guess.factor},
            {"low_freq_factor", guess.low},
            {"high_freq_factor", guess.high},
            {"original_max_position_embeddings", static_cast<int64_t>(guess.original)}};
  }
  return {{"rope_type", "longrope"},
          {"short_factor", factors},
          {"long_factor", factors},
          {"attention_factor", 1.0}};
}

double usual_yarn_attention(double factor) { return factor <= 1 ? 1 : 0.1 * std::log(factor) + 1; }

Json read_yarn(const GgufMetadata& metadata, const std::string& scaling, double factor) {
  Json out = {{"rope_type", "yarn"}, {"factor", factor}};
  const auto number = [&](const char* key) -> std::optional<double> {
    const auto value = metadata.number(scaling + key);
    return value ? std::optional(gguf_number_of(*value)) : std::nullopt;
  };
  if (const auto fast = number("yarn_beta_fast")) out["beta_fast"] = *fast;
  if (const auto slow = number("yarn_beta_slow")) out["beta_slow"] = *slow;
  if (const auto all = number("yarn_log_multiplier"); all && *all != 0) {
    out["mscale"] = 1.0;
    out["mscale_all_dim"] = *all;
  }
  if (const auto whole = number("yarn_attn_factor")) {
    out["attention_factor"] = *whole;
  } else if (const auto more = number("attn_factor"); more && *more != 1) {
    out["attention_factor"] = *more * usual_yarn_attention(factor);
  }
  return out;
}

Json read_scaling(const GgufFile& file, const Json& config, int64_t rotary_dim) {
  const GgufMetadata& metadata = file.metadata();
  const std::string scaling = gguf_at(metadata) + "rope.scaling.";
  const auto original = metadata.integer(scaling + "original_context_length");
  if (file.find(kFactors) != nullptr) {
    return scaling_of_factors(read_factors(file, kFactors, rotary_dim / 2),
                              config["rope_theta"].get<double>(), rotary_dim);
  }
  Json out;
  if (file.find(kLong) != nullptr || file.find(kShort) != nullptr) {
    out = {{"rope_type", "longrope"},
           {"short_factor", read_factors(file, kShort, rotary_dim / 2)},
           {"long_factor", read_factors(file, kLong, rotary_dim / 2)}};
    if (const auto attention = metadata.number(scaling + "attn_factor"))
      out["attention_factor"] = gguf_number_of(*attention);
  } else {
    const std::string* type = metadata.string(scaling + "type");
    const double factor = gguf_number_of(metadata.number(scaling + "factor").value_or(0));
    if (type == nullptr || *type == "none" || factor <= 0) return nullptr;
    require(*type == "linear" || *type == "yarn", Code::kUnimplemented,
            "'{}': {}type is '{}'; none, linear, yarn, and longrope with its factors are supported",
            metadata.source(), scaling, *type);
    out = *type == "yarn" ? read_yarn(metadata, scaling, factor)
                          : Json{{"rope_type", "linear"}, {"factor", factor}};
  }
  if (original) out["original_max_position_embeddings"] = *original;
  return out;
}

Tensor factor_tensor(const std::vector<double>& values) {
  Tensor out(DType::kF32, {static_cast<int64_t>(values.size())});
  for (size_t i = 0; i < values.size(); ++i) out.set(static_cast<int64_t>(i), values[i]);
  return out;
}

void write_yarn(const Json& settings, double factor, const std::string& scaling, const std::string& source,
                GgufContents& out) {
  const auto number = [&](const char* key) -> std::optional<double> {
    const auto it = settings.find(key);
    if (it == settings.end() || it->is_null()) return std::nullopt;
    return json_get<double>(settings, key, source);
  };
  const double usual = usual_yarn_attention(factor);
  double attention = usual;
  const auto scale = number("mscale"), all = number("mscale_all_dim");
  const bool knows_multiplier = gguf_at(out.metadata) == "mistral3.";
  if (scale && all && *scale == 1 && knows_multiplier) {
    out.metadata.set(scaling + "yarn_log_multiplier", GgufValue::f32(*all));
  } else if (scale && all && factor > 1) {
    attention = (0.1 * *scale * std::log(factor) + 1) / (0.1 * *all * std::log(factor) + 1);
  }
  attention = number("attention_factor").value_or(attention);
  if (attention != usual) out.metadata.set(scaling + "attn_factor", GgufValue::f32(attention / usual));
  for (const auto& [setting, key, fallback] :
       {std::tuple{"beta_fast", "yarn_beta_fast", 32.0}, std::tuple{"beta_slow", "yarn_beta_slow", 1.0}}) {
    const double value = number(setting).value_or(fallback);
    out.metadata.set(scaling + key, GgufValue::f32(value));
    if (value != fallback && !knows_multiplier)
      log_warning("{}: {} is {}, but llama.cpp takes {} for this architecture", source, setting, value,
                  fallback);
  }
}

}  // namespace

void read_gguf_rope(const GgufFile& file, Json& config) {
  const GgufMetadata& metadata = file.metadata();
  const std::string at = gguf_at(metadata) + "rope.";
  const auto head_dim = config["head_dim"].get<int64_t>();
  config["rope_theta"] = gguf_number_of(metadata.number(at + "freq_base").value_or(10000));
  const int64_t rotary = metadata.integer(at + "dimension_count").value_or(0);
  const bool part = rotary > 0 && rotary < head_dim;
  if (part) config["partial_rotary_factor"] = static_cast<double>(rotary) / static_cast<double>(head_dim);
  if (Json scaling = read_scaling(file, config, part ? rotary : head_dim); !scaling.is_null())
    config["rope_scaling"] = std::move(scaling);
}

void write_gguf_rope(const Json& settings, int64_t head_dim, int64_t context_length,
                     const std::string& source, GgufContents& out) {
  const std::string at = gguf_at(out.metadata) + "rope.", scaling = at + "scaling.";
  const auto number = [&](const char* key) { return json_get<double>(settings, key, source); };
  const double theta = number("rope_theta");
  const auto part = json_get<double>(settings, "partial_rotary_factor", source, 1.0);
  const auto rotary_dim = static_cast<int64_t>(static_cast<double>(head_dim) * part);
  out.metadata.set(at + "freq_base", GgufValue::f32(theta));
  out.metadata.set(at + "dimension_count", GgufValue::u32(rotary_dim));
  const auto type = json_get<std::string>(settings, "rope_type", source);
  if (type == "default" || type == "mrope" || type == "dynamic") return;  // dynamic: no change within context
  const auto original = json_get<int64_t>(settings, "original_max_position_embeddings", source, 0);
  const auto factor = json_get<double>(
      settings, "factor", source,
      original > 0 ? static_cast<double>(context_length) / static_cast<double>(original) : 1.0);
  if (type == "proportional") {  // the whole head's pairs, of which the first turn
    std::vector<double> factors(static_cast<size_t>(head_dim / 2), 1e30);
    std::fill_n(factors.begin(), rotary_dim / 2, 1.0);
    out.metadata.set(at + "dimension_count", GgufValue::u32(head_dim));
    out.tensors.push_back({std::string(kFactors), factor_tensor(factors)});
    return;
  }
  if (type == "llama3") {
    const Llama3Scaling llama3{number("factor"), number("low_freq_factor"), number("high_freq_factor"),
                               number("original_max_position_embeddings")};
    out.tensors.push_back({std::string(kFactors), factor_tensor(llama3_factors(llama3, theta, rotary_dim))});
    return;
  }
  if (type == "longrope" || type == "su") {
    for (const auto& [key, name] : {std::pair{"long_factor", kLong}, std::pair{"short_factor", kShort}})
      out.tensors.push_back(
          {std::string(name), factor_tensor(json_get<std::vector<double>>(settings, key, source))});
    const double usual = factor <= 1 || original <= 1
                             ? 1
                             : std::sqrt(1 + std::log(factor) / std::log(static_cast<double>(original)));
    out.metadata.set(scaling + "type", GgufValue::string("longrope"));
    out.metadata.set(scaling + "attn_factor",
                     GgufValue::f32(json_get<double>(settings, "attention_factor", source, usual)));
    if (original > 0) out.metadata.set(scaling + "original_context_length", GgufValue::u32(original));
    return;
  }
  require(
      type == "linear" || type == "yarn", Code::kUnimplemented,
      "{}: rope_type '{}' is not written to GGUF; default, dynamic, linear, yarn, llama3 and longrope are",
      source, type);
  out.metadata.set(scaling + "type", GgufValue::string(type));
  out.metadata.set(scaling + "factor", GgufValue::f32(factor));
  if (original > 0) out.metadata.set(scaling + "original_context_length", GgufValue::u32(original));
  if (type == "yarn") write_yarn(settings, factor, scaling, source, out);
}

}  // namespace vertebra
