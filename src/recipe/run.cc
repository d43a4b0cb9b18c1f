#include "recipe/run.h"

#include <chrono>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "engine/engine.h"
#include "eval/report.h"
#include "recipe/model_settings.h"
#include "recipe/release.h"
#include "recipe/stage.h"

namespace vertebra {

#define VERTEBRA_STAGE(name, factory) std::unique_ptr<Stage> factory();
#include "recipe/stage_list.def"
#undef VERTEBRA_STAGE

namespace {

namespace fs = std::filesystem;

struct StageEntry {
  std::string_view name;
  std::unique_ptr<Stage> (*make)();
};

constexpr StageEntry kStages[] = {
#define VERTEBRA_STAGE(name, factory) {#name, factory},
#include "recipe/stage_list.def"
#undef VERTEBRA_STAGE
};

// Tables that are no stages.
const std::vector<std::string> kOtherTables = {"model", "data", "chat", "mesh"};

void check_tables(const Recipe& recipe) {
  std::vector<std::string> known = stage_names();
  known.insert(known.end(), kOtherTables.begin(), kOtherTables.end());
  known.insert(known.end(), {"name", "seed"});
  for (const auto& [table, value] : recipe.tables.items()) {
    if (std::find(known.begin(), known.end(), table) != known.end()) continue;
    const std::string nearest = nearest_name(table, known);
    fail(Code::kInvalidArgument, "{}: '{}' is not known{}; known are: {}", recipe.file.string(), table,
         nearest.empty() ? "" : fmt::format(" (did you mean '{}'?)", nearest), fmt::join(known, ", "));
  }
}

// A recipe may leave out what follows from the rest: a model is pretrained, and training needs a tokenizer
// and shards, each with its defaults.
Recipe with_implied_stages(Recipe recipe) {
  Json& tables = recipe.tables;
  if (tables.contains("model") && !tables.contains("sft")) tables.emplace("pretrain", Json::object());
  if (tables.contains("sft") || tables.contains("pretrain")) {
    tables.emplace("tokenizer", Json::object());
    tables.emplace("shards", Json::object());
  }
  return recipe;
}

// A stage with what decides whether it must run.
struct Planned {
  std::unique_ptr<Stage> stage;
  Json settings;
};

void check_files(const RunContext& context, const Stage& stage) {
  for (const auto& [label, path] : stage.files(context)) {
    require(fs::exists(path), Code::kNotFound, "{}: stage '{}' reads {} '{}', which does not exist",
            context.recipe.file.string(), stage.name(), label, path.string());
  }
}

// Reads the tables of all stages up to options.only_stage.
std::vector<Planned> plan(const RunContext& context, const RunOptions& options) {
  std::vector<Planned> out;
  bool found = options.only_stage.empty();
  for (const std::string& name : stage_names()) {
    if (!context.has_stage(name)) continue;
    Planned planned;
    planned.stage = make_stage(name);
    Settings settings = context.recipe.table(name);
    planned.stage->configure(context, settings);
    settings.finish();
    planned.settings = settings.resolved();
    const Json further = planned.stage->further_settings(context);
    for (const auto& [key, value] : further.items()) planned.settings[key] = value;
    for (const std::string& needed : planned.stage->needs(context)) {
      require(context.has_stage(needed), "{}: stage '{}' needs a stage '{}', which the recipe lacks",
              context.recipe.file.string(), name, needed);
    }
    out.push_back(std::move(planned));
    if (name == options.only_stage) {
      found = true;
      break;
    }
  }
  require(found, "--stage {}: the recipe {} has no such stage", options.only_stage,
          context.recipe.file.string());
  require(!out.empty(), "{}: the recipe has no stage; known are: {}", context.recipe.file.string(),
          fmt::join(stage_names(), ", "));
  return out;
}

// SHA-256 of a file, or of the names and hashes of a folder's files.
std::string digest_of(const fs::path& path) {
  if (fs::is_regular_file(path)) return sha256_file(path);
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(path)) {
    if (entry.is_regular_file())
      files[fs::relative(entry.path(), path).generic_string()] = sha256_file(entry.path());
  }
  return sha256_hex(json_line(Json(files)));
}

// Identifies what a stage made: its files, settings and inputs, not how long it took or what it logged.
std::string artefact_digest(const Manifest& manifest) {
  Json files = Json::object();
  for (const auto& [name, file] : manifest.files) {
    if (name != "metrics.jsonl" && !name.starts_with("checkpoints/")) files[name] = file.sha256;
  }
  return sha256_hex(
      json_line({{"files", files}, {"recipe", manifest.recipe}, {"inputs", Json(manifest.inputs)}}));
}

std::map<std::string, std::string> input_digests(const RunContext& context, const Stage& stage) {
  std::map<std::string, std::string> out;
  for (const std::string& needed : stage.needs(context)) {
    out[needed] = artefact_digest(read_manifest(context.stage_folder(needed)));
  }
  for (const auto& [label, path] : stage.files(context)) out[label] = digest_of(path);
  return out;
}

bool is_done(const fs::path& folder, const Json& recipe, const std::map<std::string, std::string>& inputs) {
  if (!fs::exists(folder / "manifest.json")) return false;
  const Manifest manifest = read_manifest(folder);
  if (manifest.recipe != recipe || manifest.inputs != inputs) return false;
  if (const auto damage = find_damage(folder, manifest)) {
    log_warning("{}; the stage is run again", *damage);
    return false;
  }
  return true;
}

StageOutcome execute(const RunContext& context, Planned& planned) {
  Stage& stage = *planned.stage;
  const fs::path folder = context.stage_folder(stage.name());
  StageOutcome outcome;
  outcome.name = stage.name();
  const Json recipe = {
      {"stage", stage.name()}, {"seed", context.recipe.seed}, {"settings", planned.settings}};
  const auto inputs = input_digests(context, stage);
  if (is_done(folder, recipe, inputs)) {
    outcome.results = read_manifest(folder).results;
    outcome.wall_seconds = json_get<double>(outcome.results, "wall_seconds", folder.string(), 0.0);
    return outcome;
  }
  stage.fingerprint = sha256_hex(json_line(recipe) + json_line(Json(inputs)));
  fs::remove(folder / "manifest.json");
  if (!stage.resumes()) fs::remove_all(folder);
  fs::create_directories(folder);

  log_info("stage {} ...", stage.name());
  const auto start = std::chrono::steady_clock::now();
  outcome.results = stage.run(context, folder);
  outcome.wall_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.ran = true;
  Manifest manifest;
  manifest.kind = stage.name();
  manifest.inputs = inputs;
  manifest.recipe = recipe;
  outcome.results["wall_seconds"] = outcome.wall_seconds;
  manifest.results = outcome.results;
  write_manifest(folder, manifest);
  log_info("stage {} done in {}", stage.name(), format_duration(outcome.wall_seconds));
  return outcome;
}

}  // namespace

std::vector<std::string> stage_names() {
  std::vector<std::string> out;
  for (const StageEntry& entry : kStages) out.emplace_back(entry.name);
  return out;
}

std::unique_ptr<Stage> make_stage(std::string_view name) {
  for (const StageEntry& entry : kStages) {
    if (entry.name == name) return entry.make();
  }
  fail(Code::kNotFound, "there is no stage '{}'; known are: {}", name, fmt::join(stage_names(), ", "));
}

std::string RunContext::last_training_stage() const {
  for (const char* stage : {"sft", "pretrain"}) {
    if (has_stage(stage)) return stage;
  }
  fail(Code::kInvalidArgument, "{}: the recipe trains no model: it has neither a stage 'pretrain' nor 'sft'",
       recipe.file.string());
}

namespace {

// Calls use(context, stage, model settings, conditions) for every stage of the recipe, configured.
template <class Use>
void for_each_stage(const Recipe& written, Backend& backend, ThreadTeam& team, bool native_bf16, Use&& use) {
  check_tables(written);
  const Recipe recipe = with_implied_stages(written);
  const RunContext context{recipe, {}, backend, team};
  std::vector<Planned> stages = plan(context, {});
  context.last_training_stage();  // must be there
  const ModelSettings model = ModelSettings::read(context);
  Settings tokenizer = recipe.table("tokenizer");
  const GraphConditions conditions = {read_vocabulary(tokenizer, model), native_bf16};
  for (Planned& planned : stages) use(context, *planned.stage, model, conditions);
}

}  // namespace

std::vector<StageGraph> recipe_graphs(const Recipe& recipe, Backend& backend, ThreadTeam& team,
                                      bool native_bf16) {
  std::vector<StageGraph> out;
  std::unique_ptr<Model> released;
  for_each_stage(recipe, backend, team, native_bf16,
                 [&](const RunContext& context, Stage& stage, const ModelSettings& model,
                     const GraphConditions& conditions) {
                   for (StageGraph& each : stage.graphs(context, conditions))
                     out.push_back({fmt::format("{}/{}", stage.name(), each.name), std::move(each.graph)});
                   if (!released) released = model.make(conditions.vocabulary);
                 });
  DeviceGraphs chat = device_graphs(*released, {.max_requests = 1});
  out.push_back({"chat/serving", std::move(chat.step)});
  out.push_back({"chat/sampling", std::move(chat.sampling)});
  return out;
}

std::vector<Training> recipe_trainings(const Recipe& recipe, Backend& backend, ThreadTeam& team,
                                       bool native_bf16) {
  std::vector<Training> out;
  for_each_stage(
      recipe, backend, team, native_bf16,
      [&](const RunContext&, Stage& stage, const ModelSettings&, const GraphConditions& conditions) {
        if (auto training = stage.training(conditions)) out.push_back(std::move(*training));
      });
  return out;
}

RunOutcome run_recipe(const Recipe& written, Backend& backend, ThreadTeam& team, const RunOptions& options) {
  check_tables(written);
  const Recipe recipe = with_implied_stages(written);
  RunOutcome outcome;
  outcome.folder = options.out / recipe.name;
  const RunContext context{recipe, outcome.folder, backend, team};
  std::vector<Planned> stages = plan(context, options);
  for (const Planned& planned : stages) check_files(context, *planned.stage);
  fs::create_directories(outcome.folder);
  const FolderLock alone(outcome.folder);
  if (options.fresh) {
    for (const auto& old : fs::directory_iterator(outcome.folder)) fs::remove_all(old.path());
  }
  for (Planned& planned : stages) {
    outcome.stages.push_back(execute(context, planned));
    if (outcome.stages.back().name == "gate") {
      outcome.gate_passed = json_get<bool>(outcome.stages.back().results, "passed", "gate");
    }
  }
  if (options.only_stage.empty()) outcome.model = release_model(context, outcome.stages);
  std::vector<ReportStage> stages_shown;
  for (const StageOutcome& stage : outcome.stages) {
    ReportStage& shown = stages_shown.emplace_back();
    shown.name = stage.name;
    shown.ran = stage.ran;
    shown.wall_seconds = stage.wall_seconds;
  }
  write_report(outcome.folder, recipe.name, recipe.text, stages_shown);
  return outcome;
}

}  // namespace vertebra
