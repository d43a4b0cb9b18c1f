// The birth certificate of a folder: manifest.json names what the folder is, the SHA-256 of its
// files and of every input, the recipe stage, seed, program version and measured results.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/json.h"

namespace vertebra {

std::string program_version();

struct ManifestFile {
  std::string sha256;
  uint64_t size_bytes = 0;
};

struct Manifest {
  std::string kind;                           // "tokenizer", "shards", "checkpoint", "model", "report", ...
  std::map<std::string, ManifestFile> files;  // by path relative to the folder
  std::map<std::string, std::string> inputs;  // name of an input -> SHA-256 (of a file, or of its manifest)
  Json recipe = Json::object();               // stage name, its settings, seed
  Json results = Json::object();              // measured scores, counts, times
  std::string version = program_version();

  Json to_json() const;
  static Manifest from_json(const Json& value, const std::string& source);
};

// Hashes every regular file of the folder (recursively, manifest.json left out) into
// manifest.files and writes folder/manifest.json.
void write_manifest(const std::filesystem::path& folder, Manifest manifest);
// Throws not_found when the folder has none.
Manifest read_manifest(const std::filesystem::path& folder);
// SHA-256 of the manifest file itself: identifies the artefact. nullopt where there is none.
std::optional<std::string> manifest_digest(const std::filesystem::path& folder);
// Compares every listed file with its hash; returns the first discrepancy in words, or nullopt.
std::optional<std::string> find_damage(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace vertebra
