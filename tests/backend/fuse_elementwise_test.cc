// The pass that joins elementwise ops: the same values in fewer nodes, never a cycle.
#include "transforms/fuse_elementwise.h"

#include <gtest/gtest.h>

#include "backend/cpu/cpu_backend.h"
#include "backend/reference/reference.h"
#include "base/rng.h"
#include "graph/op.h"
#include "ops/fused_elementwise.h"
#include "ops/ops.h"
#include "transforms/passes.h"

namespace vertebra {
namespace {

int count_ops(const Graph& graph, std::string_view op) {
  int count = 0;
  for (const auto& node : graph.nodes()) count += node->op->name == op ? 1 : 0;
  return count;
}

Tensor random_tensor(const Shape& shape, uint64_t seed) {
  const Philox random(seed, "values");
  Tensor out(DType::kF32, shape);
  for (int64_t i = 0; i < out.elements(); ++i) out.set(i, random.normal(static_cast<uint64_t>(i)));
  return out;
}

Graph random_graph(uint64_t seed) {
  PhiloxSequence random{Philox(seed, "fuse")};
  Graph graph;
  std::vector<Value> values = {graph.parameter("matrix", {DType::kF32, Shape{6, 9}}),
                               graph.parameter("other", {DType::kF32, Shape{6, 9}})};
  const Value row = graph.parameter("row", {DType::kF32, Shape{9}});
  for (int i = 0; i < 40; ++i) {
    const Value a = values[random.below(values.size())], b = values[random.below(values.size())];
    switch (random.below(9)) {
      case 0:
        values.push_back(transpose(transpose(a, {1, 0}), {1, 0}));
        break;
      case 1:
        values.push_back(subtract(a, reshape(mean(b, {1}), Shape{6, 1})));
        break;
      case 2:
        values.push_back(multiply(a, row));
        break;
      case 3:
        values.push_back(select(compare(a, b, Comparison::kLess), a, multiply(b, 0.5)));
        break;
      case 4:
        values.push_back(tanh(a));
        break;
      case 5:
        values.push_back(convert(convert(a, DType::kI32), DType::kF32));
        break;
      default:
        values.push_back(multiply(add(a, b), 0.5));
    }
  }
  for (int i = 0; i < 4; ++i)
    graph.add_output("out" + std::to_string(i), values[values.size() - 1 - random.below(20)]);
  return graph;
}

TEST(FuseElementwise, KeepsTheValuesOfRandomGraphs) {
  const std::vector<Tensor> inputs = {random_tensor(Shape{6, 9}, 1), random_tensor(Shape{6, 9}, 2),
                                      random_tensor(Shape{9}, 3)};
  const auto backend = make_cpu_backend();
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Graph graph = random_graph(seed);
    const Graph fused = eliminate_dead_code(fuse_elementwise(graph));
    fused.verify();
    EXPECT_LT(fused.nodes().size(), graph.nodes().size());
    const auto wanted = evaluate_reference(graph, inputs), got = evaluate_reference(fused, inputs);
    for (size_t j = 0; j < wanted.size(); ++j) EXPECT_TRUE(wanted[j].same_bits(got[j])) << "seed " << seed;
    const auto executable = backend->compile(graph);
    std::vector<std::unique_ptr<Buffer>> buffers;
    std::vector<Buffer*> in, out;
    for (const Tensor& input : inputs) in.push_back(buffers.emplace_back(backend->upload(input)).get());
    for (const auto& output : graph.outputs())
      out.push_back(buffers.emplace_back(backend->allocate(output.value.type())).get());
    executable->run(in, out);
    for (size_t j = 0; j < wanted.size(); ++j) {
      const Tensor result = out[j]->to_host();
      for (int64_t i = 0; i < result.elements(); ++i)
        ASSERT_NEAR(result.at(i), wanted[j].at(i), 1e-4 * (1 + std::abs(wanted[j].at(i)))) << "seed " << seed;
    }
  }
}

TEST(FuseElementwise, OneNodeForAChainAndItsBroadcasts) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{4, 8}});
  const Value bias = graph.parameter("bias", {DType::kF32, Shape{8}});
  graph.add_output("y", multiply(tanh(add(x, bias)), 2.0));
  const Graph fused = eliminate_dead_code(fuse_elementwise(graph));
  EXPECT_EQ(count_ops(fused, "fused_elementwise"), 1);
  EXPECT_EQ(fused.nodes().size(), 4u) << fused.to_string();  // x, bias, the constant, the node
}

TEST(FuseElementwise, AValueReadInBetweenIsNotTakenIn) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{4, 8}});
  const Value e = exponential(x);
  const Value total = broadcast_in_dim(reduce_sum(e, {1}), Shape{4, 8}, {0});
  graph.add_output("y", divide(e, total));  // e must exist before the sum that the division waits for
  const Graph fused = eliminate_dead_code(fuse_elementwise(graph));
  fused.verify();
  EXPECT_EQ(count_ops(fused, "exponential"), 1) << fused.to_string();
  EXPECT_EQ(count_ops(fused, "fused_elementwise"), 1) << fused.to_string();
}

TEST(FuseElementwise, ProgramsReadBackAsPrinted) {
  const std::string text = "multiply 0 1; compare:lt 3 2; convert:bf16 4";
  EXPECT_EQ(print_program(parse_program(text)), text);
  for (const char* wrong : {"multiply", "multiply 0 x", "multiply 0 -1", "multiply  0", "multiply 0;add 1 2"})
    EXPECT_THROW(parse_program(wrong), Error) << wrong;
  EXPECT_THROW(program_dtypes(parse_program("add 0 7"), {DType::kF32}), Error);
  EXPECT_THROW(program_dtypes(parse_program("transpose 0"), {DType::kF32}), Error);
  EXPECT_THROW(program_dtypes(parse_program("convert:f31 0"), {DType::kF32}), Error);
}

}  // namespace
}  // namespace vertebra
