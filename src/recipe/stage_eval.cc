// The stages `eval` and `gate`: scores of the trained model on tasks, and the verdict by the recipe's
// thresholds.
#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "eval/task.h"
#include "recipe/model_settings.h"
#include "recipe/stage.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

constexpr EngineOptions kEngine = {.max_requests = 32};

class EvalStage final : public Stage {
 public:
  std::string_view name() const override { return "eval"; }

  void configure(const RunContext& context, Settings& settings) override {
    for (const std::string& task : settings.texts("tasks", std::vector<std::string>{})) {
      task_files_.push_back(context.recipe.resolve(task));
    }
    limit_ = settings.integer("limit", 0, 0, 1 << 30);
    options_.max_tokens = settings.integer("max_tokens", 64, 1, 1 << 20);
    options_.use_chat_template = settings.flag("chat", true);
    require(!task_files_.empty() || context.has_stage("facts"),
            "{}: the stage 'eval' has no tasks: name JSONL files in eval.tasks, or add a stage 'facts'",
            context.recipe.file.string());
    training_stage_ = context.last_training_stage();
  }

  std::vector<std::string> needs(const RunContext& context) const override {
    std::vector<std::string> out = {training_stage_};
    if (context.has_stage("facts")) out.emplace_back("facts");
    return out;
  }
  std::map<std::string, fs::path> files(const RunContext&) const override {
    std::map<std::string, fs::path> out;
    for (const fs::path& file : task_files_) out[file.filename().string()] = file;
    return out;
  }

  std::vector<StageGraph> graphs(const RunContext& context, const GraphConditions& conditions) override {
    const std::unique_ptr<Model> model = ModelSettings::read(context).make(conditions.vocabulary);
    std::vector<StageGraph> out;
    out.push_back({"serving", device_graphs(*model, kEngine).step});
    return out;
  }

  Json run(const RunContext& context, const fs::path& folder) override {
    std::vector<fs::path> files = task_files_;
    if (context.has_stage("facts")) {
      std::vector<fs::path> groups;
      for (const auto& entry : fs::directory_iterator(context.stage_folder("facts") / "eval"))
        groups.push_back(entry.path());
      std::sort(groups.begin(), groups.end());
      files.insert(files.end(), groups.begin(), groups.end());
    }
    Assistant assistant(context.backend, context.stage_folder(training_stage_), kEngine);
    Json results = Json::object();
    std::string lines;
    for (const fs::path& file : files) {
      const TaskResult result = run_task(context.backend, assistant, read_task(file, limit_), options_);
      lines += json_line(result.to_json()) + "\n";
      results[result.name] = result.score();
    }
    write_file_atomic(folder / "results.jsonl", lines);
    return {{"scores", results}};
  }

 private:
  std::vector<fs::path> task_files_;
  int64_t limit_ = 0;
  TaskOptions options_;
  std::string training_stage_;
};

class GateStage final : public Stage {
 public:
  std::string_view name() const override { return "gate"; }
  std::vector<std::string> needs(const RunContext&) const override { return {"eval"}; }

  void configure(const RunContext& context, Settings& settings) override {
    thresholds_ = settings.numbers("at_least");
    require(!thresholds_.empty(),
            "{}: the gate has no thresholds: [gate.at_least] names tasks and the score each must reach",
            context.recipe.file.string());
  }

  Json run(const RunContext& context, const fs::path& folder) override {
    const Json scores =
        json_get<Json>(read_manifest(context.stage_folder("eval")).results, "scores", "eval/manifest.json");
    Json checks = Json::array();
    bool passed = true;
    for (const auto& [task, wanted] : thresholds_) {
      require(scores.contains(task),
              "the gate asks for a score of '{}', which the stage 'eval' has not measured; it has: {}", task,
              json_line(scores));
      const auto score = scores[task].get<double>();
      checks.push_back({{"name", task}, {"score", score}, {"wanted", wanted}, {"passed", score >= wanted}});
      passed = passed && score >= wanted;
    }
    const Json verdict = {{"passed", passed}, {"checks", checks}};
    write_json_file(folder / "gate.json", verdict);
    return verdict;
  }

 private:
  std::vector<std::pair<std::string, double>> thresholds_;
};

}  // namespace

std::unique_ptr<Stage> make_eval_stage() { return std::make_unique<EvalStage>(); }
std::unique_ptr<Stage> make_gate_stage() { return std::make_unique<GateStage>(); }

}  // namespace vertebra
