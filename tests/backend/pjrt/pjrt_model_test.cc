// Training and generation on the CPU plugins, beside the CPU backend: the same loss curve, checkpoints that
// continue on the other device, the same greedy text.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "backend/cpu/cpu_backend.h"
#include "base/file.h"
#include "base/json.h"
#include "tests/backend/pjrt/small_training.h"
#include "tests/backend/pjrt/with_plugin.h"
#include "tests/engine/tiny_model.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

constexpr int kRows = 2;

class PjrtModel : public WithPlugin {
 protected:
  void SetUp() override {
    WithPlugin::SetUp();
    folder_ = fs::path(testing::TempDir()) / fmt::format("pjrt-model-{}", getpid());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainerOptions options(const std::string& name, const std::string& optimizer) const {
    return small_training(folder_ / name, kRows, optimizer);
  }
  static std::vector<double> train(Backend& backend, const TrainerOptions& options, const std::string& type,
                                   int64_t stop = -1) {
    Json sizes = {{"depth", 2}, {"embedding", 32}, {"heads", 2}, {"feed_forward", 48}};
    if (type == "llama") sizes["key_value_heads"] = 1;
    const auto model = make_model(default_config(type, sizes, kSmallVocabulary, 64), "test");
    return train_small(backend, *model, options, stop);
  }

  fs::path folder_;
};

TEST_P(PjrtModel, TheLossCurveIsTheCpusOwn) {
  const auto cpu = make_cpu_backend();
  for (const auto& [type, optimizer] : {std::pair("llama", "muon"), std::pair("gpt2", "adamw")}) {
    SCOPED_TRACE(fmt::format("{} {}", type, optimizer));
    const std::string name = fmt::format("{}-{}", type, optimizer);
    const std::vector<double> wanted = train(*cpu, options(name + "-cpu", optimizer), type);
    ASSERT_EQ(wanted.size(), 10u);
    EXPECT_LT(wanted.back(), wanted.front() - 0.1);
    expect_near(train(backend(), options(name + "-pjrt", optimizer), type), wanted, 1e-4);
  }
}

TEST_P(PjrtModel, GradientsAddedUpOverSeveralBatchesGiveTheCpusCurve) {
  const auto cpu = make_cpu_backend();
  TrainerOptions on_cpu = options("accumulated-cpu", "adamw"), on_pjrt = options("accumulated-pjrt", "adamw");
  on_cpu.accumulation = on_pjrt.accumulation = 2;
  expect_near(train(backend(), on_pjrt, "llama"), train(*cpu, on_cpu, "llama"), 1e-4);
}

TEST_P(PjrtModel, ACheckpointContinuesOnTheOtherDevice) {
  const auto cpu = make_cpu_backend();
  const std::vector<double> wanted = train(*cpu, options("whole", "adamw"), "llama");
  Backend* const both[] = {cpu.get(), &backend()};
  for (const int first : {0, 1}) {
    const TrainerOptions cut = options(fmt::format("cut{}", first), "adamw");
    train(*both[first], cut, "llama", /*stop=*/7);  // the checkpoint is of step 5
    expect_near(train(*both[1 - first], cut, "llama"), wanted, 1e-3);
  }
}

// Generates the same prompts on both backends and compares tokens and probabilities.
void expect_same_text(Backend& cpu, Backend& device, const char* type,
                      const std::function<void(int prompt, GenerationRequest&)>& set_options) {
  constexpr int kPrompts = 20;
  std::vector<std::vector<GenerationResult>> results;
  for (Backend* each : {&cpu, &device}) {
    const TinyModel tiny(*each, type);
    Engine engine(*each, *tiny.model, tiny.parameters,
                  {.max_requests = 3, .tokens_per_step = 32, .page_size = 8, .context_length = 64});
    std::vector<GenerationRequest> requests;
    for (int i = 0; i < kPrompts; ++i) {
      GenerationRequest request;
      request.prompt = tiny_prompt(i, 1 + (i * 7) % 40);
      request.max_tokens = 3 + i % 9;
      set_options(i, request);
      requests.push_back(std::move(request));
    }
    results.push_back(engine.generate(std::move(requests)));
  }
  for (size_t i = 0; i < kPrompts; ++i) {
    ASSERT_EQ(results[1][i].tokens.size(), results[0][i].tokens.size()) << i;
    for (size_t t = 0; t < results[0][i].tokens.size(); ++t) {
      const GeneratedToken &found = results[1][i].tokens[t], &wanted = results[0][i].tokens[t];
      EXPECT_EQ(found.id, wanted.id) << "prompt " << i << ", token " << t;
      EXPECT_EQ(found.top.size(), wanted.top.size());
    }
    EXPECT_NEAR(results[1][i].log_probability, results[0][i].log_probability, 1e-3);
  }
}

TEST_P(PjrtModel, GreedyTextIsTheCpusOwn) {
  const auto cpu = make_cpu_backend();
  for (const char* type : {"llama", "gpt2", "qwen3_5_text", "gpt_oss"}) {
    SCOPED_TRACE(type);
    expect_same_text(*cpu, backend(), type, [](int, GenerationRequest&) {});
  }
}

TEST_P(PjrtModel, TextSampledOnTheDeviceIsTheCpusOwn) {
  const auto cpu = make_cpu_backend();
  expect_same_text(*cpu, backend(), "llama", [](int prompt, GenerationRequest& request) {
    request.sampling.seed = static_cast<uint64_t>(prompt);
    request.sampling.temperature = prompt % 4 == 0 ? 0 : 1;
    request.sampling.top_k = prompt % 5 == 1 ? 9 : 0;
    request.sampling.top_p = prompt % 3 == 1 ? 0.8 : 1;
    request.top_log_probabilities = prompt % 7 == 2 ? 3 : 0;  // these are left to the host
  });
}

VERTEBRA_WITH_CPU_PLUGINS(PjrtModel);

}  // namespace
}  // namespace vertebra
