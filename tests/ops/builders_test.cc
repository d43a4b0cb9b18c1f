// The builders of ops.h: broadcasting, shapes with bounded dimensions, functions made of several ops, and the
// values that fix a convention.
#include <gtest/gtest.h>

#include "backend/reference/reference.h"
#include "base/error.h"
#include "base/rng.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

std::vector<double> numbers(const Tensor& tensor) {
  std::vector<double> out;
  for (int64_t i = 0; i < tensor.elements(); ++i) out.push_back(tensor.at(i));
  return out;
}

std::vector<double> evaluate(Value v, std::vector<Tensor> inputs = {}) {
  v.graph().add_output("out", v);
  return numbers(evaluate_reference(v.graph(), inputs)[0]);
}

Tensor random_tensor(Shape shape, uint64_t stream) {
  Tensor out(DType::kF32, shape);
  const Philox random(5, stream);
  for (int64_t i = 0; i < out.elements(); ++i) out.set(i, random.normal(static_cast<uint64_t>(i)));
  return out;
}

TEST(Builders, BroadcastAsInNumPy) {
  Graph graph;
  const Value column = graph.constant(Tensor::from<float>({2, 1}, {10, 20}));
  const Value row = graph.constant(Tensor::from<float>({3}, {1, 2, 3}));
  const Value sum = add(column, row);
  EXPECT_EQ(sum.shape(), (Shape{2, 3}));
  EXPECT_EQ(evaluate(sum), (std::vector<double>{11, 12, 13, 21, 22, 23}));
}

TEST(Builders, ShapesThatDoNotBroadcastAreErrors) {
  Graph graph;
  const Value a = graph.parameter("a", {DType::kF32, {2, 3}});
  const Value b = graph.parameter("b", {DType::kF32, {2}});
  const Value n = graph.parameter("n", {DType::kF32, {Dim(3, 1)}});
  const Value i = graph.parameter("i", {DType::kI32, {2, 3}});
  EXPECT_THROW(add(a, b), Error);
  EXPECT_THROW(add(a, n), Error);  // a bounded dimension is none of fixed size
  EXPECT_THROW(add(a, i), Error);
}

TEST(Builders, ReduceCountsNegativeAxesFromTheEnd) {
  Graph graph;
  const Value a = graph.constant(Tensor::from<float>({2, 2}, {1, 2, 3, 5}));
  EXPECT_EQ(evaluate(mean(a, {-1})), (std::vector<double>{1.5, 4}));
}

TEST(Builders, IntegerDivisionRoundsTowardsZero) {
  Graph graph;
  const Value a = graph.constant(Tensor::from<int32_t>({4}, {7, -7, 5, INT32_MIN}));
  const Value b = graph.constant(Tensor::from<int32_t>({4}, {2, 2, 0, -1}));
  EXPECT_EQ(evaluate(divide(a, b)), (std::vector<double>{3, -3, -1, INT32_MIN}));
}

TEST(Builders, RandomBitsAreThoseOfPhilox) {
  Graph graph;
  const Value key = graph.constant(Tensor::from<uint32_t>({4}, {7, 1, 9, 2}));
  const std::vector<double> found = evaluate(random_bits(graph, key, {6}));
  const Philox random((uint64_t{1} << 32) | 7, (uint64_t{2} << 32) | 9);
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(found[i], random.block(i / 4)[i % 4]) << i;
}

TEST(Builders, RandomUniformLiesInTheUnitInterval) {
  Graph graph;
  const Value key = graph.constant(Tensor::from<uint32_t>({4}, {7, 1, 9, 2}));
  double sum = 0;
  for (const double x : evaluate(random_uniform(graph, key, {4000}))) {
    EXPECT_TRUE(x >= 0 && x < 1) << x;
    sum += x;
  }
  EXPECT_NEAR(sum / 4000, 0.5, 0.02);
}

TEST(Builders, GlobalNormGoesOverAllValues) {
  Graph graph;
  const Value a = graph.constant(Tensor::from<float>({2}, {3, 0}));
  const Value b = graph.constant(Tensor::from<float>({1, 1}, {4}));
  EXPECT_EQ(evaluate(global_norm(std::vector<Value>{a, b})), (std::vector<double>{5}));
}

TEST(Builders, GatedMlpIsItsFormula) {
  Graph graph;
  const Value x = graph.constant(Tensor::from<float>({1, 2}, {1, 2}));
  const Value gate = graph.constant(Tensor::from<float>({1, 2}, {0.5, 0.25}));
  const Value up = graph.constant(Tensor::from<float>({1, 2}, {1, 1}));
  const Value down = graph.constant(Tensor::from<float>({2, 1}, {2, -1}));
  const double hidden = 1 / (1 + std::exp(-1.0)) * 3;
  const std::vector<double> found = evaluate(gated_mlp(x, gate, up, down));
  EXPECT_NEAR(found[0], 2 * hidden, 1e-12);
  EXPECT_NEAR(found[1], -hidden, 1e-12);
}

TEST(Builders, ABoundedDimensionStaysWhole) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {Dim(8, 1), 6}});
  EXPECT_EQ(reshape(x, {Dim(8, 1), 2, 3}).shape(), (Shape{Dim(8, 1), 2, 3}));
  EXPECT_THROW(reshape(x, {48}), Error);
  EXPECT_THROW(reshape(x, {2, Dim(8, 1), 3}), Error);
  EXPECT_THROW(slice_axis(x, 0, 0, 4), Error);
  EXPECT_THROW(mean(x, {0}), Error);
}

// A layer of a serving step, the number of its tokens bounded or not.
struct Step {
  Graph graph;
  std::vector<Tensor> inputs;
};

Step serving_step(Dim tokens_bound, int64_t tokens) {
  Step step;
  Graph& g = step.graph;
  uint64_t stream = 0;
  const auto floats = [&](std::string name, Shape shape) {
    step.inputs.push_back(random_tensor(shape, ++stream));
    return g.parameter(std::move(name), {DType::kF32, shape});
  };
  const auto per_token = [&](std::string name, std::vector<int32_t> list) {
    list.resize(static_cast<size_t>(tokens));
    step.inputs.push_back(Tensor::from<int32_t>({tokens}, std::span<const int32_t>(list)));
    return g.parameter(std::move(name), {DType::kI32, {tokens_bound}});
  };
  const Value ids = per_token("tokens", {3, 1, 4, 1, 5});
  const Value request = per_token("request", {0, 0, 0, 1, -1});
  const Value positions = per_token("positions", {0, 1, 2, 5, 0});
  step.inputs.push_back(Tensor::from<int32_t>({2, 2}, {0, 2, 3, 1}));
  const Value table = g.parameter("page_table", {DType::kI32, {2, 2}});
  const Value k_cache = floats("k_cache", {4, 4, 1, 4}), v_cache = floats("v_cache", {4, 4, 1, 4});
  const Value frequencies = floats("frequencies", {2});

  Value x = embedding(floats("embedding", {7, 6}), ids);
  const Value h = rms_norm(x, floats("norm", {6}), 1e-6);
  const Value q = rope(reshape(linear(h, floats("q", {8, 6})), {tokens_bound, 2, 4}), positions, frequencies);
  const Value k = rope(reshape(linear(h, floats("k", {4, 6})), {tokens_bound, 1, 4}), positions, frequencies);
  const Value v = reshape(linear(h, floats("v", {4, 6}), floats("v_bias", {4})), {tokens_bound, 1, 4});
  const auto attended = paged_attention(q, k, v, {k_cache, v_cache}, table, request, positions);
  x = add(x, linear(reshape(attended.out, {tokens_bound, 8}), floats("o", {6, 8})));
  x = add(x, gated_mlp(x, floats("gate", {5, 6}), floats("up", {5, 6}), floats("down", {6, 5})));
  const Value logits = softmax(linear(x, floats("head", {7, 6})));
  g.add_output("logits", logits);
  g.add_output("best", argmax(logits, -1));
  g.add_output("k_cache", attended.cache.keys, k_cache);
  g.add_output("v_cache", attended.cache.values, v_cache);
  g.verify();
  return step;
}

TEST(Builders, ABoundedStepGivesWhatAFixedOneGives) {
  for (const int64_t tokens : {5, 3, 1}) {
    const Step bounded = serving_step(Dim(9, 1), tokens), fixed = serving_step(Dim(tokens), tokens);
    EXPECT_EQ(bounded.graph.outputs()[0].value.shape(), (Shape{Dim(9, 1), 7}));
    const auto found = evaluate_reference(bounded.graph, bounded.inputs);
    const auto wanted = evaluate_reference(fixed.graph, fixed.inputs);
    for (size_t i = 0; i < wanted.size(); ++i)
      EXPECT_TRUE(found[i].same_bits(wanted[i])) << tokens << " " << i;
  }
}

TEST(Builders, PagedAttentionIsAttentionOnTheWholeSequence) {
  constexpr int64_t kTokens = 7;
  const Shape q_shape = {kTokens, 4, 6}, k_shape = {kTokens, 2, 6};
  const Tensor q = random_tensor(q_shape, 1), k = random_tensor(k_shape, 2), v = random_tensor(k_shape, 3);
  const Tensor cache = random_tensor({3, 4, 2, 6}, 4);
  Graph graph;
  const auto constant_of = [&](const Tensor& t, Shape shape) { return graph.constant(t.reshaped(shape)); };
  const Value segments = graph.constant(Tensor::zeros({DType::kI32, {1, kTokens}}));
  const AttentionOptions options = {.scale = 0, .window = 5};
  const Value whole = attention(constant_of(q, {1, kTokens, 4, 6}), constant_of(k, {1, kTokens, 2, 6}),
                                constant_of(v, {1, kTokens, 2, 6}), segments, options);
  // In two steps: a prefill of four tokens, then three more.
  Value k_cache = graph.constant(cache), v_cache = graph.constant(cache);
  const Value table = graph.constant(Tensor::from<int32_t>({1, 2}, {2, 0}));
  std::vector<Value> parts;
  for (const auto& [start, limit] : {std::pair<int64_t, int64_t>{0, 4}, {4, kTokens}}) {
    const auto part = [&](const Tensor& t) { return slice_axis(graph.constant(t), 0, start, limit); };
    const Value request = full(graph, {limit - start}, 0, DType::kI32);
    const Value positions = add(iota(graph, {limit - start}, 0),
                                full(graph, {limit - start}, static_cast<double>(start), DType::kI32));
    const auto result =
        paged_attention(part(q), part(k), part(v), {k_cache, v_cache}, table, request, positions, options);
    parts.push_back(result.out);
    k_cache = result.cache.keys;
    v_cache = result.cache.values;
  }
  graph.add_output("whole", reshape(whole, q_shape));
  graph.add_output("paged", concatenate(parts, 0));
  const auto out = evaluate_reference(graph, {});
  for (int64_t i = 0; i < out[0].elements(); ++i) ASSERT_NEAR(out[0].at(i), out[1].at(i), 1e-12) << i;
}

TEST(Builders, PagedAttentionWritesNothingForPadding) {
  Graph graph;
  const Tensor cache = random_tensor({2, 4, 1, 2}, 4);
  const Value x = graph.constant(random_tensor({2, 1, 2}, 1)), held = graph.constant(cache);
  const Value table = graph.constant(Tensor::from<int32_t>({1, 1}, {0}));
  const Value request = graph.constant(Tensor::from<int32_t>({2}, {-1, 0}));
  const Value positions = graph.constant(Tensor::from<int32_t>({2}, {0, 400}));  // beyond the table
  const auto result = paged_attention(x, x, x, {held, held}, table, request, positions);
  graph.add_output("out", result.out);
  graph.add_output("cache", result.cache.keys);
  const auto found = evaluate_reference(graph, {});
  EXPECT_EQ(numbers(found[0]), (std::vector<double>{0, 0, 0, 0}));
  EXPECT_EQ(numbers(found[1]), numbers(cache));
}

}  // namespace
}  // namespace vertebra
