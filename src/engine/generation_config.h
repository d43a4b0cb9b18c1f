// How a model wants its answers sampled, by generation_config.json of its folder or the general.sampling keys
// of its GGUF file. Read with the rest of what makes text of a model (model_text.h); `vertebra chat` starts
// from it.
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "engine/sampler.h"
#include "formats/gguf.h"

namespace vertebra {

// The configuration's own words for a file's metadata, and back. What no key says is left out.
Json generation_of_gguf(const GgufMetadata& metadata);
void add_gguf_generation(const Json& generation, const std::string& source, GgufMetadata& metadata);

// What the configuration says of sampling; nothing where it says nothing. Without do_sample the likeliest
// token is taken (temperature 0), as transformers does. Throws invalid_argument naming `source`, key and
// value.
struct SamplingDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
};
SamplingDefaults sampling_defaults(const Json& generation, const std::string& source);

}  // namespace vertebra
