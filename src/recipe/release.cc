#include "recipe/release.h"

#include "base/file.h"
#include "base/manifest.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// The files of a model folder that are for others; logs and checkpoints stay behind.
bool belongs_to_model(const std::string& name) {
  return name != "metrics.jsonl" && name != "manifest.json" && !name.starts_with("checkpoints/");
}

bool same_certificate(const fs::path& folder, const Manifest& wanted) {
  if (!fs::exists(folder / "manifest.json")) return false;
  const Manifest found = read_manifest(folder);
  return found.inputs == wanted.inputs && found.recipe == wanted.recipe && found.results == wanted.results &&
         !find_damage(folder, found);
}

}  // namespace

fs::path release_model(const RunContext& context, const std::vector<StageOutcome>& stages) {
  if (!context.has_stage("sft") && !context.has_stage("pretrain")) return {};
  const fs::path source = context.stage_folder(context.last_training_stage());
  const fs::path target = context.folder / "model";
  Manifest manifest;
  manifest.kind = "model";
  manifest.recipe = {
      {"name", context.recipe.name}, {"seed", context.recipe.seed}, {"tables", context.recipe.tables}};
  for (const StageOutcome& stage : stages) {
    if (const auto digest = manifest_digest(context.stage_folder(stage.name)))
      manifest.inputs[stage.name] = *digest;
    if (stage.name == "gate") manifest.results["gate"] = stage.results;
    if (stage.name == "eval") manifest.results["scores"] = json_get<Json>(stage.results, "scores", "eval");
  }
  if (same_certificate(target, manifest)) return target;
  AtomicFolder folder(target);
  for (const auto& entry : fs::recursive_directory_iterator(source)) {
    const std::string name = fs::relative(entry.path(), source).generic_string();
    if (entry.is_regular_file() && belongs_to_model(name))
      write_file_atomic(folder.path() / name, read_file(entry.path()));
  }
  write_manifest(folder.path(), manifest);
  folder.commit();
  return target;
}

}  // namespace vertebra
