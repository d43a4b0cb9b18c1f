// Checkpoints of a training run: folders step-00001234/ with tensors.safetensors, state.json and
// manifest.json, each whole or not there at all. What the tensors and the state mean is the trainer's
// business. One process at a time may write into a folder of checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "base/json.h"
#include "base/manifest.h"
#include "formats/safetensors.h"

namespace vertebra {

struct Checkpoint {
  int64_t step = 0;
  std::vector<NamedTensor> tensors;  // parameters and optimizer state, in the order they were given
  Json state = Json::object();       // loader state, seed, whatever the trainer needs to go on
  Manifest manifest;
  std::filesystem::path path;
};

// Writes folder/step-NNNNNNNN and then removes all but the `keep_last` newest ones (0: keeps all).
// `manifest` brings recipe, inputs and results; kind and files are filled in. On failure nothing of the
// new checkpoint is visible, the older ones are untouched, and the error of base/file.h is thrown.
// Returns the folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& folder, int64_t step,
                                      std::span<const NamedTensor> tensors, const Json& state,
                                      Manifest manifest = {}, int keep_last = 0);

// The newest checkpoint that is whole: its files match their hashes. One that is damaged is named in a
// warning and the one before is taken. nullopt when there is none, or none whole.
std::optional<Checkpoint> load_latest_checkpoint(const std::filesystem::path& folder);

// One checkpoint; throws data_loss naming what is damaged.
Checkpoint load_checkpoint(const std::filesystem::path& path);

// Steps of the checkpoints in the folder, whole or not, oldest first.
std::vector<int64_t> checkpoint_steps(const std::filesystem::path& folder);

// Removes what a killed process left half-written; called when a run starts, before anything is saved.
void remove_unfinished_checkpoints(const std::filesystem::path& folder);

}  // namespace vertebra
