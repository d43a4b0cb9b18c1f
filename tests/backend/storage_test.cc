// Values that only bf16 products read lie in memory as bf16, with the same bits of every result.
#include "backend/cpu/storage.h"

#include <gtest/gtest.h>

#include <functional>

#include "backend/cpu/cpu_backend.h"
#include "base/rng.h"
#include "ops/ops.h"
#include "ops/registry.h"

namespace vertebra {
namespace {

constexpr int64_t kTokens = 150, kHeads = 2, kDim = 64, kWidth = kHeads * kDim;

struct Case {
  std::string name;
  // Results that the test multiplies, from x [kTokens, kWidth] and w [kWidth].
  std::function<std::vector<Value>(Value x, Value w)> build;
};

std::vector<Value> attention_gradient(Value x, Value) {
  const Value heads = reshape(x, {1, kTokens, kHeads, kDim});
  std::vector<int32_t> ids(kTokens, 0);
  for (size_t i = 100; i < ids.size(); ++i) ids[i] = i < 140 ? 1 : -1;
  Tensor segments(DType::kI32, Shape{1, kTokens});
  for (int64_t i = 0; i < kTokens; ++i) segments.set(i, ids[static_cast<size_t>(i)]);
  Graph& graph = x.graph();
  const Attrs attrs = {{"scale", 0.0}, {"window", int64_t{0}}};
  const Value s = graph.constant(segments);
  const auto out = graph.add_node(find_op("attention"), {heads, heads, heads, s}, attrs);
  return graph.add_node(find_op("attention_grad"), {heads, heads, heads, s, out[0], out[1], heads}, attrs);
}

const std::vector<Case>& cases() {
  static const auto unary = [](const char* op, Attrs attrs = {}) -> Case {
    return {op, [=](Value x, Value) { return x.graph().add_node(find_op(op), {x}, attrs); }};
  };
  static const auto gradient = [](const char* op, size_t operands, Attrs attrs = {}) -> Case {
    return {op, [=](Value x, Value) {
              return x.graph().add_node(find_op(op), std::vector<Value>(operands, x), attrs);
            }};
  };
  static const std::vector<Case> all = {
      {"rms_norm", [](Value x, Value w) { return std::vector<Value>{rms_norm(x, w, 1e-5)}; }},
      {"layer_norm", [](Value x, Value w) { return std::vector<Value>{layer_norm(x, w, w, 1e-5)}; }},
      unary("silu"),
      unary("gelu", {{"tanh_approximation", true}}),
      unary("gelu", {{"tanh_approximation", false}}),
      gradient("silu_grad", 2),
      gradient("gelu_grad", 2, {{"tanh_approximation", true}}),
      gradient("swiglu", 2),
      gradient("swiglu_grad", 3),
      {"rope",
       [](Value x, Value) {
         Tensor positions(DType::kI32, Shape{kTokens}), frequencies(DType::kF32, Shape{kDim / 2});
         for (int64_t i = 0; i < kTokens; ++i) positions.set(i, static_cast<double>(i));
         for (int64_t i = 0; i < kDim / 2; ++i) frequencies.set(i, 1.0 / static_cast<double>(1 + i));
         Graph& graph = x.graph();
         return std::vector<Value>{rope(reshape(x, {kTokens, kHeads, kDim}), graph.constant(positions),
                                        graph.constant(frequencies))};
       }},
      {"attention_grad", attention_gradient},
  };
  return all;
}

Tensor noise(const Shape& shape, const char* name) {
  Tensor out(DType::kF32, shape);
  const Philox random(3, name);
  for (int64_t i = 0; i < out.elements(); ++i) out.set(i, random.normal(static_cast<uint64_t>(i)));
  return out;
}

struct Outcome {
  std::string described;
  std::vector<Tensor> products;
};

// For each result of the case a linear layer and a product over the tokens, as forward and backward passes
// have them. With `also_read`, something else reads the results too, which keeps them f32.
Outcome run(const Case& c, bool also_read, int threads) {
  ThreadTeam team(threads);
  const auto backend = make_cpu_backend({&team, {}});
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{kTokens, kWidth}});
  const Value w = graph.parameter("w", {DType::kF32, Shape{kWidth}});
  const Value matrix = graph.parameter("matrix", {DType::kF32, Shape{24, kWidth}});
  const std::vector<Value> results = c.build(x, w);
  for (size_t i = 0; i < results.size(); ++i) {
    const Value rows = reshape(results[i], Shape{kTokens, kWidth});
    const std::string n = std::to_string(i);
    graph.add_output("layer" + n, linear(rows, matrix, {}, DType::kBF16));
    graph.add_output("over tokens" + n, dot_general(rows, x, {{}, {}, {0}, {0}}, DType::kF32, DType::kBF16));
  }
  const size_t products = graph.outputs().size();
  if (also_read) {
    for (size_t i = 0; i < results.size(); ++i)
      graph.add_output("sum" + std::to_string(i), reduce_sum(results[i], {0}));
  }
  const auto executable = backend->compile(graph);
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<Buffer*> in, out;
  for (const Tensor& tensor :
       {noise({kTokens, kWidth}, "x"), noise({kWidth}, "w"), noise({24, kWidth}, "matrix")}) {
    buffers.push_back(backend->upload(tensor));
    in.push_back(buffers.back().get());
  }
  for (const auto& output : graph.outputs()) {
    buffers.push_back(backend->allocate(output.value.type()));
    out.push_back(buffers.back().get());
  }
  executable->run(in, out);
  Outcome outcome = {executable->describe(), {}};
  for (size_t i = 0; i < products; ++i) outcome.products.push_back(out[i]->to_host());
  return outcome;
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(Storage, WhatOnlyBf16ProductsReadIsStoredRoundedWithTheSameBits) {
  for (const Case& c : cases()) {
    const Outcome rounded = run(c, false, 2), kept = run(c, true, 1);
    EXPECT_EQ(count(rounded.described, " as bf16"), rounded.products.size() / 2) << c.name;
    EXPECT_EQ(count(kept.described, " as bf16"), 0u) << c.name;
    for (size_t i = 0; i < rounded.products.size(); ++i)
      EXPECT_TRUE(rounded.products[i].same_bits(kept.products[i])) << c.name << ", product " << i;
  }
}

TEST(Storage, ProductsInF32KeepTheirOperandsF32) {
  const auto backend = make_cpu_backend();
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{8, 16}});
  const Value w = graph.parameter("w", {DType::kF32, Shape{16}});
  const Value matrix = graph.parameter("matrix", {DType::kF32, Shape{4, 16}});
  const Value h = rms_norm(x, w, 1e-5);
  graph.add_output("f32", linear(h, matrix));
  graph.add_output("bf16", linear(h, matrix, {}, DType::kBF16));
  EXPECT_EQ(count(backend->compile(graph)->describe(), " as bf16"), 0u);
}

}  // namespace
}  // namespace vertebra
