#include "base/manifest.h"

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
constexpr const char* kFileName = "manifest.json";

}  // namespace

std::string program_version() { return VERTEBRA_VERSION; }

Json Manifest::to_json() const {
  Json out = {{"kind", kind}, {"version", version}, {"recipe", recipe}, {"results", results}};
  Json& file_list = out["files"] = Json::object();
  for (const auto& [name, file] : files)
    file_list[name] = {{"sha256", file.sha256}, {"size_bytes", file.size_bytes}};
  out["inputs"] = Json(inputs);
  return out;
}

Manifest Manifest::from_json(const Json& value, const std::string& source) {
  Manifest out;
  out.kind = json_get<std::string>(value, "kind", source);
  out.version = json_get<std::string>(value, "version", source);
  out.recipe = json_get<Json>(value, "recipe", source, Json::object());
  out.results = json_get<Json>(value, "results", source, Json::object());
  const Json files = json_get<Json>(value, "files", source, Json::object());
  for (const auto& [name, file] : files.items()) {
    out.files[name] = {json_get<std::string>(file, "sha256", source),
                       json_get<uint64_t>(file, "size_bytes", source)};
  }
  const Json inputs = json_get<Json>(value, "inputs", source, Json::object());
  for (const auto& [name, digest] : inputs.items()) {
    out.inputs[name] = json_convert<std::string>(digest, name, source);
  }
  return out;
}

void write_manifest(const fs::path& folder, Manifest manifest) {
  manifest.files.clear();
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = fs::relative(entry.path(), folder).generic_string();
    if (!entry.is_regular_file() || name == kFileName) continue;
    manifest.files[name] = {sha256_file(entry.path()), entry.file_size()};
  }
  write_json_file(folder / kFileName, manifest.to_json());
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / kFileName;
  return Manifest::from_json(read_json_file(path), path.string());
}

std::optional<std::string> manifest_digest(const fs::path& folder) {
  if (!fs::is_regular_file(folder / kFileName)) return std::nullopt;
  return sha256_file(folder / kFileName);
}

std::optional<std::string> find_damage(const fs::path& folder, const Manifest& manifest) {
  for (const auto& [name, file] : manifest.files) {
    const fs::path path = folder / name;
    std::error_code error;
    if (!fs::is_regular_file(path, error)) return fmt::format("'{}' is missing", path.string());
    if (const auto size = fs::file_size(path, error); size != file.size_bytes) {
      return fmt::format("'{}' has {} bytes, its manifest says {}", path.string(), size, file.size_bytes);
    }
    if (sha256_file(path) != file.sha256)
      return fmt::format("'{}' does not match its SHA-256 in the manifest", path.string());
  }
  return std::nullopt;
}

}  // namespace vertebra
