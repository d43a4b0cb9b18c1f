// The arithmetic of a step's cost, against sums done by hand and against the graphs that a step really has.
#include "train/step_cost.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "base/error.h"

namespace vertebra {
namespace {

std::unique_ptr<Model> llama(int64_t depth, int64_t embedding, int64_t heads, int64_t kv_heads,
                             int64_t feed_forward, int64_t vocabulary, bool tied = true) {
  const Json sizes = {{"depth", depth},
                      {"embedding", embedding},
                      {"heads", heads},
                      {"key_value_heads", kv_heads},
                      {"feed_forward", feed_forward},
                      {"tied", tied}};
  return make_model(default_config("llama", sizes, vocabulary, 256), "test");
}

StepShape step_of(Mesh mesh, int64_t rows = 8, int64_t length = 32) {
  StepShape out;
  out.graph.rows = rows;
  out.graph.length = length;
  out.graph.mesh = mesh;
  return out;
}

// Bytes of what the forward pass of a training step leaves behind for the backward pass, in its graph.
double kept_in_graph(const Model& model, const TrainGraphOptions& options) {
  const Graph graph = build_training_step(model, options);
  const int loss = graph.outputs()[static_cast<size_t>(graph.output_index(outputs::kLoss))].value.node->id;
  std::set<std::pair<int, int>> kept;
  double bytes = 0;
  for (const auto& node : graph.nodes()) {
    if (node->id <= loss) continue;
    for (const Value& operand : node->operands) {
      Value value = operand;  // what a reshape is a view of
      while (!is_parameter(*value.node) && !is_constant(*value.node) && value.node->op->name == "reshape")
        value = value.node->operands[0];
      const Node& from = *value.node;
      if (from.id > loss || is_parameter(from) || is_constant(from)) continue;
      if (kept.emplace(from.id, value.index).second) bytes += static_cast<double>(value.type().size_bytes());
    }
  }
  return bytes;
}

TEST(StepCost, ActivationsAreWhatTheGraphKeeps) {
  for (const int64_t kv_heads : {4, 2}) {
    const auto model = llama(6, 64, 4, kv_heads, 176, 512);
    StepShape step = step_of({}, 8, 64);
    const double predicted = predict_step_cost(*model, step).memory.activations;
    const double found = kept_in_graph(*model, step.graph);
    EXPECT_NEAR(found / predicted, 1, 0.05) << found << " bytes in the graph, predicted " << predicted;
  }
  const auto gpt2 =
      make_model(default_config("gpt2", {{"depth", 6}, {"embedding", 64}, {"heads", 4}}, 512, 256), "test");
  const StepShape step = step_of({}, 8, 64);
  EXPECT_NEAR(kept_in_graph(*gpt2, step.graph) / predict_step_cost(*gpt2, step).memory.activations, 1, 0.2);
}

TEST(StepCost, RematerialisationKeepsTheInputsOfLayers) {
  const auto model = llama(6, 64, 4, 4, 176, 512);
  StepShape step = step_of({}, 8, 64);
  step.graph.rematerialize = true;
  const StepMemory memory = predict_step_cost(*model, step).memory;
  const double stream = 4.0 * 64 * 8 * 64,
               layer = (memory.other_activations - 2 * stream) / 6;  // at work beside
  EXPECT_NEAR(kept_in_graph(*model, step.graph) / (memory.activations - layer), 1, 0.05);
  EXPECT_LT(memory.activations, memory.other_activations);
}

TEST(StepCost, OneChipByHand) {
  const auto model = llama(2, 64, 4, 2, 96, 512);
  // Two layers: q 64 x 64, o 64 x 64, k and v 32 x 64, three of 96 x 64, two norms; embedding and last norm.
  const int64_t layer = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64 + 2 * 64, all = 2 * layer + 512 * 64 + 64;
  const StepShape step = step_of({}, 8, 32);
  const StepCost cost = predict_step_cost(*model, step);
  EXPECT_EQ(cost.parameters, all);
  EXPECT_EQ(cost.tokens, 256);
  EXPECT_EQ(cost.memory.parameters, 4.0 * all);
  EXPECT_EQ(cost.memory.gradients, 4.0 * all);
  EXPECT_EQ(cost.memory.optimizer, 8.0 * all);
  EXPECT_EQ(cost.memory.weights, 0);
  EXPECT_EQ(cost.memory.logits, 2.0 * 4 * 512 * 256);
  EXPECT_TRUE(cost.collectives.empty());
  const double products = 2 * (layer - 2 * 64) + 512 * 64;
  EXPECT_EQ(cost.model_flops, 256 * (6 * products + 6 * 2 * 64.0 * 32));
  // The whole square of scores: twice the causal half.
  EXPECT_EQ(cost.chip_flops, 256 * (6 * products + 12 * 2 * 64.0 * 32));
  StepShape again = step;
  again.graph.rematerialize = true;
  EXPECT_EQ(predict_step_cost(*model, again).chip_flops,
            256 * (8 * products - 2 * 512 * 64 + 16 * 2 * 64.0 * 32));
  again.one_hot_gradient = true;
  EXPECT_EQ(predict_step_cost(*model, again).chip_f32_flops, 256 * 2.0 * 512 * 64);
}

TEST(StepCost, CollectivesByHand) {
  const auto model = llama(2, 64, 4, 2, 96, 512, /*tied=*/false);
  const double vectors = 5 * 64,
               matrices = static_cast<double>(count_parameters(model->parameters())) - vectors;

  const StepCost data = predict_step_cost(*model, step_of({2, 1, 1}));
  ASSERT_EQ(data.collectives.size(), 1u);
  EXPECT_EQ(collective_bytes(data, Collective::kAllReduce), 4 * (matrices + vectors));

  const StepCost fsdp = predict_step_cost(*model, step_of({1, 4, 1}));
  EXPECT_EQ(collective_bytes(fsdp, Collective::kAllGather), 2 * 4 * matrices);
  EXPECT_EQ(collective_bytes(fsdp, Collective::kReduceScatter), 4 * matrices);
  EXPECT_EQ(collective_bytes(fsdp, Collective::kAllReduce), 4 * vectors);
  EXPECT_EQ(fsdp.memory.parameters, matrices + 4 * vectors);

  const StepCost tensor = predict_step_cost(*model, step_of({1, 1, 2}));
  EXPECT_EQ(collective_bytes(tensor, Collective::kAllReduce), (2 * 7 + 2) * 4 * 64.0 * 256);
  EXPECT_EQ(collective_bytes(tensor, Collective::kAllGather), 0);

  // Together: the products of each other's shares; four micro-batches gather four times.
  StepShape all = step_of({2, 2, 2});
  const StepCost cost = predict_step_cost(*model, all);
  EXPECT_EQ(collective_bytes(cost, Collective::kAllGather), 2 * 4 * matrices / 2);
  EXPECT_EQ(collective_bytes(cost, Collective::kAllReduce),
            4 * matrices / 4 + 4 * vectors + (2 * 7 + 2) * 4 * 64.0 * 256 / 4);
  all.accumulation = 4;
  EXPECT_EQ(collective_bytes(predict_step_cost(*model, all), Collective::kReduceScatter),
            4 * 4 * matrices / 2);
  all.graph.compute = DType::kBF16;
  EXPECT_EQ(collective_bytes(predict_step_cost(*model, all), Collective::kAllGather),
            4 * 2 * 2 * matrices / 2);
}

// A tied embedding's two gradients are summed over the chips one by one.
TEST(StepCost, ATiedEmbeddingIsReducedTwice) {
  const auto model = llama(2, 64, 4, 2, 96, 512, /*tied=*/true);
  const double all = static_cast<double>(count_parameters(model->parameters())), embedding = 512 * 64;
  EXPECT_EQ(collective_bytes(predict_step_cost(*model, step_of({2, 1, 1})), Collective::kAllReduce),
            4 * (all + embedding));
}

TEST(StepCost, ARingWithinAndBetweenGroups) {
  const CollectiveCost reduce = {Collective::kAllReduce, "", 8, 1, 800};
  EXPECT_EQ(wire_bytes(reduce, 8).links, 2 * 800 * 7 / 8.0);
  EXPECT_EQ(wire_bytes(reduce, 8).network, 0);
  // Four in a group: three quarters inside, then a quarter of the bytes between two groups.
  EXPECT_EQ(wire_bytes(reduce, 4).links, 2 * 800 * 3 / 4.0);
  EXPECT_EQ(wire_bytes(reduce, 4).network, 2 * 200 * 1 / 2.0);
  // Neighbours that lie 4 apart do not meet in a group of 4.
  const CollectiveCost gather = {Collective::kAllGather, "", 8, 4, 800};
  EXPECT_EQ(wire_bytes(gather, 4).links, 0);
  EXPECT_EQ(wire_bytes(gather, 4).network, 700);
  EXPECT_EQ(wire_bytes(gather, 8).links, 400);
  EXPECT_EQ(wire_bytes(reduce, 13).network, 0);  // a group that is larger, and no multiple
  EXPECT_EQ(wire_bytes(reduce, 7).links, 2 * 800 * 3 / 4.0);
}

TEST(StepCost, SharesShrinkWithTheMesh) {
  const auto model = llama(4, 128, 8, 8, 352, 1024);
  const StepCost one = predict_step_cost(*model, step_of({}));
  const StepCost data = predict_step_cost(*model, step_of({4, 1, 1}));
  const StepCost tensor = predict_step_cost(*model, step_of({1, 1, 4}));
  EXPECT_EQ(data.memory.parameters, one.memory.parameters);
  EXPECT_EQ(data.memory.activations, one.memory.activations / 4);
  EXPECT_EQ(data.chip_flops, one.chip_flops / 4);
  EXPECT_EQ(tensor.chip_flops, one.chip_flops / 4);
  EXPECT_EQ(tensor.memory.logits, one.memory.logits / 4);
  EXPECT_LT(tensor.memory.activations, one.memory.activations / 2);  // q, k, v, feed-forward are cut
  EXPECT_GT(tensor.memory.activations, one.memory.activations / 4);  // the residual stream is not
  EXPECT_LT(predict_step_cost(*model, step_of({1, 8, 1})).memory.optimizer, one.memory.optimizer / 7);
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kInvalidArgument);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(StepCost, WhatAMeshDoesNotDivideIsNamed) {
  const auto model = llama(2, 96, 6, 2, 100, 513);
  const auto message = [&](Mesh mesh, int64_t rows) {
    return message_of([&] { predict_step_cost(*model, step_of(mesh, rows)); });
  };
  EXPECT_NE(message({3, 1, 1}, 8).find("8 rows"), std::string::npos);
  EXPECT_NE(message({1, 1, 4}, 8).find("model.heads"), std::string::npos);
  EXPECT_NE(message({1, 1, 3}, 8).find("model.key_value_heads"), std::string::npos);
  EXPECT_NE(message({1, 1, 2}, 8).find("tokenizer.vocabulary"), std::string::npos);
  EXPECT_NE(message({1, 64, 1}, 64).find("model.embedding"), std::string::npos);
}

TEST(StepCost, MeshesAreRead) {
  EXPECT_EQ(parse_mesh("data=2,fsdp=4,tensor=8"), (Mesh{2, 4, 8}));
  EXPECT_EQ(parse_mesh("tensor=2"), (Mesh{1, 1, 2}));
  EXPECT_EQ(parse_mesh("").devices(), 1);
  for (const char* text :
       {"data", "data=", "data=0", "data=x", "pipeline=2", "data=2;fsdp=2", "data=99999999"})
    EXPECT_NE(message_of([&] { parse_mesh(text); }).find("mesh"), std::string::npos) << text;
}

}  // namespace
}  // namespace vertebra
