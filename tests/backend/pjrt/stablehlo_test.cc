// The StableHLO text and its verifier; no plugin is needed.
#include "backend/pjrt/stablehlo.h"

#include <gtest/gtest.h>

#include "backend/pjrt/pad_bounded.h"
#include "backend/pjrt/prepare_graph.h"
#include "backend/pjrt/verify_stablehlo.h"
#include "base/error.h"
#include "ops/ops.h"
#include "tests/ops/sample_inputs.h"

namespace vertebra::pjrt {
namespace {

const Vendor& cpu() { return *find_vendor("cpu"); }

std::string print(const Graph& graph, const Vendor& vendor = cpu()) {
  return print_stablehlo(prepare_graph(graph, vendor), vendor);
}

// x [2, 3] updated by the row sums, donated.
Graph small_graph() {
  Graph graph;
  const Value x = graph.parameter("layers.0.weight", {DType::kF32, {2, 3}});
  const Graph::Scope scope(graph, "layers.0/attention");
  const Value sums = reduce_sum(multiply(x, 0.5), {1});
  graph.add_output("x", add(x, broadcast_in_dim(sums, x.shape(), {0})), x);
  return graph;
}

TEST(StableHlo, TheTextOfASmallGraph) {
  EXPECT_EQ(print(small_graph()), R"("builtin.module"() <{sym_name = "vertebra"}> ({
"func.func"() <{arg_attrs = [{tf.aliasing_output = 0 : i32}], function_type = (tensor<2x3xf32>) -> (tensor<2x3xf32>), sym_name = "main"}> ({
^bb0(%arg0.layers.0.weight: tensor<2x3xf32>):
  %layers.0.attention.constant.0 = "stablehlo.constant"() <{value = dense<0x3F000000> : tensor<f32>}> : () -> tensor<f32>
  %layers.0.attention.broadcast_in_dim.1 = "stablehlo.broadcast_in_dim"(%layers.0.attention.constant.0) <{broadcast_dimensions = array<i64>}> : (tensor<f32>) -> tensor<2x3xf32>
  %layers.0.attention.multiply.2 = "stablehlo.multiply"(%arg0.layers.0.weight, %layers.0.attention.broadcast_in_dim.1) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  %layers.0.attention.constant.3 = "stablehlo.constant"() <{value = dense<0x00000000> : tensor<f32>}> : () -> tensor<f32>
  %layers.0.attention.reduce.5 = "stablehlo.reduce"(%layers.0.attention.multiply.2, %layers.0.attention.constant.3) <{dimensions = array<i64: 1>}> ({
  ^bb0(%left.4: tensor<f32>, %right.4: tensor<f32>):
    %both.4 = "stablehlo.add"(%left.4, %right.4) : (tensor<f32>, tensor<f32>) -> tensor<f32>
    "stablehlo.return"(%both.4) : (tensor<f32>) -> ()
  }) : (tensor<2x3xf32>, tensor<f32>) -> tensor<2xf32>
  %layers.0.attention.broadcast_in_dim.6 = "stablehlo.broadcast_in_dim"(%layers.0.attention.reduce.5) <{broadcast_dimensions = array<i64: 0>}> : (tensor<2xf32>) -> tensor<2x3xf32>
  %layers.0.attention.add.7 = "stablehlo.add"(%arg0.layers.0.weight, %layers.0.attention.broadcast_in_dim.6) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
  "func.return"(%layers.0.attention.add.7) : (tensor<2x3xf32>) -> ()
}) : () -> ()
}) : () -> ()
)");
}

// Every op of the registry on every vendor: the text passes the verifier, so nothing that the vendor's
// compiler does not take is in it.
TEST(StableHlo, EveryOpPassesTheVerifierOnEveryVendor) {
  for (const Vendor& vendor : vendors()) {
    for (const OpDef* op : all_ops()) {
      for (const OpSample& sample : op->samples()) {
        for (const DType dtype : sample_dtypes(sample)) {
          SCOPED_TRACE(
              fmt::format("{} / {} / {} / {}", vendor.name, op->name, sample.name, dtype_name(dtype)));
          const SampleGraph built = sample_graph(*op, sample, dtype);
          const std::string text = print(built.graph, vendor);
          EXPECT_NO_THROW(verify_stablehlo(text, vendor)) << text;
          EXPECT_EQ(print(built.graph, vendor), text);
        }
      }
    }
  }
}

TEST(StableHlo, ConstantsAreBits) {
  Graph graph;
  graph.add_output("a", graph.constant(Tensor::from<float>({2}, {1.0f, -0.0f})));
  graph.add_output("b", graph.constant(Tensor::from<bool>({3}, {true, false, true})));
  graph.add_output("c", full(graph, {}, -1e30, DType::kF64));
  graph.add_output("d", graph.constant(Tensor::from<uint32_t>({2}, {0xffffffffu, 0xffffffffu})));
  const std::string text = print(graph);
  EXPECT_NE(text.find("dense<\"0x0000803F00000080\"> : tensor<2xf32>"), std::string::npos) << text;
  EXPECT_NE(text.find("dense<\"0x010001\"> : tensor<3xui8>"), std::string::npos) << text;
  EXPECT_NE(text.find("dense<4294967295> : tensor<2xui32>"), std::string::npos) << text;
  verify_stablehlo(text, cpu());
}

void replace(std::string& text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
}

struct Mistake {
  const char *from, *to, *message;
};

TEST(StableHloVerifier, FindsWhatPluginsOverlook) {
  const std::string good = print(small_graph());
  verify_stablehlo(good, cpu());
  const Mistake mistakes[] = {
      {"<{dimensions =", "<{dimension =", "'dimension' is unknown"},
      {"array<i64: 1>", "array<i32: 1>", "malformed"},
      {"array<i64: 1>", "array<i64: 2>", "not axes"},
      {"dense<0x3F000000>", "dense<0.5>", "malformed"},
      {"dense<0x3F000000>", "dense<0x3F00>", "malformed"},
      {"\"stablehlo.multiply\"", "\"stablehlo.multiplies\"", "unknown"},
      {"broadcast_dimensions = array<i64: 0>", "broadcast_dimensions = array<i64: 1>", "does not stretch"},
      {"%layers.0.attention.constant.3 =", "%layers.0.attention.constant.0 =", "defined twice"},
      {"%both.4 =", "%arg0.layers.0.weight =", "defined twice"},
      {"\"func.return\"(%layers.0.attention.add.7)", "\"func.return\"(%both.4)", "not defined"},
      {"tf.aliasing_output = 0 : i32", "tf.aliasing_outputs = 0 : i32", "is unknown"},
      {"tf.aliasing_output = 0 : i32", "tf.aliasing_output = 1 : i32", "takes over"},
      {"sym_name = \"main\"", "sym_name = \"other\"", "must be called main"},
      {"-> (tensor<2x3xf32>), sym_name", "-> (tensor<3x2xf32>), sym_name", "function_type"},
      {"(tensor<2x3xf32>, tensor<f32>) -> tensor<2xf32>", "(tensor<2x3xf32>, tensor<f32>) -> tensor<3xf32>",
       "must be 2xf32"},
      {"%layers.0.attention.reduce.5 =", "%3reduce =", "begins with a digit"},
  };
  for (const Mistake& mistake : mistakes) {
    std::string text = good;
    replace(text, mistake.from, mistake.to);
    try {
      verify_stablehlo(text, cpu());
      ADD_FAILURE() << "overlooked: " << mistake.to;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(mistake.message), std::string::npos) << error.what();
    }
  }
}

TEST(StableHloVerifier, EveryCutIsAnError) {
  const std::string good = print(small_graph());
  for (size_t length = 0; length + 1 < good.size(); ++length)
    EXPECT_THROW(verify_stablehlo(std::string_view(good).substr(0, length), cpu()), Error) << length;
}

TEST(StableHloVerifier, RefusesWhatTheVendorBans) {
  Graph graph;
  graph.add_output("y", erf(graph.parameter("x", {DType::kF32, {4}})));
  const std::string text = print(graph);
  EXPECT_NE(text.find("chlo.erf"), std::string::npos);
  const Vendor& neuron = *find_vendor("neuron");
  try {
    verify_stablehlo(text, neuron);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnimplemented);
    EXPECT_NE(std::string(error.what()).find("chlo.erf"), std::string::npos);
  }
  EXPECT_NO_THROW(verify_stablehlo(print(graph, neuron), neuron));
}

TEST(PadBounded, AddsSizesAndMasksOnlyWhatMixesRows) {
  Graph graph;
  const Dim n(16, 1);
  const Value x = graph.parameter("x", {DType::kF32, {n, 4}});
  graph.add_output("sum", reduce_sum(x, {0}));
  graph.add_output("rows", reduce_sum(x, {1}));
  const std::vector<Symbol> symbols = symbols_of(graph);
  ASSERT_EQ(symbols, (std::vector<Symbol>{{1, 16}}));
  const Graph padded = pad_bounded(graph, symbols, {4});
  padded.verify();
  ASSERT_EQ(padded.inputs().size(), 2u);
  EXPECT_EQ(padded.inputs()[0].value.type(), (TensorType{DType::kF32, {4, 4}}));
  EXPECT_EQ(padded.inputs()[1].value.type(), (TensorType{DType::kI32, {}}));
  int selects = 0;
  for (const auto& node : padded.nodes()) selects += node->op->name == "select" ? 1 : 0;
  EXPECT_EQ(selects, 1);
  verify_stablehlo(print_stablehlo(padded, cpu()), cpu());
}

}  // namespace
}  // namespace vertebra::pjrt
