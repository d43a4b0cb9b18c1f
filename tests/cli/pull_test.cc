// pull, and what was pulled where a MODEL is wanted; what convert --report and eval --against say: as a user
// runs them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/file.h"
#include "base/manifest.h"
#include "models/model_folder.h"
#include "tests/cli/run_program.h"
#include "tests/hub/hub_server.h"
#include "text/bpe_trainer.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class PulledModels : public ::testing::Test {
 protected:
  PulledModels() : folder_(fs::temp_directory_path() / fmt::format("pulled_test_{}", getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "model");
    setenv("VERTEBRA_CACHE", (folder_ / "cache").c_str(), 1);
    setenv("HF_HOME", (folder_ / "hf").c_str(), 1);
    for (const char* name : {"HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE"}) unsetenv(name);
    make_model();
  }
  ~PulledModels() override { fs::remove_all(folder_); }

  void make_model() const {
    const fs::path path = folder_ / "model";
    BpeTrainerOptions options;
    options.vocab_size = 270;
    const Tokenizer tokenizer = train_bpe_documents({"one two one two three"}, options);
    const auto model = make_model_of(tokenizer.vocab_size());
    std::vector<NamedTensor> parameters;
    for (const ParameterSpec& spec : model->parameters())
      parameters.push_back({spec.name, initial_value(spec, 1)});
    write_model_folder(path, *model, parameters, -1);
    tokenizer.save(path);
  }
  static std::unique_ptr<Model> make_model_of(int vocabulary) {
    return vertebra::make_model(default_config("llama", {{"depth", 1}, {"embedding", 64}}, vocabulary, 128),
                                "test");
  }
  Outcome run(const std::string& arguments) const { return run_program(folder_, arguments, folder_); }

  fs::path folder_;
};

TEST_F(PulledModels, ArePulledOnceAndThenUsedWithoutANetwork) {
  const Outcome before = run("generate hf:real/model -p one -n 4");
  EXPECT_EQ(before.code, 1);
  EXPECT_NE(before.err.find("vertebra pull hf:real/model"), std::string::npos) << before.err;
  std::string pulled;
  {
    const HubServer server((folder_ / "model").string());
    if (!server.runs()) GTEST_SKIP() << "no python3 to run the server with";
    setenv("HF_ENDPOINT", server.url().c_str(), 1);
    const Outcome outcome = run("pull hf:real/model");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    pulled = outcome.out.substr(0, outcome.out.size() - 1);
    EXPECT_EQ(outcome.err.find('\r'), std::string::npos);  // no progress in a pipe
    const Json json = run("pull hf:real/model --json").json();
    EXPECT_EQ(json["path"], pulled);
    EXPECT_EQ(json["transferred_bytes"], 0);
    EXPECT_EQ(run("pull hf:s404/model").code, 1);
    EXPECT_EQ(run("pull model").code, 2);
  }
  const Outcome ours = run("generate hf:real/model -p one -n 4");
  EXPECT_EQ(ours.code, 0) << ours.err;
  EXPECT_EQ(ours.out, run("generate model -p one -n 4").out);
  EXPECT_EQ(ours.out, run(fmt::format("generate '{}' -p one -n 4", pulled)).out);
  EXPECT_EQ(run("inspect hf:real/model --json").json()["whole"], true);
  EXPECT_EQ(run("tokenizer encode hf:real/model -p one --json").code, 0);
  EXPECT_EQ(run("convert hf:real/model copy.gguf").code, 0);
}

TEST_F(PulledModels, OfTheCacheAreFoundByTheirName) {
  ASSERT_EQ(run("convert model cache/models/small/any.gguf").code, 1);  // the folder is not there
  fs::create_directories(folder_ / "cache/models/small");
  ASSERT_EQ(run("convert model cache/models/small/any.gguf --quantize q8_0").code, 0);
  EXPECT_EQ(run("generate small -p one -n 2").code, 1);  // a folder without a manifest is not one of ours
  Manifest manifest;
  manifest.kind = "model";
  write_manifest(folder_ / "cache/models/small", manifest);
  const Outcome outcome = run("generate small -p one -n 2");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, run("generate cache/models/small -p one -n 2").out);
}

TEST_F(PulledModels, ReportSaysWhatAQuantizationCosts) {
  const Outcome outcome = run("convert model small.gguf --quantize q4_0 --report --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const Json quality = outcome.json()["quality"];
  EXPECT_GT(quality["kl_divergence"]["mean"].get<double>(), 0);
  EXPECT_EQ(quality["window"], 128);
  EXPECT_EQ(quality["sizes"]["reference"]["total"]["bits_per_weight"], 32);
  EXPECT_EQ(quality["sizes"]["model"]["kinds"]["layers.self_attn.q_proj"]["bits_per_weight"], 4.5);
  const Json certificate = read_json_file(folder_ / "small.gguf.manifest.json");
  EXPECT_EQ(certificate["results"]["quality"], quality);
  EXPECT_EQ(certificate["files"]["small.gguf"]["size_bytes"], fs::file_size(folder_ / "small.gguf"));
  Json again = run("eval small.gguf --against model --json").json();
  again["reference"] = quality["reference"];  // the path as it was written
  EXPECT_EQ(again, quality);

  // To a folder, on a text of one's own: recorded in the folder's manifest.
  write_file_atomic(folder_ / "text.txt",
                    "The three friends had one boat, two oars and no idea where the wind would take them.");
  const Outcome folder = run("convert model half --quantize bf16 --report text.txt");
  ASSERT_EQ(folder.code, 0) << folder.err;
  EXPECT_NE(folder.out.find("KL divergence"), std::string::npos);
  const Manifest manifest = read_manifest(folder_ / "half");
  EXPECT_EQ(manifest.results["quality"]["text"], "text.txt");
  EXPECT_LT(manifest.results["quality"]["kl_divergence"]["mean"].get<double>(),
            quality["kl_divergence"]["mean"].get<double>());
  EXPECT_EQ(find_damage(folder_ / "half", manifest), std::nullopt);
  EXPECT_EQ(run("eval model").code, 2);  // nothing to measure
}

}  // namespace
}  // namespace vertebra
