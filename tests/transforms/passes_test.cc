// Every pass keeps what a graph computes, and does what it is for.
#include "transforms/passes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "backend/reference/reference.h"
#include "base/rng.h"
#include "graph/op.h"
#include "ops/ops.h"
#include "transforms/autodiff.h"

namespace vertebra {
namespace {

int count(const Graph& graph, std::string_view op, std::string_view scope = "") {
  return static_cast<int>(std::count_if(graph.nodes().begin(), graph.nodes().end(), [&](const auto& node) {
    return node->op->name == op && node->scope.find(scope) != std::string::npos;
  }));
}

Tensor noise(const TensorType& type, std::string_view name) {
  Tensor out(type);
  const Philox random(11, name);
  for (int64_t i = 0; i < out.elements(); ++i) {
    const auto at = static_cast<uint64_t>(i);
    out.set(i, type.dtype == DType::kI32 ? static_cast<double>(random.below(at, 4)) : random.normal(at));
  }
  return out;
}

std::vector<Tensor> values_of(const Graph& graph) {
  std::vector<Tensor> inputs;
  for (const auto& input : graph.inputs()) inputs.push_back(noise(input.value.type(), input.name));
  return evaluate_reference(graph, inputs);
}

// The pass's graph is sound, has the same inputs and outputs by name, and the same values.
void expect_equivalent(const Graph& before, const Graph& after, double tolerance = 0) {
  after.verify();
  ASSERT_EQ(before.inputs().size(), after.inputs().size());
  for (size_t i = 0; i < before.inputs().size(); ++i)
    EXPECT_EQ(before.inputs()[i].name, after.inputs()[i].name);
  ASSERT_EQ(before.outputs().size(), after.outputs().size());
  const std::vector<Tensor> old_values = values_of(before), new_values = values_of(after);
  for (size_t i = 0; i < old_values.size(); ++i) {
    EXPECT_EQ(before.outputs()[i].name, after.outputs()[i].name);
    EXPECT_EQ(before.outputs()[i].donated_input, after.outputs()[i].donated_input);
    for (int64_t j = 0; j < old_values[i].elements(); ++j)
      ASSERT_NEAR(old_values[i].at(j), new_values[i].at(j), tolerance)
          << before.outputs()[i].name << " " << j;
  }
}

// Two layers of a small Llama with a loss on top, its gradients as outputs, one parameter donated.
Graph training_graph() {
  constexpr int64_t kTokens = 6, kWidth = 8, kVocabulary = 5;
  Graph graph;
  const Value tokens = graph.parameter("tokens", {DType::kI32, Shape{kTokens}});
  const Value labels = graph.parameter("labels", {DType::kI32, Shape{kTokens}});
  std::vector<Value> parameters;
  const auto parameter = [&](const std::string& name, Shape shape) {
    parameters.push_back(graph.parameter(name, {DType::kF32, shape}));
    return parameters.back();
  };
  const Value table = parameter("table", {kVocabulary, kWidth});
  Value x = embedding(table, tokens);
  for (int i = 0; i < 2; ++i) {
    const std::string n = std::to_string(i);
    const Value weight = parameter("norm" + n, {kWidth}), gate = parameter("gate" + n, {12, kWidth}),
                up = parameter("up" + n, {12, kWidth}), down = parameter("down" + n, {kWidth, 12});
    const Graph::Scope layer(graph, "layers." + n);
    x = add(x, gated_mlp(rms_norm(x, weight, 1e-5), gate, up, down));
  }
  const Value loss = reduce_sum(linear_cross_entropy(x, table, labels), {0});
  graph.add_output("loss", loss);
  const std::vector<Value> out = gradients(loss, parameters);
  graph.add_output("table", subtract(table, multiply(out[0], 0.1)), table);
  for (size_t i = 1; i < out.size(); ++i) graph.add_output("gradient" + std::to_string(i), out[i]);
  graph.verify();
  return graph;
}

TEST(Passes, DeadCodeGoesAndInputsStay) {
  Graph graph;
  const Value a = graph.parameter("a", {DType::kF32, Shape{3}});
  graph.parameter("unused", {DType::kF32, Shape{2}});
  exponential(multiply(a, a));
  graph.add_output("sum", add(a, a));
  const Graph after = eliminate_dead_code(graph);
  expect_equivalent(graph, after);
  EXPECT_EQ(count(after, "exponential") + count(after, "multiply"), 0);
  EXPECT_EQ(after.inputs().size(), 2u);
}

TEST(Passes, EqualComputationsBecomeOne) {
  Graph graph;
  const Value a = graph.parameter("a", {DType::kF32, Shape{3}}),
              b = graph.parameter("b", {DType::kF32, Shape{3}});
  const auto sum_of = [&](Value x, Value y) { return exponential(add(x, y)); };
  graph.add_output("once", sum_of(a, b));
  graph.add_output("twice", sum_of(a, b));
  graph.add_output("swapped", sum_of(b, a));                      // other operands
  graph.add_output("rows", reduce_sum(reshape(a, {1, 3}), {0}));  // other attributes
  graph.add_output("all", reduce_sum(reshape(a, {1, 3}), {1}));
  const Graph after = eliminate_common_subexpressions(graph);
  expect_equivalent(graph, after);
  EXPECT_EQ(count(after, "exponential"), 2);
  EXPECT_EQ(count(after, "reduce_sum"), 2);
  EXPECT_EQ(count(after, "reshape"), 1);
}

TEST(Passes, DecomposeLeavesPrimitivesAndWhatIsKept) {
  const Graph graph = training_graph();
  const Graph primitive = decompose(graph, [](const Node&) { return false; });
  expect_equivalent(graph, primitive, 1e-9);
  for (const auto& node : primitive.nodes()) EXPECT_TRUE(node->op->is_primitive()) << node->op->name;
  const Graph kept = decompose(graph, [](const Node& node) { return node.op->name == "rms_norm"; });
  EXPECT_EQ(count(kept, "rms_norm"), 2);
  EXPECT_EQ(count(kept, "swiglu"), 0);
}

TEST(Passes, FuseMergesTheLossWithItsGradientAndTakesInEpilogues) {
  const Graph graph = training_graph();
  const Graph after = fuse(graph);
  expect_equivalent(graph, after, 1e-9);
  EXPECT_EQ(count(after, "linear_cross_entropy_both"), 1);
  EXPECT_EQ(count(after, "linear_cross_entropy") + count(after, "linear_cross_entropy_grad"), 0);
  int with_residual = 0;
  for (const auto& node : after.nodes())
    with_residual += node->op->name == "linear" && node->attrs.get<bool>("has_residual");
  EXPECT_EQ(with_residual, 2);
}

TEST(Passes, FuseLeavesALinearThatOthersRead) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{4, 3}}),
              w = graph.parameter("w", {DType::kF32, Shape{5, 3}});
  const Value y = linear(x, w);
  graph.add_output("activated", silu(y));
  graph.add_output("plain", y);
  graph.add_output("epilogue", silu(linear(x, w, graph.parameter("bias", {DType::kF32, Shape{5}}))));
  const Graph after = fuse(graph);
  expect_equivalent(graph, after, 1e-9);
  EXPECT_EQ(count(after, "silu"), 1);
}

TEST(Passes, RematerializeComputesLayersAgainFromTheirInputs) {
  const Graph graph = training_graph();
  const Graph after = rematerialize(graph);
  expect_equivalent(graph, after);
  EXPECT_EQ(count(after, "linear", "recompute/layers.0"),
            2);  // gate and up: down's result is no gradient's operand
  // Nothing in a gradient reads what its layer's forward pass computed.
  for (const auto& node : after.nodes()) {
    if (!node->scope.starts_with("gradient/layers.")) continue;
    for (const Value& v : node->operands)
      EXPECT_FALSE(v.node->scope.starts_with("layers.1")) << v.node->op->name;
  }
  const Graph merged = eliminate_common_subexpressions(after);
  EXPECT_EQ(count(merged, "linear"), count(after, "linear"));  // the second computation stays one
}

TEST(Passes, LinearsOfOneInputAreGrouped) {
  Graph graph;
  const auto matrix = [&](const char* name) { return graph.parameter(name, {DType::kF32, Shape{5, 4}}); };
  const Value x = graph.parameter("x", {DType::kF32, Shape{3, 4}}), q = matrix("q"), k = matrix("k"),
              gate = matrix("gate"), up = matrix("up");
  graph.add_output("q", linear(x, q));
  graph.add_output("k", linear(x, k));
  graph.add_output("activated",
                   linear(x, multiply(gate, exponential(q))));  // a weight that is computed later
  const Value other = exponential(x);
  graph.add_output("gated", multiply(linear(other, gate), linear(other, up)));
  graph.add_output("alone", linear(negate(x), q));
  graph.add_output("biased", linear(x, k, graph.parameter("bias", {DType::kF32, Shape{5}})));
  const auto any = [](const Node&) { return true; };
  const Graph before = eliminate_common_subexpressions(graph), after = group_linears(before, any);
  expect_equivalent(before, after);
  EXPECT_EQ(count(after, "linear_group"), 2);
  EXPECT_EQ(count(after, "linear"), 3);
  const Graph apart = decompose(after, [](const Node& node) { return node.op->name != "linear_group"; });
  expect_equivalent(before, apart);
  EXPECT_EQ(count(group_linears(before, [](const Node&) { return false; }), "linear_group"), 0);
}

TEST(Passes, WhatIsCheapIsComputedAgainWhereItsOperandsAreKeptAnyway) {
  const Graph graph = training_graph();
  const Graph after = recompute_cheap(graph);
  expect_equivalent(graph, after);
  for (const char* layer : {"layers.0", "layers.1"}) {
    EXPECT_EQ(count(after, "swiglu", std::string("recompute/") + layer), 1);
    EXPECT_EQ(count(after, "rms_norm", std::string("recompute/") + layer), 1);
  }
  EXPECT_EQ(count(after, "linear"), count(graph, "linear"));
  // The forward pass's results are read by the forward pass alone.
  for (const auto& node : after.nodes()) {
    if (!node->scope.starts_with("gradient/")) continue;
    for (const Value& v : node->operands)
      EXPECT_FALSE(v.node->op->cheap && !v.node->scope.starts_with("recompute/"));
  }
  const Graph merged = eliminate_common_subexpressions(after);
  EXPECT_EQ(count(merged, "swiglu"), 4);
}

TEST(Passes, WhatWouldKeepItsOperandsAliveIsNotComputedAgain) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{4}}),
              w = graph.parameter("w", {DType::kF32, Shape{4}});
  Value y;
  {
    const Graph::Scope layer(graph, "layers.0");
    y = silu(exponential(x));  // the gradient below needs silu's result, not its operand
  }
  const Value loss = reduce_sum(multiply(y, w), {0});
  graph.add_output("gradient", gradients(loss, std::vector<Value>{w})[0]);
  EXPECT_EQ(count(recompute_cheap(graph), "silu"), 1);
}

}  // namespace
}  // namespace vertebra
