// Saves and finds checkpoints; atomicity comes from base/file.h, hashes from base/manifest.h.
#include "formats/checkpoint.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
constexpr const char* kTensorsName = "tensors.safetensors";
constexpr const char* kStateName = "state.json";
constexpr std::string_view kPrefix = "step-";

fs::path checkpoint_path(const fs::path& folder, int64_t step) {
  return folder / fmt::format("{}{:08}", kPrefix, step);
}

std::optional<int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto result = std::from_chars(name.data() + kPrefix.size(), end, step);
  if (result.ec != std::errc() || result.ptr != end || step < 0 || checkpoint_path({}, step) != name) {
    return std::nullopt;
  }
  return step;
}

// Renamed first: a removal that is cut off leaves something unfinished, not a damaged checkpoint.
void remove_checkpoint(const fs::path& folder, int64_t step) {
  const fs::path path = checkpoint_path(folder, step);
  const fs::path doomed = path.string() + ".tmp-removed";
  std::error_code error;
  fs::remove_all(doomed, error);
  fs::rename(path, doomed, error);
  if (!error) fs::remove_all(doomed, error);
  if (error) log_warning("the old checkpoint '{}' could not be removed: {}", path.string(), error.message());
}

}  // namespace

fs::path save_checkpoint(const fs::path& folder, int64_t step, std::span<const NamedTensor> tensors,
                         const Json& state, Manifest manifest, int keep_last) {
  require(step >= 0, "a checkpoint for step {}: the step must not be negative", step);
  require(keep_last >= 0, "a checkpoint with keep_last = {}: 0 (all) or more was wanted", keep_last);
  const fs::path path = checkpoint_path(folder, step);
  AtomicFolder writing(path);
  write_safetensors(writing.path() / kTensorsName, tensors);
  write_json_file(writing.path() / kStateName, Json{{"step", step}, {"state", state}});
  manifest.kind = "checkpoint";
  write_manifest(writing.path(), std::move(manifest));
  writing.commit();
  if (keep_last > 0) {
    const std::vector<int64_t> steps = checkpoint_steps(folder);
    const auto kept = std::min(steps.size(), static_cast<size_t>(keep_last));
    for (size_t i = 0; i + kept < steps.size(); ++i) {
      if (steps[i] != step) remove_checkpoint(folder, steps[i]);
    }
  }
  return path;
}

std::vector<int64_t> checkpoint_steps(const fs::path& folder) {
  std::vector<int64_t> out;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (const auto step = step_of(at->path()); step && at->is_directory(error)) out.push_back(*step);
  }
  std::sort(out.begin(), out.end());
  return out;
}

Checkpoint load_checkpoint(const fs::path& path) {
  Checkpoint out;
  out.path = path;
  out.manifest = read_manifest(path);
  for (const char* name : {kTensorsName, kStateName}) {
    require(out.manifest.files.contains(name), Code::kDataLoss,
            "checkpoint '{}': its manifest does not list {}", path.string(), name);
  }
  const auto damage = find_damage(path, out.manifest);
  require(!damage, Code::kDataLoss, "checkpoint '{}' is damaged: {}", path.string(), damage.value_or(""));
  const fs::path state_path = path / kStateName;
  const Json state = read_json_file(state_path);
  out.step = json_get<int64_t>(state, "step", state_path.string());
  out.state = json_get<Json>(state, "state", state_path.string());
  require(step_of(path) == out.step, Code::kDataLoss, "checkpoint '{}' is of step {}", path.string(),
          out.step);
  const SafetensorsFile file(path / kTensorsName);
  for (const auto& entry : file.entries()) out.tensors.push_back({entry.name, file.read(entry.name)});
  return out;
}

std::optional<Checkpoint> load_latest_checkpoint(const fs::path& folder) {
  const std::vector<int64_t> steps = checkpoint_steps(folder);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    // Damage is expected here and answered by the checkpoint before; anything may be wrong with it.
    try {
      return load_checkpoint(checkpoint_path(folder, *step));
    } catch (const Error& error) {
      if (error.code() == Code::kResourceExhausted) throw;
      log_warning("{}; the checkpoint before it is used", error.what());
    }
  }
  if (!steps.empty()) log_warning("'{}': none of its {} checkpoints is whole", folder.string(), steps.size());
  return std::nullopt;
}

void remove_unfinished_checkpoints(const fs::path& folder) {
  std::vector<fs::path> unfinished;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with(kPrefix) && name.find(".tmp-") != std::string::npos)
      unfinished.push_back(at->path());
  }
  for (const fs::path& path : unfinished) {
    fs::remove_all(path, error);
    if (error) log_warning("the unfinished '{}' could not be removed: {}", path.string(), error.message());
  }
}

}  // namespace vertebra
