// Executes a recipe: what is missing or changed is run, what was cut off is continued, what is done is
// left alone. Ends with the released model in runs/NAME/model and the report. Called by `vertebra run`.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/thread_team.h"
#include "recipe/recipe.h"
#include "recipe/stage.h"

namespace vertebra {

struct RunOptions {
  std::filesystem::path out = "runs";  // the run's folder is out/NAME
  std::string only_stage;              // run no stage after this one; empty: all
  bool fresh = false;                  // forget what was done before
};

struct StageOutcome {
  std::string name;
  bool ran = false;  // false: nothing had changed
  double wall_seconds = 0;
  Json results;
};

struct RunOutcome {
  std::filesystem::path folder, model;  // model: empty when no stage made one
  std::vector<StageOutcome> stages;
  bool gate_passed = true;
};

// The graphs that the recipe's stages hand to a device, named "STAGE/GRAPH", and "chat/serving", that of the
// released model; neither data nor earlier results are read. `backend` is only there to be named. For tools
// that look at graphs.
std::vector<StageGraph> recipe_graphs(const Recipe& recipe, Backend& backend, ThreadTeam& team,
                                      bool native_bf16);

// The recipe's training stages, likewise. Throws invalid_argument when it has none.
std::vector<Training> recipe_trainings(const Recipe& recipe, Backend& backend, ThreadTeam& team,
                                       bool native_bf16);

RunOutcome run_recipe(const Recipe& recipe, Backend& backend, ThreadTeam& team, const RunOptions& options);

}  // namespace vertebra
