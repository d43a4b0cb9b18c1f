// The report's files: what a run folder holds for it, and report.html itself.
#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/manifest.h"
#include "eval/report.h"
#include "eval/report_page.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// The JSON lines of a file; a last line that a kill cut off (no line end) is left out.
std::vector<Json> read_json_lines(const fs::path& path) {
  std::vector<Json> out;
  if (!fs::is_regular_file(path)) return out;
  const std::string text = read_file(path);
  size_t number = 0;
  for (size_t start = 0; start < text.size();) {
    const size_t end = text.find('\n', start);
    if (end == std::string::npos) break;
    const std::string_view line(text.data() + start, end - start);
    start = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    out.push_back(parse_json(line, fmt::format("{}:{}", path.string(), number)));
  }
  return out;
}

std::vector<ReportStage> stages_of(const fs::path& run_folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(run_folder)) {
    const std::string name = entry.path().filename().string();
    if (name != "model" && fs::is_regular_file(entry.path() / "manifest.json")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  std::vector<ReportStage> out;
  for (std::string& name : names) out.emplace_back().name = std::move(name);
  return out;
}

}  // namespace

ReportInput read_run(const fs::path& run_folder, const std::string& recipe_name,
                     const std::string& recipe_text, std::vector<ReportStage> stages) {
  require(fs::is_directory(run_folder), Code::kNotFound, "'{}' is no folder of a run", run_folder.string());
  ReportInput input;
  input.recipe_name = recipe_name;
  input.recipe_text = recipe_text;
  input.version = program_version();
  input.stages = stages.empty() ? stages_of(run_folder) : std::move(stages);
  for (ReportStage& stage : input.stages) {
    const fs::path folder = run_folder / stage.name;
    if (fs::is_regular_file(folder / "manifest.json")) {
      stage.manifest = stage.name + "/manifest.json";
      stage.results = read_manifest(folder).results;
      // Of an unchanged stage only its manifest knows how long it took.
      if (stage.wall_seconds <= 0) stage.wall_seconds = number_of(stage.results, "wall_seconds").value_or(0);
    }
    stage.metrics = read_json_lines(folder / "metrics.jsonl");
  }
  input.tasks = read_json_lines(run_folder / "eval" / "results.jsonl");
  if (fs::is_regular_file(run_folder / "gate" / "gate.json"))
    input.gate = read_json_file(run_folder / "gate" / "gate.json");
  return input;
}

fs::path write_report(const fs::path& run_folder, const std::string& recipe_name,
                      const std::string& recipe_text, std::vector<ReportStage> stages) {
  const fs::path path = run_folder / "report.html";
  write_file_atomic(path, render_report(read_run(run_folder, recipe_name, recipe_text, std::move(stages))));
  return path;
}

}  // namespace vertebra
