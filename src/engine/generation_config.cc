#include "engine/generation_config.h"

#include "base/error.h"

namespace vertebra {
namespace {

struct Key {
  const char *setting, *gguf;  // of generation_config.json; after "general.sampling."
  bool whole = false;
};
constexpr Key kKeys[] = {{"temperature", "temp"},
                         {"top_k", "top_k", true},
                         {"top_p", "top_p"},
                         {"min_p", "min_p"},
                         {"repetition_penalty", "penalty_repeat"}};

bool given(const Json& generation, const char* key) {
  return generation.is_object() && generation.contains(key) && !generation[key].is_null();
}

}  // namespace

Json generation_of_gguf(const GgufMetadata& metadata) {
  Json out = Json::object();
  for (const Key& each : kKeys) {
    const std::string key = std::string("general.sampling.") + each.gguf;
    if (each.whole) {
      if (const auto value = metadata.integer(key)) out[each.setting] = *value;
    } else if (const auto value = metadata.number(key)) {
      // Files hold f32; the shortest decimal number that rounds to it is what was meant.
      out[each.setting] = std::stod(fmt::format("{}", static_cast<float>(*value)));
    }
  }
  if (out.empty()) return out;
  out["do_sample"] = !given(out, "temperature") || out["temperature"] != 0.0;
  if (out["do_sample"] == false) out.erase("temperature");
  return out;
}

void add_gguf_generation(const Json& generation, const std::string& source, GgufMetadata& metadata) {
  const SamplingDefaults defaults = sampling_defaults(generation, source);
  const auto real = [&](const char* key, const std::optional<double>& value) {
    if (value) metadata.set(std::string("general.sampling.") + key, GgufValue::f32(*value));
  };
  // Without a word on sampling readers keep their own defaults.
  if (!given(generation, "do_sample") && !given(generation, "temperature")) return;
  real("temp", defaults.temperature);
  if (defaults.top_k)
    metadata.set("general.sampling.top_k", GgufValue{GgufType::kI32, int64_t{*defaults.top_k}});
  real("top_p", defaults.top_p);
  real("min_p", defaults.min_p);
  real("penalty_repeat", defaults.repetition_penalty);
}

SamplingDefaults sampling_defaults(const Json& generation, const std::string& source) {
  SamplingDefaults out;
  if (!generation.is_object()) return out;
  const auto number = [&](const char* key) -> std::optional<double> {
    if (!given(generation, key)) return std::nullopt;
    return json_get<double>(generation, key, source);
  };
  const bool samples = json_get<bool>(generation, "do_sample", source, false);
  if (given(generation, "repetition_penalty")) out.repetition_penalty = number("repetition_penalty");
  if (samples) {
    out.temperature = number("temperature").value_or(1.0);
    out.top_p = number("top_p");
    out.min_p = number("min_p");
    if (given(generation, "top_k")) out.top_k = json_get<int64_t>(generation, "top_k", source);
  } else if (given(generation, "do_sample")) {
    out.temperature = 0;
  }
  try {
    SamplingOptions options;
    options.temperature = out.temperature.value_or(0);
    options.top_k = out.top_k.value_or(0);
    options.top_p = out.top_p.value_or(1);
    options.min_p = out.min_p.value_or(0);
    options.repetition_penalty = out.repetition_penalty.value_or(1);
    check_sampling(options);
  } catch (const Error& error) {
    fail(Code::kInvalidArgument, "{}: {}", source, error.what());
  }
  return out;
}

}  // namespace vertebra
