// The report of a run: one self-contained HTML page (no other file, no network) with curves, samples,
// scores, the gate's verdict, costs and the recipe. Collects and renders; measures nothing. Called at the
// end of `vertebra run`.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"

namespace vertebra {

struct ReportStage {
  std::string name;
  bool ran = true;                // false: nothing had changed, an earlier run's result was taken
  double wall_seconds = 0;        // of the run that made the result
  Json results = Json::object();  // as in its manifest
  std::string manifest;           // its path relative to the report; empty: none
  std::vector<Json> metrics =
      {};  // lines of metrics.jsonl (train/trainer.h); empty: the stage trains nothing
};

struct ReportInput {
  std::string recipe_name, recipe_text;
  std::vector<ReportStage> stages;  // in the order in which they ran
  std::vector<Json> tasks;          // TaskResult::to_json() or TextLoss::to_json() of every task
  Json gate;            // {"passed", "checks": [{"name", "score", "wanted", "passed"}]}; null: none
  std::string version;  // of the program
};

// The page. Every text is taken as hostile and escaped; fields that are missing or of another type than
// documented are left out. The same input gives the same bytes.
std::string render_report(const ReportInput& input);

// Collects a run's report from its folder: STAGE/manifest.json, STAGE/metrics.jsonl, eval/results.jsonl,
// gate/gate.json. `stages` brings names, `ran` and wall times; empty: every folder with a manifest, by
// name. Throws invalid_argument naming file and line for what is no JSON; files that are not there are no
// error.
ReportInput read_run(const std::filesystem::path& run_folder, const std::string& recipe_name,
                     const std::string& recipe_text, std::vector<ReportStage> stages = {});

// Writes run_folder/report.html. Returns its path.
std::filesystem::path write_report(const std::filesystem::path& run_folder, const std::string& recipe_name,
                                   const std::string& recipe_text, std::vector<ReportStage> stages = {});

}  // namespace vertebra
