// vertebra lint as a user runs it. No plugin and no data are needed.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "backend/pjrt/vendors.h"
#include "tests/cli/run_program.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class Lint : public ::testing::Test {
 protected:
  Lint() : folder_(fs::path(::testing::TempDir()) / fmt::format("lint-{}", getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~Lint() override { fs::remove_all(folder_); }

  Outcome run(const std::string& arguments) const {
    return run_program(folder_, "lint " + arguments, folder_);
  }

  static fs::path recipes() { return fs::path(VERTEBRA_SOURCE_DIR) / "recipes"; }

  fs::path folder_;
};

TEST_F(Lint, FindsNothingInAnyRecipeForAnyChip) {
  int recipe_count = 0;
  for (const auto& entry : fs::recursive_directory_iterator(recipes())) {
    if (entry.path().extension() != ".toml" || entry.path().filename() == "phrasings.toml") continue;
    ++recipe_count;
    // Of the large models, whose layers are all alike, two layers.
    const bool large = entry.path().parent_path().filename() == "plan";
    for (const pjrt::Vendor& vendor : pjrt::vendors()) {
      const Outcome outcome = run(fmt::format("'{}' --chip {} --json{}", entry.path().string(), vendor.name,
                                              large ? " --set model.depth=2" : ""));
      ASSERT_EQ(outcome.code, 0) << entry.path() << " " << vendor.name << "\n" << outcome.out << outcome.err;
      EXPECT_EQ(outcome.json()["found"], 0);
      EXPECT_GE(outcome.json()["modules"].size(), 5u);
    }
  }
  EXPECT_GE(recipe_count, 6);
}

TEST_F(Lint, CoversTrainingEvaluationAndServing) {
  const Outcome outcome = run(fmt::format("'{}/hello.toml' --chip neuron --json", recipes().string()));
  std::set<std::string> names;
  const Json summary = outcome.json();
  for (const Json& module : summary["modules"]) names.insert(module["module"].get<std::string>());
  for (const char* name : {"sft/step", "sft/evaluation", "sft/serving.256.8", "sft/sampling.8",
                           "eval/serving.256.32", "eval/serving.1.1", "chat/serving.1.1", "chat/sampling.1"})
    EXPECT_TRUE(names.contains(name)) << name;
  const Outcome halves =
      run(fmt::format("'{}/hello.toml' --chip neuron --json --set sft.accumulation=4", recipes().string()));
  EXPECT_NE(halves.out.find("\"sft/update\""), std::string::npos) << halves.out;
  EXPECT_EQ(halves.out.find("\"sft/step\""), std::string::npos);
}

TEST_F(Lint, PrintsAModuleOnRequestAndWritesThemAll) {
  const std::string recipe = fmt::format("'{}/base.toml'", recipes().string());
  const Outcome one = run(recipe + " --chip trn2 --module pretrain/update");
  EXPECT_EQ(one.code, 0);
  EXPECT_TRUE(one.out.starts_with("\"builtin.module\"()")) << one.out.substr(0, 100);
  EXPECT_EQ(run(recipe + " --chip trn2 --out modules").code, 0);
  EXPECT_EQ(read_file(folder_ / "modules" / "pretrain.update.mlir"), one.out);
  const Outcome unknown = run(recipe + " --chip trn2 --module absent");
  EXPECT_EQ(unknown.code, 2);
  EXPECT_NE(unknown.err.find("pretrain/step"), std::string::npos) << unknown.err;
}

// Native bf16 decides what precision "auto" means.
TEST_F(Lint, PrecisionFollowsTheChip) {
  const std::string recipe = fmt::format("'{}/novels.toml' --module pretrain/step", recipes().string());
  EXPECT_NE(run(recipe + " --chip trn2").out.find("bf16"), std::string::npos);
  EXPECT_EQ(run(recipe + " --chip cpu").out.find("bf16"), std::string::npos);
}

TEST_F(Lint, MistakesAreTold) {
  EXPECT_NE(run(fmt::format("'{}/base.toml' --chip abacus", recipes().string())).err.find("trn2"),
            std::string::npos);
  EXPECT_EQ(run("absent.toml --chip trn2").code, 1);
  write_file_atomic(folder_ / "empty.toml", "name = \"empty\"\n");
  const Outcome empty = run("empty.toml --chip trn2");
  EXPECT_NE(empty.code, 0);
  EXPECT_NE(empty.err.find("empty.toml"), std::string::npos) << empty.err;
}

}  // namespace
}  // namespace vertebra
