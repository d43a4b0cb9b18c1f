// The depth dial: a whole recipe follows from a depth and the data, and what the recipe says itself wins.
#include "recipe/dial.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace vertebra {
namespace {

PretrainingInputs inputs_of(int depth, int64_t tokens_per_epoch) {
  const auto placeholder = make_model(default_config("llama", {{"depth", depth}}, 512, 1024), "test");
  const int64_t embedding = placeholder->shape().embedding;
  const int64_t inner = count_inner_parameters(*placeholder);
  const auto model = make_model(
      default_config("llama", {{"depth", depth}}, dial_vocabulary(inner, embedding), 1024), "test");
  PretrainingInputs in;
  in.parameters = count_parameters(model->parameters());
  in.inner_parameters = inner;
  in.layers = depth;
  in.embedding = embedding;
  in.length = dial_length(embedding);
  in.tokens_per_epoch = tokens_per_epoch;
  return in;
}

int64_t batch_of(const PretrainingInputs& in, const PretrainingPlan& plan) {
  return plan.rows * plan.accumulation * in.length;
}

constexpr int64_t kPlenty = int64_t{1} << 40;

TEST(Dial, DevicesThatShareTheRowsGetAsManyEach) {
  PretrainingInputs in = inputs_of(12, kPlenty);
  const PretrainingPlan one = plan_pretraining(in, {});
  in.batch_parts = 4;
  const PretrainingPlan four = plan_pretraining(in, {});
  EXPECT_EQ(four.rows, 4 * one.rows);
  EXPECT_EQ(batch_of(in, four), batch_of(in, one)) << "the batch is the same, in fewer pieces";
  in.batch_parts = 3;
  EXPECT_EQ(plan_pretraining(in, {}).rows % 3, 0);
  PretrainingChoices choices;
  choices.rows = 5;
  EXPECT_EQ(plan_pretraining(in, choices).rows, 5) << "what the recipe says wins";
}

TEST(Dial, TheModelGivesVocabularyAndLength) {
  const int expected_vocabulary[][2] = {{2, 512}, {4, 2048}, {6, 4096}, {12, 8192}, {24, 32768}};
  for (const auto& [depth, vocabulary] : expected_vocabulary) {
    const int64_t embedding = 64 * depth;
    EXPECT_EQ(dial_vocabulary(12 * depth * embedding * embedding, embedding), vocabulary) << depth;
  }
  EXPECT_EQ(dial_vocabulary(1, 8), 512);
  EXPECT_EQ(dial_length(64), 256);
  EXPECT_EQ(dial_length(384), 768);
  EXPECT_EQ(dial_length(4096), 2048);
}

TEST(Dial, TwentyTokensAParameterWhereThereIsPlentyOfText) {
  for (const int depth : {2, 4, 8, 12, 20}) {
    const PretrainingInputs in = inputs_of(depth, kPlenty);
    const PretrainingPlan plan = plan_pretraining(in, {});
    const double tokens = static_cast<double>(plan.steps * batch_of(in, plan));
    EXPECT_NEAR(tokens / static_cast<double>(in.parameters), 20, 0.1) << depth;
  }
  PretrainingChoices choices;
  choices.tokens_per_parameter = 5;
  const PretrainingInputs in = inputs_of(4, kPlenty);
  const PretrainingPlan plan = plan_pretraining(in, choices);
  EXPECT_NEAR(static_cast<double>(plan.steps * batch_of(in, plan)) / static_cast<double>(in.parameters), 5,
              0.1);
}

TEST(Dial, NoMoreThanFourPassesOverTheText) {
  const PretrainingInputs in = inputs_of(4, 500'000);
  PretrainingChoices choices;
  const PretrainingPlan plan = plan_pretraining(in, choices);
  EXPECT_NEAR(static_cast<double>(plan.steps * batch_of(in, plan)), 2e6, 1e4);
  choices.max_epochs = 1;
  const PretrainingPlan once = plan_pretraining(in, choices);
  EXPECT_NEAR(static_cast<double>(once.steps * batch_of(in, once)), 5e5, 1e4);
  choices.epochs = 10;  // said outright: neither rule counts
  const PretrainingPlan ten = plan_pretraining(in, choices);
  EXPECT_NEAR(static_cast<double>(ten.steps * batch_of(in, ten)), 5e6, 1e4);
}

TEST(Dial, ADeeperModelGetsLargerBatchesMoreStepsAndSmallerRates) {
  PretrainingPlan last;
  int64_t last_batch = 0;
  for (const int depth : {2, 4, 8, 12, 20}) {
    const PretrainingInputs in = inputs_of(depth, kPlenty);
    const PretrainingPlan plan = plan_pretraining(in, {});
    const int64_t batch = batch_of(in, plan);
    EXPECT_TRUE(std::has_single_bit(static_cast<uint64_t>(plan.rows * plan.accumulation)));
    EXPECT_GT(batch, last_batch) << depth;
    EXPECT_GT(plan.steps, last.steps) << depth;
    // What the backward pass keeps: one micro-batch of at most a gigabyte, or a single row.
    EXPECT_TRUE(plan.rows == 1 || 54 * plan.rows * in.length * in.layers * in.embedding <= 1'000'000'000)
        << depth;
    EXPECT_LT(plan.learning_rate, last_batch > 0 ? last.learning_rate : 1) << depth;
    EXPECT_EQ(plan.matrix_learning_rate, 0.02) << depth;
    EXPECT_LE(plan.weight_decay, 0.1);
    EXPECT_GT(plan.matrix_weight_decay, 0);
    EXPECT_GE(plan.warmup_steps, 40) << depth;
    EXPECT_LE(plan.warmup_steps, plan.steps / 10) << depth;
    last = plan;
    last_batch = batch;
  }
  // A 124M-like model, as the literature has it: about 0.1M tokens a batch and a rate of 0.003 for AdamW.
  PretrainingInputs in = inputs_of(12, kPlenty);
  EXPECT_NEAR(static_cast<double>(batch_of(in, plan_pretraining(in, {}))), 120e3, 40e3);
  in.muon = false;
  EXPECT_NEAR(plan_pretraining(in, {}).learning_rate, 0.003, 0.0005);
}

TEST(Dial, WhatTheRecipeSaysWinsAndTheRestFollows) {
  const PretrainingInputs in = inputs_of(4, kPlenty);
  const PretrainingPlan free = plan_pretraining(in, {});
  PretrainingChoices choices;
  choices.rows = 4 * free.rows * free.accumulation;
  PretrainingPlan plan = plan_pretraining(in, choices);
  EXPECT_EQ(plan.rows, *choices.rows);
  EXPECT_EQ(plan.accumulation, 1) << "rows alone are the whole batch";
  EXPECT_NEAR(plan.matrix_learning_rate, 2 * free.matrix_learning_rate, 1e-9) << "four times the batch";
  EXPECT_NEAR(plan.learning_rate, 2 * free.learning_rate, 1e-9);
  EXPECT_NEAR(static_cast<double>(plan.steps), static_cast<double>(free.steps) / 4, 1) << "as many tokens";

  choices = {};
  choices.accumulation = 2;
  plan = plan_pretraining(in, choices);
  EXPECT_EQ(plan.accumulation * plan.rows, free.accumulation * free.rows);
  EXPECT_EQ(plan.accumulation, 2);

  choices = {};
  choices.steps = 30;
  plan = plan_pretraining(in, choices);
  EXPECT_EQ(plan.steps, 30);
  EXPECT_EQ(plan.rows, free.rows);
  EXPECT_EQ(plan.warmup_steps, 3);

  choices = {};
  choices.learning_rate = 0.5;
  choices.matrix_learning_rate = 0.25;
  choices.weight_decay = 0;
  choices.matrix_weight_decay = 0.125;
  choices.warmup_steps = 0;
  plan = plan_pretraining(in, choices);
  EXPECT_EQ(plan.learning_rate, 0.5);
  EXPECT_EQ(plan.matrix_learning_rate, 0.25);
  EXPECT_EQ(plan.weight_decay, 0);
  EXPECT_EQ(plan.matrix_weight_decay, 0.125);
  EXPECT_EQ(plan.warmup_steps, 0);
  EXPECT_EQ(plan.steps, free.steps);
}

TEST(Dial, TinyTextIsStillARun) {
  for (const int64_t tokens : {int64_t{0}, int64_t{1}, int64_t{100}, int64_t{5000}}) {
    const PretrainingPlan plan = plan_pretraining(inputs_of(2, tokens), {});
    EXPECT_GE(plan.rows, 1);
    EXPECT_GE(plan.steps, 1);
    EXPECT_TRUE(std::isfinite(plan.learning_rate) && plan.learning_rate > 0);
    EXPECT_GE(plan.warmup_steps, 0);
  }
}

}  // namespace
}  // namespace vertebra
