#include "eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/file.h"
#include "base/progress.h"
#include "eval/report_chart.h"
#include "eval/report_page.h"

namespace vertebra {
namespace {

constexpr size_t kTextLimit = 1200;      // bytes shown of a sample or an answer
constexpr size_t kSamplesPerPrompt = 8;  // of a stage, evenly over its steps
constexpr size_t kListLimit = 200;       // entries shown of a list: tasks, prompts, results
constexpr size_t kWrongLimit = 20;

std::vector<ChartPoint> points_of(const std::vector<Json>& metrics, const char* key) {
  std::vector<ChartPoint> out;
  for (const Json& line : metrics) {
    const auto x = number_of(line, "step"), y = number_of(line, key);
    if (x && y) out.push_back({*x, *y});
  }
  std::sort(out.begin(), out.end(), [](ChartPoint a, ChartPoint b) { return a.x < b.x; });
  return out;
}

std::string tile(const std::string& value, const std::string& label) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape_html(value),
                     escape_html(label));
}

std::string badge(bool good, std::string_view text) {
  return fmt::format("<span class=\"badge {}\">{}</span>", good ? "good" : "bad", text);
}

std::string bar(double share) {
  return fmt::format("<div class=\"bar\"><i style=\"width:{:.2f}%\"></i></div>",
                     100 * std::clamp(share, 0.0, 1.0));
}

std::optional<bool> verdict(const Json& gate) {
  if (!gate.is_object() || !gate.contains("passed") || !gate["passed"].is_boolean()) return std::nullopt;
  return gate["passed"].get<bool>();
}

double total_of(const ReportInput& input, const char* key) {
  double sum = 0;
  for (const ReportStage& stage : input.stages) sum += number_of(stage.results, key).value_or(0);
  return sum;
}

double total_seconds(const ReportInput& input) {
  double sum = 0;
  for (const ReportStage& stage : input.stages) sum += std::max(0.0, stage.wall_seconds);
  return sum;
}

// Stages of a small run take less than a second.
std::string short_duration(double seconds) {
  return seconds < 10 ? fmt::format("{:.1f} s", std::max(0.0, seconds)) : format_duration(seconds);
}

std::string header(const ReportInput& input) {
  std::string out = fmt::format("<header><h1>{}</h1>", escape_html(input.recipe_name));
  if (const auto passed = verdict(input.gate)) {
    out += badge(*passed, *passed ? "gate passed" : "gate NOT passed");
  } else {
    out += "<span class=\"badge plain\">no gate</span>";
  }
  return out + "</header>\n";
}

std::string key_figures(const ReportInput& input) {
  std::string out = "<section class=\"tiles\">";
  std::optional<double> parameters, loss, bits;
  std::string device;
  for (const ReportStage& stage : input.stages) {
    if (const auto n = number_of(stage.results, "parameters")) parameters = n;
    if (const auto n = number_of(stage.results, "validation_loss")) loss = n;
    if (const auto n = number_of(stage.results, "validation_bits_per_byte")) bits = n;
    if (const std::string text = text_of(stage.results, "device"); !text.empty()) device = text;
  }
  if (parameters) out += tile(format_compact(*parameters), "parameters");
  double steps = 0, tokens = 0;
  for (const ReportStage& stage : input.stages) {
    if (stage.metrics.empty()) continue;
    steps += number_of(stage.results, "steps").value_or(0);
    tokens += number_of(stage.results, "tokens").value_or(0);
  }
  if (tokens > 0) out += tile(format_compact(tokens), "tokens trained on");
  if (steps > 0) out += tile(format_count(steps), "steps");
  if (loss) out += tile(format_number(*loss, 4), "validation loss, nats per token");
  if (bits && *bits > 0) out += tile(format_number(*bits, 4), "validation bits per byte");
  double right = 0, questions = 0;
  for (const Json& task : input.tasks) {
    right += number_of(task, "right").value_or(0);
    questions += number_of(task, "questions").value_or(0);
  }
  if (questions > 0) out += tile(format_percent(right / questions), "of all questions answered right");
  out += tile(short_duration(total_seconds(input)), "wall time");
  if (const double cores = total_of(input, "core_seconds"); cores > 0)
    out += tile(cores < 10 ? fmt::format("{:.1f}", cores) : format_count(cores), "core seconds of training");
  out += "</section>\n";
  if (!device.empty())
    out +=
        fmt::format("<p class=\"soft\" style=\"margin-top:10px\">Trained on {}</p>\n", escape_html(device));
  return out;
}

// The 95 % interval of a share (Wilson, 1927): honest for few questions and near 0 and 1.
std::string interval(double right, double questions) {
  const double z = 1.96, n = questions, p = right / n;
  const double middle = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z / (1 + z * z / n) * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n));
  return fmt::format("{:.0f}\xE2\x80\x93{:.0f} %", 100 * std::max(0.0, middle - half),
                     100 * std::min(1.0, middle + half));
}

std::string score_row(const std::string& name, double right, double questions, bool sub) {
  if (!(questions > 0) || right < 0 || right > questions) return "";
  return fmt::format(
      "<div class=\"score{}\"><div class=\"name\">{}</div>{}<div class=\"n\">{}</div>"
      "<div class=\"soft\">{} of {}, {}</div></div>",
      sub ? " sub" : "", escape_html(shorten(name, 120)), bar(right / questions),
      format_percent(right / questions), format_count(right), format_count(questions),
      interval(right, questions));
}

std::string tags_of(const Json& task) {
  const auto tags = task.find("tags");
  if (tags == task.end() || !tags->is_object() || tags->empty()) return "";
  std::string rows;
  size_t count = 0;
  for (const auto& [name, counts] : tags->items()) {
    if (++count > kListLimit) break;
    rows += score_row(name, number_of(counts, "right").value_or(0),
                      number_of(counts, "questions").value_or(0), true);
  }
  return rows;
}

std::string wrong_of(const Json& task) {
  const auto wrong = task.find("wrong");
  if (wrong == task.end() || !wrong->is_array() || wrong->empty()) return "";
  std::string rows;
  const size_t shown = std::min(wrong->size(), kWrongLimit);
  for (size_t i = 0; i < shown; ++i) {
    rows += "<tr>";
    for (const char* key : {"prompt", "expected", "found"}) {
      rows += "<td class=\"text\">" + escape_html(shorten(text_of((*wrong)[i], key), kTextLimit)) + "</td>";
    }
    rows += "</tr>";
  }
  return fmt::format(
      "<p class=\"soft sublist\">Wrong answers, the first {}</p><div class=\"wide\"><table>"
      "<tr><th>prompt</th><th>expected</th><th>found</th></tr>{}</table></div>",
      shown, rows);
}

// A task's row and what lies behind it; a text (no questions) shows its figures.
std::string task_row(const Json& task) {
  if (!task.is_object()) return "";
  const std::string name = text_of(task, "task").empty() ? "text" : text_of(task, "task");
  const auto questions = number_of(task, "questions");
  if (questions && *questions > 0) {
    const std::string row = score_row(name, number_of(task, "right").value_or(0), *questions, false);
    const std::string tags = tags_of(task), wrong = wrong_of(task);
    if (tags.empty() && wrong.empty()) return row;
    return row + fmt::format("<details><summary>{}</summary>{}{}</details>",
                             tags.empty()    ? "wrong answers"
                             : wrong.empty() ? "by tag"
                                             : "by tag, wrong answers",
                             tags, wrong);
  }
  std::string figures;
  for (const auto& [key, label] :
       {std::pair{"perplexity", "perplexity per token"}, std::pair{"bits_per_byte", "bits per byte"},
        std::pair{"loss", "loss, nats per token"}, std::pair{"tokens", "tokens"}}) {
    if (const auto value = number_of(task, key))
      figures += fmt::format("<dt>{}</dt><dd>{}</dd>", label, format_number(*value, 4));
  }
  return fmt::format("<div class=\"score\"><div class=\"name\">{}</div></div><dl>{}</dl>",
                     escape_html(shorten(name, 120)), figures);
}

std::string scores(const ReportInput& input) {
  if (input.tasks.empty()) return "";
  std::string out =
      "<h2>Scores</h2>\n<p class=\"soft\">Share of questions answered right, with its 95&nbsp;% "
      "interval.</p>\n"
      "<div class=\"card\">";
  for (size_t i = 0; i < std::min(input.tasks.size(), kListLimit); ++i) out += task_row(input.tasks[i]);
  return out + "</div>\n";
}

std::string gate(const ReportInput& input) {
  const auto passed = verdict(input.gate);
  if (!passed) return "";
  std::string rows;
  const Json checks = input.gate.value("checks", Json::array());
  for (const Json& check : checks) {
    const auto score = number_of(check, "score"), wanted = number_of(check, "wanted");
    const bool good = check.is_object() && check.contains("passed") && check["passed"] == true;
    rows += fmt::format(
        "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
        escape_html(shorten(text_of(check, "name"), 200)), score ? format_percent(*score) : "?",
        wanted ? format_percent(*wanted) : "?", badge(good, good ? "passed" : "failed"));
  }
  return fmt::format(
      "<h2>Gate</h2>\n<div class=\"card\"><p>{}</p><div class=\"wide names\"><table><tr><th>check</th>"
      "<th class=\"n\">score</th><th class=\"n\">at least</th><th class=\"n\">verdict</th></tr>{}"
      "</table></div></div>\n",
      *passed ? "Every check passed: this model may be served."
              : "At least one check failed: this model is not for release.",
      rows);
}

std::string loss_charts(const ReportStage& stage) {
  const auto raw = points_of(stage.metrics, "loss");
  Chart loss{"Loss", "nats per token", "", "step", {}, false};
  if (raw.size() >= 40) {
    loss.series.push_back({"training", raw, 1, true, false});
    loss.series.push_back({"training, mean", smooth(raw, raw.size() / 25), 1, false, false});
  } else {
    loss.series.push_back({"training", raw, 1, false, false});
  }
  loss.series.push_back({"validation", points_of(stage.metrics, "validation_loss"), 2, false, true});
  const auto skipped = number_of(stage.results, "skipped_updates");
  if (skipped && *skipped > 0) loss.note = format_count(*skipped) + " updates were skipped as unsound";

  auto speed = points_of(stage.metrics, "tokens_per_second");
  Chart throughput{"Throughput", "tokens per second", "", "step", {{"tokens/s", speed, 3, false, false}},
                   true};
  const auto share = points_of(stage.metrics, "share_of_ceiling");
  if (!speed.empty()) {
    const auto median = [](std::vector<ChartPoint> points) {
      const auto middle = points.begin() + static_cast<std::ptrdiff_t>(points.size() / 2);
      std::nth_element(points.begin(), middle, points.end(),
                       [](ChartPoint a, ChartPoint b) { return a.y < b.y; });
      return middle->y;
    };
    throughput.note = "median " + format_number(median(speed)) + " tokens/s";
    if (!share.empty())
      throughput.note += ", " + format_percent(median(share)) + " of the chip's arithmetic ceiling";
  }
  const Chart rate{"Learning rate",
                   "share of its peak",
                   "",
                   "step",
                   {{"share of peak", points_of(stage.metrics, "learning_rate_factor"), 4, false, false}},
                   true};
  const Chart norm{"Gradient norm",
                   "before clipping",
                   "",
                   "step",
                   {{"norm", points_of(stage.metrics, "gradient_norm"), 2, false, false}},
                   true};
  const Chart bits{"Validation",
                   "bits per byte of text",
                   "",
                   "step",
                   {{"bits per byte", points_of(stage.metrics, "validation_bits_per_byte"), 2, false, true}},
                   false};
  const bool has_bits = bits.series[0].points.size() >= 2;
  return "<div class=\"charts\">\n" + render_chart(loss) + render_chart(throughput) + render_chart(rate) +
         render_chart(norm) + (has_bits ? render_chart(bits) : "") + "</div>\n";
}

// What the model said to each prompt as training went on.
std::string samples(const ReportStage& stage) {
  std::vector<std::string> prompts;
  std::map<std::string, std::vector<std::pair<double, std::string>>> by_prompt;
  for (const Json& line : stage.metrics) {
    const auto step = number_of(line, "step");
    if (!step || !line.contains("samples") || !line["samples"].is_array()) continue;
    for (const Json& sample : line["samples"]) {
      const std::string prompt = text_of(sample, "prompt");
      if (!by_prompt.contains(prompt)) prompts.push_back(prompt);
      by_prompt[prompt].emplace_back(*step, text_of(sample, "text"));
    }
  }
  if (prompts.empty()) return "";
  std::string out = "<h3 style=\"margin-top:20px\">Samples over time</h3>\n";
  if (prompts.size() > kListLimit) prompts.resize(kListLimit);
  for (const std::string& prompt : prompts) {
    const auto& answers = by_prompt[prompt];
    const size_t shown = std::min(answers.size(), kSamplesPerPrompt);
    std::string rows;
    for (size_t i = 0; i < shown; ++i) {
      const size_t index = shown == 1 ? answers.size() - 1 : i * (answers.size() - 1) / (shown - 1);
      rows += fmt::format("<tr><td>step {}</td><td class=\"text\">{}</td></tr>",
                          format_compact(answers[index].first),
                          escape_html(shorten(answers[index].second, kTextLimit)));
    }
    out += fmt::format(
        "<div class=\"card\"><p class=\"text\"><b>{}</b></p><table class=\"sample\">{}</table></div>\n",
        escape_html(shorten(prompt, kTextLimit)), rows);
  }
  return out;
}

std::string training(const ReportInput& input) {
  std::string out;
  for (const ReportStage& stage : input.stages) {
    if (stage.metrics.empty()) continue;
    out +=
        fmt::format("<h2>Training: {}</h2>\n", escape_html(stage.name)) + loss_charts(stage) + samples(stage);
  }
  return out;
}

// Numbers, texts and flags of a stage's results, nested names joined by dots.
void list_results(const Json& value, const std::string& name, size_t& left, std::string& out) {
  if (left == 0) return;
  if (value.is_object()) {
    for (const auto& [key, inner] : value.items())
      list_results(inner, name.empty() ? key : name + "." + key, left, out);
    return;
  }
  std::string text;
  if (value.is_string()) {
    text = value.get<std::string>();
  } else if (value.is_number_integer()) {
    text = format_count(value.get<double>());
  } else if (value.is_number()) {
    text = format_number(value.get<double>(), 5);
  } else {
    text = json_line(value);
  }
  --left;
  out +=
      fmt::format("<dt>{}</dt><dd>{}</dd>", escape_html(shorten(name, 120)), escape_html(shorten(text, 300)));
}

std::string costs(const ReportInput& input) {
  if (input.stages.empty()) return "";
  const double total = std::max(1e-9, total_seconds(input));
  std::string rows, details;
  for (const ReportStage& stage : input.stages) {
    const auto cores = number_of(stage.results, "core_seconds");
    const std::string link = stage.manifest.empty() ? ""
                                                    : fmt::format("<a href=\"{}\">manifest</a>",
                                                                  escape_html(escape_path(stage.manifest)));
    rows += fmt::format(
        "<tr><td>{}{}</td><td class=\"n\">{}</td><td class=\"narrow-off\" style=\"width:36%\">"
        "<div style=\"padding-top:6px\">{}</div></td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
        escape_html(stage.name), stage.ran ? "" : " <span class=\"soft\">(unchanged)</span>",
        short_duration(stage.wall_seconds), bar(stage.wall_seconds / total),
        cores ? (*cores < 10 ? fmt::format("{:.1f}", *cores) : format_count(*cores)) : "\xE2\x80\x93", link);
    std::string list;
    size_t left = kListLimit;
    if (stage.results.is_object()) list_results(stage.results, "", left, list);
    if (!list.empty()) {
      details += fmt::format("<details><summary>{}: what was measured</summary><dl>{}</dl></details>",
                             escape_html(stage.name), list);
    }
  }
  return fmt::format(
      "<h2>Costs</h2>\n<div class=\"card\"><div class=\"wide names\"><table><tr><th>stage</th>"
      "<th class=\"n\">wall time</th><th class=\"narrow-off\"></th><th class=\"n\">core seconds</th>"
      "<th class=\"n\">certificate</th></tr>{}<tr><td><b>all</b></td><td class=\"n\"><b>{}</b></td>"
      "<td class=\"narrow-off\"></td><td></td><td></td></tr></table></div>{}</div>\n",
      rows, short_duration(total_seconds(input)), details);
}

std::string recipe(const ReportInput& input) {
  if (input.recipe_text.empty()) return "";
  return fmt::format("<h2>Recipe</h2>\n<div class=\"card\"><pre>{}</pre></div>\n",
                     escape_html(shorten(input.recipe_text, size_t{1} << 20)));
}

}  // namespace

std::string render_report(const ReportInput& input) {
  const std::string body = header(input) + key_figures(input) + gate(input) + scores(input) +
                           training(input) + costs(input) + recipe(input) +
                           fmt::format(
                               "<footer>Made by Vertebra {}. This page needs no network; the "
                               "manifests lie beside it.</footer>\n",
                               escape_html(input.version));
  return html_page(input.recipe_name + ": report", body);
}

}  // namespace vertebra
