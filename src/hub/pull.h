// Brings a model from the hub into the cache folder, and finds there what was brought:
// MODELS/ORG--NAME/COMMIT/ with a manifest.json that is written last. Only `pull` opens the network; whatever
// takes a MODEL only looks here.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "hub/hub_model.h"
#include "hub/hub_options.h"

namespace vertebra {

struct PullRequest {
  HubModel model;
  std::vector<std::string> files;  // by name; empty: what the model needs
  // Called with a folder's config.json before its weights are fetched; throws for a model that is of no use
  // here.
  std::function<void(const std::filesystem::path& config)> check_config;
};

struct PullResult {
  std::filesystem::path path;    // what takes a MODEL opens: the folder, or the GGUF file
  std::filesystem::path folder;  // with the manifest
  std::string commit;
  std::vector<std::string> files;
  uint64_t size_bytes = 0;         // of the files
  uint64_t transferred_bytes = 0;  // of them, in this call
};

// Throws what hub_client.h says; resource_exhausted when the disk has less room than the files need, before
// the first byte; Interrupted, with the parts kept. Shows progress on a terminal.
PullResult pull(const HubOptions& options, const PullRequest& request);

// Where a pulled model lies. Throws not_found with the command that pulls it.
std::filesystem::path find_pulled(const std::filesystem::path& cache, const HubModel& model);

}  // namespace vertebra
