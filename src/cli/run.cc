// vertebra run RECIPE.toml: executes what is missing or changed of a recipe.
#include "recipe/run.h"

#include <fmt/format.h>

#include "base/progress.h"
#include "base/thread_team.h"
#include "cli/command.h"
#include "recipe/mesh_settings.h"

namespace vertebra::cli {
namespace {

class RunCommand final : public Command {
 public:
  const char* name() const override { return "run"; }
  const char* description() const override {
    return "Run a recipe: what is missing or changed, from text to a gated model";
  }

  void add_options(CLI::App& app) override {
    app.add_option("recipe", recipe_, "The recipe, a TOML file")->required();
    app.add_option("--stage", options_.only_stage, "Run no stage after this one");
    app.add_option("--set", overrides_, "Override a key: --set pretrain.steps=50")->allow_extra_args(false);
    app.add_option("--out", out_, "Folder for runs")->capture_default_str();
    app.add_flag("--fresh", options_.fresh, "Forget what an earlier run has done");
  }

  int run(const GlobalOptions& global) override {
    options_.out = out_;
    const Recipe recipe = load_recipe(recipe_, overrides_);
    Backend& backend = open_backend(global, read_mesh(recipe));
    const RunOutcome outcome = run_recipe(recipe, backend, global_thread_team(), options_);
    if (global.json) {
      Json stages = Json::array();
      for (const StageOutcome& stage : outcome.stages) {
        stages.push_back({{"stage", stage.name},
                          {"ran", stage.ran},
                          {"seconds", stage.wall_seconds},
                          {"results", stage.results}});
      }
      print_json({{"run", outcome.folder.string()},
                  {"model", outcome.model.string()},
                  {"gate_passed", outcome.gate_passed},
                  {"stages", stages}});
    } else {
      for (const StageOutcome& stage : outcome.stages) {
        fmt::print("{:<10} {}\n", stage.name, stage.ran ? format_duration(stage.wall_seconds) : "unchanged");
      }
      if (!outcome.model.empty()) fmt::print("model      {}\n", outcome.model.string());
      if (!outcome.gate_passed)
        fmt::print("gate       NOT passed; see {}\n", (outcome.folder / "report.html").string());
    }
    return outcome.gate_passed ? kDone : kGateSaidNo;
  }

 private:
  std::string recipe_, out_ = "runs";
  std::vector<std::string> overrides_;
  RunOptions options_;
};

}  // namespace

std::unique_ptr<Command> make_run_command() { return std::make_unique<RunCommand>(); }

}  // namespace vertebra::cli
