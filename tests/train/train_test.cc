// Training on the CPU: learns, resumes with the same bits, the same bits on any number of threads.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/cpu/cpu_backend.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "tests/train/loss_curve.h"
#include "train/trainer.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

constexpr int kRows = 2, kLength = 16, kVocabulary = 32;

Json tiny_config(const std::string& type) {
  Json sizes = {{"depth", 2}, {"embedding", 32}, {"heads", 2}, {"feed_forward", 48}};
  if (type == "llama") sizes["key_value_heads"] = 1;
  return default_config(type, sizes, kVocabulary, 64);
}

// Sequences that count upwards from a random start: easy to learn, nothing to remember.
Batch counting_batch(int64_t index) {
  Batch batch;
  batch.rows = kRows;
  batch.length = kLength;
  const Philox random(3, "counting");
  for (int row = 0; row < kRows; ++row) {
    const auto start =
        static_cast<int32_t>(random.below(static_cast<uint64_t>(index * kRows + row), kVocabulary));
    for (int t = 0; t < kLength; ++t) {
      batch.tokens.push_back((start + t) % kVocabulary);
      batch.labels.push_back((start + t + 1) % kVocabulary);
      batch.segments.push_back(0);
      batch.positions.push_back(t);
    }
  }
  batch.loss_tokens = kRows * kLength;
  return batch;
}

class TrainTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) /
        fmt::format("train-{}-{}", getpid(), ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override {
    set_interrupt_requested(false);
    set_write_hook_for_testing({});
    fs::remove_all(folder_);
  }

  TrainerOptions options(const std::string& name, int64_t steps) const {
    TrainerOptions out;
    out.graph.rows = kRows;
    out.graph.length = kLength;
    out.graph.optimizer.learning_rate = 1e-2;
    out.schedule.steps = steps;
    out.schedule.warmup_steps = 4;
    out.checkpoint_every = 5;
    out.log_every = 5;
    out.fingerprint = "test";
    out.folder = folder_ / name;
    return out;
  }
  static TrainerInputs inputs() {
    TrainerInputs out;
    out.batch = counting_batch;
    out.initial = [](const ParameterSpec& spec) { return initial_value(spec, 1); };
    return out;
  }
  static std::string digest(const Trainer& trainer) {
    Sha256 hash;
    for (const auto& [name, tensor] : trainer.parameters_to_host()) {
      hash.update(name);
      hash.update(tensor.raw(), tensor.size_bytes());
    }
    return hash.hex();
  }
  std::string train(const TrainerOptions& options, int threads = 2, const std::string& type = "llama") {
    ThreadTeam team(threads);
    const auto backend = make_cpu_backend({.team = &team, .isa = {}});
    const auto model = make_model(tiny_config(type), "test");
    Trainer trainer(*backend, *model, options, inputs());
    last_ = trainer.run();
    return digest(trainer);
  }

  // A run that is asked to stop while it makes that batch.
  void train_until(const TrainerOptions& options, int64_t batch) {
    TrainerInputs stopping = inputs();
    stopping.batch = [batch](int64_t index) {
      if (index == batch) set_interrupt_requested(true);
      return counting_batch(index);
    };
    ThreadTeam team(2);
    const auto backend = make_cpu_backend({.team = &team, .isa = {}});
    const auto model = make_model(tiny_config("llama"), "test");
    Trainer trainer(*backend, *model, options, stopping);
    EXPECT_THROW(trainer.run(), Interrupted);
    set_interrupt_requested(false);
  }

  fs::path folder_;
  TrainResult last_;
};

TEST_F(TrainTest, BothArchitecturesAndOptimizersLearn) {
  for (const char* type : {"llama", "gpt2"}) {
    for (const char* optimizer : {"adamw", "muon"}) {
      TrainerOptions o = options(fmt::format("{}-{}", type, optimizer), 60);
      o.graph.optimizer.kind = optimizer;
      train(o, 2, type);
      EXPECT_LT(last_.loss, 0.5) << type << " " << optimizer << ": started near " << std::log(kVocabulary);
    }
  }
}

TEST_F(TrainTest, TheSameBitsOnAnyNumberOfThreads) {
  const std::string one = train(options("t1", 12), 1);
  for (int threads = 2; threads <= 4; ++threads)
    EXPECT_EQ(train(options(fmt::format("t{}", threads), 12), threads), one);
}

TEST_F(TrainTest, AnInterruptedRunGoesOnWithTheSameBits) {
  for (const int64_t accumulation : {1, 2}) {
    TrainerOptions whole = options(fmt::format("whole{}", accumulation), 20);
    whole.accumulation = accumulation;
    const std::string wanted = train(whole);
    TrainerOptions cut = options(fmt::format("cut{}", accumulation), 20);
    cut.accumulation = accumulation;
    train_until(cut, 13);
    EXPECT_EQ(train(cut), wanted);
    EXPECT_TRUE(last_.resumed);
  }
}

TEST_F(TrainTest, UpdatesAreSkippedAtTheSameStepsAfterAResume) {
  const auto skipping = [&](const std::string& name) {
    TrainerOptions o = options(name, 60);
    o.checkpoint_every = 0;
    o.spike_factor = 0.5;  // norms fall: some steps lie above this part of the median
    o.max_skips = 60;
    return o;
  };
  const std::string wanted = train(skipping("whole"));
  const int64_t skipped = last_.skipped;
  EXPECT_GT(skipped, 3);
  for (const int64_t stop : {14, 15, 16, 17, 30, 45}) {
    const TrainerOptions cut = skipping(fmt::format("cut{}", stop));
    train_until(cut, stop);
    EXPECT_EQ(train(cut), wanted) << "stopped at " << stop;
    EXPECT_EQ(last_.skipped, skipped) << "stopped at " << stop;
  }
}

TEST_F(TrainTest, AccumulationEqualsOneLargerBatch) {
  // Two micro-batches of one row against one batch of two rows: the same gradient up to rounding.
  ThreadTeam team(1);
  const auto backend = make_cpu_backend({.team = &team, .isa = {}});
  const auto model = make_model(tiny_config("llama"), "test");
  const auto losses = [&](bool accumulate) {
    TrainerOptions o = options(accumulate ? "micro" : "full", 6);
    o.log_every = 1;
    TrainerInputs in = inputs();
    if (accumulate) {
      o.accumulation = 2;
      o.graph.rows = 1;
      in.batch = [](int64_t index) {
        const Batch both = counting_batch(index / 2);
        const auto half = [&](const std::vector<int32_t>& v) {
          return std::vector<int32_t>(v.begin() + (index % 2) * kLength,
                                      v.begin() + (index % 2 + 1) * kLength);
        };
        Batch out = both;
        out.rows = 1;
        out.tokens = half(both.tokens);
        out.labels = half(both.labels);
        out.segments = half(both.segments);
        out.positions = half(both.positions);
        out.loss_tokens = kLength;
        return out;
      };
    }
    Trainer trainer(*backend, *model, o, in);
    trainer.run();
    return logged_losses(o.folder);
  };
  const auto micro = losses(true), full = losses(false);
  expect_near(micro, full, 1e-4);
}

TEST_F(TrainTest, RematerialisationChangesNoBit) {
  TrainerOptions o = options("remat", 8);
  o.graph.rematerialize = true;
  EXPECT_EQ(train(o), train(options("plain", 8)));
}

TEST_F(TrainTest, UnsoundGradientsMoveNothingAndThenStop) {
  TrainerOptions o = options("nan", 20);
  o.max_skips = 2;
  TrainerInputs in = inputs();
  in.initial = [](const ParameterSpec& spec) {
    Tensor value = initial_value(spec, 1);
    if (spec.role == Role::kVector) value.set(0, NAN);
    return value;
  };
  ThreadTeam team(1);
  const auto backend = make_cpu_backend({.team = &team, .isa = {}});
  const auto model = make_model(tiny_config("llama"), "test");
  Trainer trainer(*backend, *model, o, in);
  try {
    trainer.run();
    FAIL() << "trained on silently";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kDataLoss);
    EXPECT_NE(std::string(error.what()).find("unsound"), std::string::npos);
  }
  for (const auto& [name, tensor] : trainer.parameters_to_host()) {
    for (int64_t i = 1; i < tensor.elements(); ++i) ASSERT_TRUE(std::isfinite(tensor.at(i))) << name;
  }
}

TEST_F(TrainTest, ACheckpointOfAnotherRecipeIsNotContinued) {
  train(options("run", 10));
  TrainerOptions other = options("run", 10);
  other.fingerprint = "another";
  train(other);
  EXPECT_FALSE(last_.resumed);
}

TEST_F(TrainTest, AFullDiskIsAnErrorAndTheRunGoesOnLater) {
  const std::string wanted = train(options("whole", 20));
  const TrainerOptions o = options("full", 20);
  set_write_hook_for_testing([](const fs::path& path, size_t) {
    require(path.string().find("step-00000010") == std::string::npos, Code::kResourceExhausted,
            "injected: no space left on device");
  });
  EXPECT_THROW(train(o), Error);
  set_write_hook_for_testing({});
  EXPECT_EQ(train(o), wanted);
  EXPECT_TRUE(last_.resumed);
}

TEST_F(TrainTest, FewValidationBatchesComeFromAllDocuments) {
  const fs::path shards = folder_ / "shards";
  fs::create_directories(shards);
  ShardWriter writer(shards, kVocabulary, false, 1 << 20);
  writer.add(Split::kTrain, std::vector<int32_t>(8, 0), {}, 8);
  for (int32_t document = 0; document < 5; ++document)  // four batches each, of its own token
    writer.add(Split::kValidation, std::vector<int32_t>(4 * kRows * kLength, document), {}, 1);
  const auto counts = writer.finish();
  Manifest manifest;
  manifest.kind = "shards";
  manifest.results = {{"vocab_size", kVocabulary}, {"loss_mask", false}};
  for (const Split split : {Split::kTrain, Split::kValidation}) {
    const SplitCounts& c = counts[static_cast<size_t>(split)];
    manifest.results[std::string(split_name(split))] = {{"shards", writer.shards(split)},
                                                        {"documents", c.documents},
                                                        {"tokens", c.tokens},
                                                        {"loss_tokens", c.loss_tokens},
                                                        {"text_bytes", c.text_bytes}};
  }
  write_manifest(shards, manifest);
  const BatchLoader loader(std::make_shared<const ShardSet>(shards), Split::kValidation,
                           evaluation_options(kRows, kLength));
  const auto documents = [&](int64_t limit) {
    std::vector<int32_t> out;
    const BatchSequence batches = spread_over(loader, limit);
    for (int64_t i = 0; const auto batch = batches(i); ++i) out.push_back(batch->tokens[0]);
    return out;
  };
  EXPECT_EQ(documents(5), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(documents(0).size(), 20u);
  EXPECT_EQ(documents(100), documents(0));
}

TEST(Schedule, WarmsUpAndDecaysAsStated) {
  Schedule cosine{Schedule::Kind::kCosine, 100, 10, 0.1, 0.2};
  EXPECT_DOUBLE_EQ(schedule_factor(cosine, 0), 0.1);
  EXPECT_DOUBLE_EQ(schedule_factor(cosine, 9), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(cosine, 10), 1);
  EXPECT_NEAR(schedule_factor(cosine, 99), 0.1, 1e-12);
  Schedule wsd{Schedule::Kind::kWarmupStableDecay, 100, 10, 0, 0.2};
  EXPECT_DOUBLE_EQ(schedule_factor(wsd, 50), 1);
  EXPECT_DOUBLE_EQ(schedule_factor(wsd, 79), 1);
  EXPECT_NEAR(schedule_factor(wsd, 99), 0, 1e-12);
  EXPECT_THROW(schedule_kind("cosinus"), Error);
}

}  // namespace
}  // namespace vertebra
