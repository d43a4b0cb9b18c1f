// vertebra plan as a user runs it, and the tables of docs/scaling.md, which must be what it prints.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

#include "tests/cli/run_program.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class Plan : public ::testing::Test {
 protected:
  Plan() : folder_(fs::path(::testing::TempDir()) / fmt::format("plan-{}", getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Plan() override { fs::remove_all(folder_); }

  // In the source folder, where recipes/ is.
  Outcome run(const std::string& arguments) const {
    return run_program(VERTEBRA_SOURCE_DIR, "plan " + arguments, folder_);
  }

  fs::path folder_;
};

TEST_F(Plan, TheTablesOfThePageAreWhatItPrints) {
  std::istringstream page(read_file(fs::path(VERTEBRA_SOURCE_DIR) / "docs" / "scaling.md"));
  const std::string start = "<!-- vertebra plan ", end = " -->";
  int tables = 0;
  std::string line;
  while (std::getline(page, line)) {
    if (!line.starts_with(start) || !line.ends_with(end)) continue;
    const std::string arguments = line.substr(start.size(), line.size() - start.size() - end.size());
    std::string table;
    while (std::getline(page, line) && line.starts_with("|")) table += line + "\n";
    EXPECT_EQ(run(arguments).out, table) << arguments << ": run tools/scaling-tables";
    ++tables;
  }
  EXPECT_GE(tables, 27);  // three sizes of model on the chips of every vendor
}

TEST_F(Plan, SaysWhatAStepNeeds) {
  const Outcome outcome =
      run("recipes/plan/llama-8b.toml --mesh data=2,fsdp=16,tensor=2 --chip trn2 --rows 64 --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json json = outcome.json();
  EXPECT_EQ(json["parameters"], 8030261248);  // as transformers counts Llama 3.1 8B
  EXPECT_EQ(json["chips"], 64);
  EXPECT_EQ(json["accumulation"], 16);
  EXPECT_EQ(json["precision"], "bf16");
  EXPECT_EQ(json["fits"], true);
  EXPECT_NEAR(json["model_flops"].get<double>(), 4194304.0 * (6 * 7504658432.0 + 6.0 * 32 * 4096 * 4096),
              1e12);
  double sum = 0;
  for (const auto& [part, bytes] : json["memory_bytes"].items()) {
    if (part != "total" && part != "activations_other_way") sum += bytes.get<double>();
  }
  EXPECT_EQ(json["memory_bytes"]["total"].get<double>(), sum);
  EXPECT_EQ(json["collectives"].size(), 5u);
  const Outcome words =
      run("recipes/plan/llama-8b.toml --mesh data=2,fsdp=16,tensor=2 --chip trn2 --rows 64");
  for (const char* part :
       {"64 x trn2", "all-gather", "reduce-scatter", "tokens a second", "share of the peak", "fits"})
    EXPECT_NE(words.out.find(part), std::string::npos) << part << "\n" << words.out;
}

TEST_F(Plan, TakesAnyRecipe) {
  for (const char* recipe : {"recipes/base.toml", "recipes/novels.toml", "recipes/hello.toml"}) {
    const Outcome outcome = run(fmt::format("{} --chip H100 --set model.tied=true --json", recipe));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.json()["fits"], true);
    EXPECT_GT(outcome.json()["tokens_per_second"].get<double>(), 1e5);
  }
}

TEST_F(Plan, WhatIsNotStatedIsNotMadeUp) {
  const Json beyond = run("recipes/plan/llama-8b.toml --mesh fsdp=64 --chip MI300X --rows 64 --json").json();
  EXPECT_TRUE(beyond["seconds"]["network"].is_null());
  EXPECT_EQ(beyond["complete"], false);
  const Json within = run("recipes/plan/llama-8b.toml --mesh fsdp=8 --chip MI300X --rows 64 --json").json();
  EXPECT_EQ(within["complete"], true);
  EXPECT_EQ(within["seconds"]["network"], 0);
}

TEST_F(Plan, MistakesAreTold) {
  const auto told = [&](const std::string& arguments, const char* part) {
    const Outcome outcome = run("recipes/plan/llama-8b.toml " + arguments);
    EXPECT_NE(outcome.code, 0);
    EXPECT_NE(outcome.err.find(part), std::string::npos) << arguments << "\n" << outcome.err;
  };
  told("--chip trn2 --mesh data=3", "16 rows");
  told("--chip trn2 --mesh tensor=16", "model.key_value_heads");
  told("--chip trn2 --mesh pipeline=4", "pipeline=4");
  told("--chip trn2 --rows 100", "no multiple");
  told("--chip neuron", "trn1, trn2");
  told("--chip abacus", "Blackhole");
  told("--chip v5p --set pretrain.precision=f32", "precision bf16");
  told("--chip trn2 --stage sft", "pretrain");
}

}  // namespace
}  // namespace vertebra
