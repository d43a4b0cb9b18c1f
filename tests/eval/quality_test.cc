// What a model has lost against another: figures of rows by hand, a model against itself, losses against
// those of the dense forward pass, sizes by kind of tensor.
#include "eval/quality.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "eval/weight_sizes.h"
#include "models/model_folder.h"
#include "tests/engine/tiny_model.h"
#include "text/bpe_trainer.h"
#include "train/evaluate.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

TEST(CompareRows, IsWhatTheDefinitionSays) {
  const std::vector<float> reference = {0, std::log(2.0F), std::log(5.0F)};  // 1/8, 2/8, 5/8
  const std::vector<float> model = {std::log(2.0F) + 3, std::log(5.0F) + 3,
                                    3 + std::log(1.0F)};  // 2/8, 5/8, 1/8
  const Divergence found = compare_rows(reference, model, 1);
  EXPECT_NEAR(found.divergence, 0.125 * std::log(0.5) + 0.25 * std::log(0.4) + 0.625 * std::log(5.0), 1e-6);
  EXPECT_NEAR(found.reference_loss, -std::log(0.25), 1e-6);
  EXPECT_NEAR(found.loss, -std::log(0.625), 1e-6);
  EXPECT_FALSE(found.same_top);
  EXPECT_TRUE(compare_rows(reference, reference, 0).same_top);
  EXPECT_EQ(compare_rows(reference, reference, 0).divergence, 0);
}

TEST(CompareRows, SurvivesLogitsFarApart) {
  const Divergence found = compare_rows(std::vector<float>{1000, -1000}, std::vector<float>{-1000, 1000}, 0);
  EXPECT_NEAR(found.divergence, 2000, 1e-3);
  EXPECT_NEAR(found.loss, 2000, 1e-3);
}

TEST(WeightSizes, KindsAreNamesWithoutNumbers) {
  EXPECT_EQ(tensor_kind("model.layers.12.self_attn.q_proj.weight"), "layers.self_attn.q_proj");
  EXPECT_EQ(tensor_kind("model.layers.3.mlp.experts.17.up_proj.weight"), "layers.mlp.experts.up_proj");
  EXPECT_EQ(tensor_kind("model.embed_tokens.weight"), "embed_tokens");
  EXPECT_EQ(tensor_kind("transformer.h.0.attn.c_attn.bias"), "h.attn.c_attn.bias");
}

class CompareModels : public ::testing::Test {
 protected:
  static constexpr int kContext = 96;

  CompareModels() : folder_(fs::temp_directory_path() / fmt::format("quality_test_{}", getpid())) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~CompareModels() override {
    set_interrupt_requested(false);
    fs::remove_all(folder_);
  }

  // A model of random weights; `noise` moves some of them a little. `vocabulary`: of the tokenizer.
  Assistant open(const std::string& name, float noise, int vocabulary = 300,
                 const std::string& type = "llama") {
    const fs::path path = folder_ / name;
    fs::create_directories(path);
    BpeTrainerOptions options;
    options.vocab_size = vocabulary;
    const Tokenizer tokenizer = train_bpe_documents({kSampleText}, options);
    const auto model = make_model(type == "llama" ? default_config("llama", {{"depth", 2}, {"embedding", 64}},
                                                                   tokenizer.vocab_size(), kContext)
                                                  : tiny_config(type),
                                  "test");
    std::vector<NamedTensor> parameters;
    for (const ParameterSpec& spec : model->parameters()) {
      Tensor value = initial_value(spec, 1);
      if (spec.shape.rank() == 2) {
        auto data = value.data<float>();
        for (size_t i = 0; i < data.size(); ++i) data[i] = 3 * data[i] + (i % 7 == 0 ? noise : 0);
      }
      parameters.push_back({spec.name, std::move(value)});
    }
    write_model_folder(path, *model, parameters, -1);
    tokenizer.save(path);
    return Assistant(*backend_, path, smallest_engine(), WeightForm::kStored);
  }

  // Losses of the second halves of the windows, by the dense forward pass that training uses.
  double dense_loss(const Assistant& assistant, const Quality& quality) {
    const std::vector<int32_t> ids = assistant.tokenizer().encode(kSampleText);
    LossEvaluator evaluator(*backend_, assistant.model(), assistant.parameters(), 1, quality.window,
                            DType::kF32, {});
    const auto size = static_cast<size_t>(quality.window);
    const LossSummary summary = evaluator.run([&](int64_t index) -> std::optional<Batch> {
      if (index == quality.windows) return std::nullopt;
      Batch batch;
      batch.rows = 1;
      batch.length = static_cast<int>(size);
      for (size_t i = 0; i < size; ++i) {
        const size_t at = static_cast<size_t>(index) * size + i;
        batch.tokens.push_back(ids[at]);
        batch.labels.push_back(i >= size / 2 && i + 1 < size ? ids[at + 1] : -1);
        batch.segments.push_back(0);
        batch.positions.push_back(static_cast<int32_t>(i));
      }
      return batch;
    });
    EXPECT_EQ(summary.labels, quality.tokens);
    return summary.loss();
  }

  fs::path folder_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_F(CompareModels, AModelAgainstItselfHasLostNothing) {
  const Assistant model = open("model", 0);
  QualityOptions options;
  options.windows = 3;
  const Quality quality = compare_models(*backend_, model, model, kSampleText, options);
  EXPECT_EQ(quality.window, kContext);
  EXPECT_EQ(quality.windows, 3);
  EXPECT_EQ(quality.tokens, 3 * (kContext / 2 - 1));
  EXPECT_EQ(quality.divergence.mean, 0);
  EXPECT_EQ(quality.divergence_max, 0);
  EXPECT_EQ(quality.same_top.mean, 1);
  EXPECT_EQ(quality.perplexity(), quality.reference_perplexity());
  EXPECT_EQ(quality.equal_texts, quality.prompts);
  EXPECT_EQ(quality.mean_common_prefix, static_cast<double>(quality.continuation));
}

TEST_F(CompareModels, LossesAreThoseOfTheDenseForwardPass) {
  const Assistant reference = open("reference", 0), model = open("model", 0.05F);
  QualityOptions options;
  options.windows = 4;
  options.window = 80;  // no multiple of a step's rows
  const Quality quality = compare_models(*backend_, reference, model, kSampleText, options);
  EXPECT_NEAR(quality.reference_loss.mean, dense_loss(reference, quality), 1e-5);
  EXPECT_NEAR(quality.loss.mean, dense_loss(model, quality), 1e-5);
  EXPECT_NEAR(quality.loss_difference.mean, quality.loss.mean - quality.reference_loss.mean, 1e-9);
  EXPECT_GT(quality.divergence.mean, 0.001);
  EXPECT_GT(quality.divergence.error, 0);
  EXPECT_LE(quality.divergence_median, quality.divergence_p99);
  EXPECT_LE(quality.divergence_p99, quality.divergence_max);
  EXPECT_LT(quality.same_top.mean, 1);
  EXPECT_LT(quality.mean_common_prefix, static_cast<double>(quality.continuation));
  const Quality again = compare_models(*backend_, reference, model, kSampleText, options);
  EXPECT_EQ(json_line(again.to_json()), json_line(quality.to_json()));
}

TEST_F(CompareModels, MemoriesOfOtherKindsBeginAnewWithEveryWindow) {
  for (const char* type : {"lfm2", "qwen3_5_text", "gpt_oss"}) {
    const Assistant model = open(type, 0, 300, type);
    QualityOptions options;
    options.windows = 3;
    options.window = 190;  // several times the windows of layers
    options.prompts = 2;
    const Quality quality = compare_models(*backend_, model, model, kSampleText, options);
    EXPECT_NEAR(quality.loss.mean, dense_loss(model, quality), 1e-4) << type;
  }
}

TEST_F(CompareModels, TheTextIsCutAsTheReferenceDoes) {
  const Assistant reference = open("reference", 0);
  open("model", 0);
  const fs::path file = folder_ / "model" / "tokenizer.json";
  Json tokenizer = read_json_file(file);
  tokenizer["model"]["merges"].erase(tokenizer["model"]["merges"].size() -
                                     1);  // the last token is never made
  write_json_file(file, tokenizer);
  const Assistant model(*backend_, folder_ / "model", smallest_engine(), WeightForm::kStored);
  EXPECT_NE(model.tokenizer().encode(kSampleText), reference.tokenizer().encode(kSampleText));
  QualityOptions options;
  options.windows = 1;
  options.prompts = 1;
  EXPECT_EQ(compare_models(*backend_, reference, model, kSampleText, options).divergence.mean, 0);
}

TEST_F(CompareModels, WhatCannotBeComparedIsRefused) {
  const Assistant model = open("model", 0), other = open("other", 0, 310);
  EXPECT_THROW(compare_models(*backend_, model, other, kSampleText), Error);
  EXPECT_THROW(compare_models(*backend_, model, model, "too short"), Error);
  set_interrupt_requested(true);
  EXPECT_THROW(compare_models(*backend_, model, model, kSampleText), Interrupted);
}

TEST_F(CompareModels, SizesAreThoseOfTheFiles) {
  open("model", 0);
  const WeightSizes sizes = weight_sizes(folder_ / "model");
  EXPECT_EQ(sizes.kinds.at("layers.self_attn.q_proj").tensors, 2);
  EXPECT_EQ(sizes.kinds.at("layers.self_attn.q_proj").type_names(), "f32");
  EXPECT_EQ(sizes.total.bits_per_weight(), 32);
  EXPECT_NEAR(static_cast<double>(sizes.total.size_bytes),
              static_cast<double>(fs::file_size(folder_ / "model" / "model.safetensors")),
              8192);  // its header
}

}  // namespace
}  // namespace vertebra
