// Rotary positions in GGUF files: base, scaling and per-pair factors, against the settings of config.json.
// Called by gguf_model.cc and by architectures that have more than one kind.
#pragma once

#include <string>

#include "models/gguf_architecture.h"

namespace vertebra {

// Into config: rope_theta, partial_rotary_factor, rope_scaling. Throws data_loss for factors that do not fit,
// unimplemented for a kind of scaling that is not known.
void read_gguf_rope(const GgufFile& file, Json& config);

// `settings` as rope_settings gives them. Throws unimplemented for a kind that files have no words for.
void write_gguf_rope(const Json& settings, int64_t head_dim, int64_t context_length,
                     const std::string& source, GgufContents& out);

}  // namespace vertebra
