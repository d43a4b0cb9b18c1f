// The report: complete, self-contained, safe against what data and models put into it.
#include "eval/report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "base/manifest.h"
#include "eval/report_chart.h"
#include "eval/report_page.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() : path(fs::temp_directory_path() / fmt::format("report_test_{}", getpid())) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

ReportInput example(const std::string& hostile = "plain") {
  ReportInput input;
  input.recipe_name = "hello " + hostile;
  input.recipe_text = "seed = 7 # " + hostile;
  input.version = "1.2.3";
  ReportStage stage;
  stage.name = "sft";
  stage.wall_seconds = 245;
  stage.manifest = "sft/manifest.json";
  stage.results = {{"parameters", 943'232}, {"steps", 200},      {"tokens", 3'000'000},
                   {"core_seconds", 478.2}, {"device", hostile}, {hostile, hostile}};
  for (int step = 1; step <= 200; ++step) {
    Json line = {{"step", step},
                 {"loss", 7.0 / step},
                 {"learning_rate_factor", 1.0 - step / 250.0},
                 {"gradient_norm", 1.0 + 0.1 * (step % 3)},
                 {"tokens_per_second", 12'000.0 + step},
                 {"share_of_ceiling", 0.6}};
    if (step % 50 == 0) {
      line["validation_loss"] = 8.0 / step;
      line["validation_bits_per_byte"] = 3.0 / step;
      line["samples"] = {{{"prompt", "Say " + hostile}, {"text", fmt::format("{} at {}", hostile, step)}}};
    }
    stage.metrics.push_back(line);
  }
  input.stages.push_back(stage);
  input.tasks.push_back({{"task", "held_out " + hostile},
                         {"right", 9},
                         {"questions", 10},
                         {"tags", {{"relation=" + hostile, {{"right", 3}, {"questions", 4}}}}},
                         {"wrong", {{{"prompt", hostile}, {"expected", hostile}, {"found", hostile}}}}});
  input.gate = {{"passed", false},
                {"checks", {{{"name", hostile}, {"score", 0.9}, {"wanted", 0.95}, {"passed", false}}}}};
  return input;
}

TEST(Report, HasEverySection) {
  const std::string page = render_report(example());
  for (const char* part :
       {"gate NOT passed", "943.2 k", "90.0 %", "9 of 10", "relation=plain", "Training: sft", "Loss",
        "Throughput", "Learning rate", "Gradient norm", "60.0 % of the chip", "Samples over time",
        "plain at 200", "4 min 05 s", "478", "href=\"./sft/manifest.json\"", "seed = 7 # plain", "95.0 %"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(page, render_report(example()));
}

TEST(Report, NamesNoOtherHostOrFile) {
  const std::string page = render_report(example());
  for (const char* part : {"http:", "https:", "src=", "url(", "@import", "file:"})
    EXPECT_EQ(page.find(part), std::string::npos) << part;
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
  EXPECT_NE(page.find("prefers-color-scheme:dark"), std::string::npos);
}

TEST(Report, EscapesHostileText) {
  const std::string hostile = "</title></script><script>alert(1)</script><img onerror=\"x\" 'y' \x01\xff";
  const std::string page = render_report(example(hostile));
  EXPECT_EQ(count(page, "<script"), 1u);
  EXPECT_EQ(count(page, "</script"), 1u);
  EXPECT_EQ(count(page, "<img"), 0u);
  EXPECT_EQ(page.find('\x01'), std::string::npos);
  EXPECT_EQ(page.find('\xff'), std::string::npos);
  EXPECT_EQ(escape_path("javascript:alert(1)"), "./javascript%3Aalert%281%29");
  EXPECT_EQ(escape_path("//host/x\""), "./host/x%22");
  EXPECT_EQ(escape_html("a\xc3\xa9\xe2\x82"), "a\xc3\xa9\xef\xbf\xbd");
}

TEST(Report, SurvivesFieldsOfOtherTypesAndNumbersThatAreNone) {
  ReportInput input = example();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  auto& metrics = input.stages[0].metrics;
  metrics.push_back({{"step", "x"}, {"loss", 1}});
  metrics.push_back({{"step", 201}, {"loss", nullptr}, {"samples", 5}});
  metrics.push_back({{"step", 202}, {"loss", 1e308}, {"gradient_norm", nan}});
  metrics.push_back({{"step", 203}, {"loss", -1e308}});
  metrics.push_back({{"step", 204}, {"samples", {5, nullptr, {{"text", 1}}}}});
  metrics.push_back(Json::array());
  input.stages.push_back({"odd", true, -5, Json::array(), "", {Json("text")}});
  input.tasks.push_back(5);
  input.tasks.push_back({{"task", 5}, {"right", 7}, {"questions", 3}, {"tags", 1}, {"wrong", {1}}});
  input.tasks.push_back({{"text", "x"}, {"perplexity", 12.5}});
  input.gate["checks"].push_back(7);
  const std::string page = render_report(input);
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_EQ(page.find("e+30"), std::string::npos);
  EXPECT_NE(page.find("12.5"), std::string::npos);
  EXPECT_FALSE(render_report({}).empty());
  input.gate = Json::array();
  EXPECT_NE(render_report(input).find("no gate"), std::string::npos);
}

TEST(ReportChart, DownsamplingKeepsEndsAndSpikes) {
  std::vector<ChartPoint> points;
  for (int i = 0; i < 100'000; ++i) points.push_back({double(i), i == 54'321 ? 9.0 : std::sin(i / 1e4)});
  const auto fewer = downsample(points);
  EXPECT_LE(fewer.size(), 400u);
  EXPECT_GE(fewer.size(), 300u);
  EXPECT_EQ(fewer.front().x, 0);
  EXPECT_EQ(fewer.back().x, 99'999);
  bool spike = false;
  for (size_t i = 0; i < fewer.size(); ++i) {
    spike |= fewer[i].y == 9;
    EXPECT_TRUE(i == 0 || fewer[i - 1].x < fewer[i].x);
  }
  EXPECT_TRUE(spike);
  EXPECT_EQ(downsample({{1, 2}}).size(), 1u);
}

TEST(ReportChart, TicksAreRoundAndInside) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(-0.04, 0.11, 3), (std::vector<double>{0, 0.05, 0.1}));
  EXPECT_EQ(round_ticks(3, 3, 4), (std::vector<double>{3}));
  EXPECT_LE(round_ticks(1e9, 1e9 + 7, 4).size(), 20u);
}

TEST(ReportChart, SmoothingIsASymmetricMean) {
  const auto out = smooth({{0, 0}, {1, 3}, {2, 6}, {3, 0}}, 3);
  EXPECT_DOUBLE_EQ(out[0].y, 0);
  EXPECT_DOUBLE_EQ(out[1].y, 3);
  EXPECT_DOUBLE_EQ(out[2].y, 3);
  EXPECT_DOUBLE_EQ(out[3].y, 0);
}

TEST(ReportChart, DegenerateSeries) {
  Chart chart{"T", "u", "", "step", {{"a", {}, 1, false, false}}, false};
  EXPECT_EQ(render_chart(chart), "");
  for (const double value : {0.0, 5.0, -3.0, 1e-30, 1e90}) {
    chart.series[0].points = {{7, value}};
    const std::string one = render_chart(chart);
    EXPECT_NE(one.find("<path class=\"c1\""), std::string::npos);
    EXPECT_EQ(one.find("nan"), std::string::npos) << value;
    EXPECT_EQ(one.find("inf"), std::string::npos) << value;
  }
}

TEST(ReportFormat, Numbers) {
  EXPECT_EQ(format_count(1234567.4), "1,234,567");
  EXPECT_EQ(format_count(-1234), "-1,234");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_compact(1500), "1.5 k");
  EXPECT_EQ(format_compact(0.25), "0.25");
  EXPECT_EQ(format_compact(2e6), "2 M");
  EXPECT_EQ(format_number(0.012345), "0.0123");
  EXPECT_EQ(shorten("h\xc3\xa9llo", 2), "h \xe2\x80\xa6");
}

TEST(ReportFiles, CollectsARunFolder) {
  const Folder run;
  fs::create_directories(run.path / "pretrain");
  fs::create_directories(run.path / "eval");
  fs::create_directories(run.path / "gate");
  write_file_atomic(run.path / "pretrain" / "metrics.jsonl",
                    "{\"step\":1,\"loss\":2}\n\n{\"step\":2,\"loss\":1}\n{\"step\":3,\"lo");
  Manifest manifest;
  manifest.kind = "pretrain";
  manifest.results = {{"parameters", 12}, {"wall_seconds", 61}};
  write_manifest(run.path / "pretrain", manifest);
  write_file_atomic(run.path / "eval" / "results.jsonl",
                    "{\"task\":\"t\",\"right\":1,\"questions\":4,\"tags\":{},\"wrong\":[]}\n");
  write_file_atomic(run.path / "gate" / "gate.json", "{\"passed\":true,\"checks\":[]}");

  const ReportInput input = read_run(run.path, "name", "text");
  ASSERT_EQ(input.stages.size(), 1u);
  EXPECT_EQ(input.stages[0].name, "pretrain");
  EXPECT_EQ(input.stages[0].metrics.size(), 2u);
  EXPECT_EQ(input.stages[0].wall_seconds, 61);
  EXPECT_EQ(input.tasks.size(), 1u);
  const std::string page = read_file(write_report(run.path, "name", "text"));
  EXPECT_NE(page.find("gate passed"), std::string::npos);
  EXPECT_NE(page.find("1 of 4"), std::string::npos);

  write_file_atomic(run.path / "eval" / "results.jsonl", "{}\nno json\n");
  try {
    read_run(run.path, "name", "text");
    FAIL() << "broken results were taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("results.jsonl:2"), std::string::npos) << error.what();
  }
  EXPECT_THROW(read_run(run.path / "absent", "name", "text"), Error);
}

}  // namespace
}  // namespace vertebra
