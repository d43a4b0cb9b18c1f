// How the architectures are called and spelled in GGUF files beside their Hugging Face names: a row each in
// gguf_names.cc. The translation itself is gguf_model.cc's, for loading and converting alike.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/json.h"

namespace vertebra {

struct GgufName {
  std::string_view stored;  // without ".weight" or ".bias"; layers below "model.layers.N."
  std::string_view gguf;    // layers below "blk.N."
};

struct GgufKey {
  std::string_view setting;  // of config.json
  std::string_view key;      // after "ARCHITECTURE."
  bool whole;                // an integer
};

struct GgufArchitecture {
  std::string_view model_type;    // of config.json
  std::string_view class_name;    // in "architectures" of config.json
  std::string_view architecture;  // general.architecture
  std::span<const GgufName> names;
  std::span<const GgufKey> keys;  // beside those that all have
  // Rows of q and k lie in the order of rotations over neighbours: row 2 i + p of a head is our p D/2 + i.
  bool rope_rows = false;
  bool norms_plus_one = false;  // norm weights are written as 1 + weight
  std::string_view settings;    // JSON: what config.json says beside the metadata
  void (*complete)(Json& config) = nullptr;
};

std::span<const GgufKey> common_gguf_keys();

// Throw unimplemented with the list of those known; `source` names the file.
const GgufArchitecture& gguf_architecture(std::string_view architecture, std::string_view source);
const GgufArchitecture& gguf_architecture_of_model(std::string_view model_type, std::string_view source);

// "model.layers.3.self_attn.q_proj.weight" <-> "blk.3.attn_q.weight"; nothing for other names.
std::optional<std::string> gguf_name(const GgufArchitecture& row, std::string_view stored);
std::optional<std::string> stored_name(const GgufArchitecture& row, std::string_view gguf);

}  // namespace vertebra
