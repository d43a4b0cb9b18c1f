// What a stage of a recipe is: a table of settings, inputs, and a folder it fills. One file per stage
// (stage_*.cc), one line each in stage_list.def; run.h executes them in order.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "base/manifest.h"
#include "base/thread_team.h"
#include "models/model.h"
#include "recipe/recipe.h"
#include "train/train_graph.h"

namespace vertebra {

// A run in progress, as its stages see it.
struct RunContext {
  const Recipe& recipe;
  std::filesystem::path folder;  // runs/NAME
  Backend& backend;
  ThreadTeam& team;

  std::filesystem::path stage_folder(std::string_view stage) const { return folder / stage; }
  bool has_stage(std::string_view stage) const { return recipe.tables.contains(stage); }
  // The last training stage of the recipe ("sft" before "pretrain"): where the model comes from.
  std::string last_training_stage() const;
};

// A graph that a stage hands to its device, and what it is for: "step", "evaluation".
struct StageGraph {
  std::string name;
  Graph graph;
};

// What a training stage trains, and what its step computes; made without any data.
struct Training {
  std::string stage;
  std::unique_ptr<Model> model;
  TrainGraphOptions graph;
  int64_t accumulation = 1;
  bool open_accumulation = false;  // rows and accumulation follow from the amount of data: taken as plenty
};

// What decides about a stage's graphs beside its settings.
struct GraphConditions {
  int64_t vocabulary = 0;
  bool native_bf16 = false;  // of the device: what precision "auto" means
};

class Stage {
 public:
  virtual ~Stage() = default;
  virtual std::string_view name() const = 0;

  // Reads the stage's table (bounds, unknown keys). Called once, before anything runs, so that a mistake
  // in the last stage is told before the first one starts.
  virtual void configure(const RunContext& context, Settings& settings) = 0;
  // Settings outside the stage's own table that it depends on (the model's), for the manifest.
  virtual Json further_settings(const RunContext&) const { return Json::object(); }
  // Stages whose folders it reads; they must be in the recipe and come before.
  virtual std::vector<std::string> needs(const RunContext& context) const = 0;
  // Files outside the run that it reads, by name.
  virtual std::map<std::string, std::filesystem::path> files(const RunContext&) const { return {}; }

  // The graphs that run() would compile, made without any data; after configure(). What the recipe leaves to
  // the amount of data is taken as if there were plenty.
  virtual std::vector<StageGraph> graphs(const RunContext&, const GraphConditions&) { return {}; }
  // Of a training stage.
  virtual std::optional<Training> training(const GraphConditions&) { return std::nullopt; }

  // Fills `folder`, which exists: empty for a stage that starts over, as it was left for one that resumes.
  // Returns the measured results.
  virtual Json run(const RunContext& context, const std::filesystem::path& folder) = 0;
  // Whether an unfinished folder is continued (training) or made anew.
  virtual bool resumes() const { return false; }
  // SHA-256 over what the stage depends on: set by the runner before run().
  std::string fingerprint;
};

// Makes the stages known by name, in the order in which they run.
std::vector<std::string> stage_names();
std::unique_ptr<Stage> make_stage(std::string_view name);

}  // namespace vertebra
