// The StableHLO text and its verifier; no plugin is needed.
#include "backend/pjrt/stablehlo.h"

#include <gtest/gtest.h>

#include "backend/pjrt/pad_bounded.h"
#include "backend/pjrt/prepare_graph.h"
#include "backend/pjrt/verify_stablehlo.h"
#include "base/error.h"
#include "ops/ops.h"
#include "tests/backend/pjrt/chip_types.h"
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
          if (chips_hold(vendor, sample)) {
            EXPECT_NO_THROW(verify_stablehlo(text, vendor)) << text;
          } else {
            EXPECT_THROW(verify_stablehlo(text, vendor), Error) << text;
          }
          EXPECT_EQ(print(built.graph, vendor), text);
        }
      }
    }
  }
}

// Quantized weights lie on a device as bytes, and of a table only the rows asked for become floats.
TEST(StableHlo, BlocksAreBytes) {
  Graph graph;
  const Value index = graph.parameter("index", {DType::kI32, {2}});
  graph.add_output("y", embedding(graph.parameter("w", {DType::kQ4_K, {50, 512}}), index));
  const std::string text = print(graph);
  EXPECT_NE(text.find("tensor<50x288xui8>, tensor<2xi32>) -> tensor<2x288xui8>"), std::string::npos) << text;
  EXPECT_EQ(text.find("50x512"), std::string::npos) << text;
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

// x [4, 6] cut by rows over data and fsdp and by columns over tensor, y whole.
Graph sharded_graph() {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {4, 6}},
                                  {{{MeshAxis::kData, MeshAxis::kFsdp}, {MeshAxis::kTensor}}});
  const Value y = graph.parameter("y", {DType::kF32, {6}});
  graph.add_output("x", with_sharding(multiply(x, 0.5), {{{}, {MeshAxis::kTensor}}}), x);
  graph.add_output("y", multiply(y, 2.0), {}, {{{MeshAxis::kTensor}}});
  return graph;
}

const Vendor& with_gspmd() {
  static const Vendor vendor = [] {
    Vendor row = cpu();
    row.partitioner = Partitioner::kGspmd;
    return row;
  }();
  return vendor;
}

std::string print_on(const Mesh& mesh, const Vendor& vendor) {
  return print_stablehlo(prepare_graph(sharded_graph(), vendor, mesh), vendor, mesh);
}

void expect_has(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << part << "\nis not in\n" << text;
}

TEST(StableHlo, AMeshAndItsShardingsForBothPartitioners) {
  const Mesh mesh = {2, 2, 3};
  const std::string shardy = print_on(mesh, cpu());
  expect_has(
      shardy,
      R"("sdy.mesh"() <{mesh = #sdy.mesh<["data"=2, "fsdp"=2, "tensor"=3]>, sym_name = "mesh"}> : () -> ())");
  expect_has(
      shardy,
      R"(arg_attrs = [{sdy.sharding = #sdy.sharding<@mesh, [{"data", "fsdp"}, {"tensor"}]>, tf.aliasing_output = 0 : i32}, {sdy.sharding = #sdy.sharding<@mesh, [{}]>}])");
  expect_has(
      shardy,
      R"(res_attrs = [{sdy.sharding = #sdy.sharding<@mesh, [{"data", "fsdp"}, {"tensor"}]>}, {sdy.sharding = #sdy.sharding<@mesh, [{"tensor"}]>}])");
  expect_has(
      shardy,
      R"("sdy.sharding_constraint"(%multiply.2) <{sharding = #sdy.sharding<@mesh, [{}, {"tensor"}]>}> : (tensor<4x6xf32>) -> tensor<4x6xf32>)");
  verify_stablehlo(shardy, cpu(), mesh);
  const std::string gspmd = print_on(mesh, with_gspmd());
  EXPECT_EQ(gspmd.find("sdy"), std::string::npos);
  expect_has(
      gspmd,
      R"(arg_attrs = [{mhlo.sharding = "{devices=[4,3]<=[12]}", tf.aliasing_output = 0 : i32}, {mhlo.sharding = "{replicated}"}])");
  expect_has(
      gspmd,
      R"(res_attrs = [{mhlo.sharding = "{devices=[4,3]<=[12]}"}, {mhlo.sharding = "{devices=[3,4]<=[2,2,3]T(2,0,1) last_tile_dim_replicate}"}])");
  expect_has(
      gspmd,
      R"("stablehlo.custom_call"(%multiply.2) <{call_target_name = "Sharding"}> {mhlo.sharding = "{devices=[1,3,4]<=[2,2,3]T(2,0,1) last_tile_dim_replicate}"} : (tensor<4x6xf32>) -> tensor<4x6xf32>)");
  verify_stablehlo(gspmd, with_gspmd(), mesh);
  // Axes of length 1 are no axes; on one device nothing is said.
  expect_has(print_on({1, 2, 1}, cpu()), R"([{"fsdp"}, {}])");
  EXPECT_EQ(print_on({}, cpu()).find("sharding"), std::string::npos);
  // A module is for one mesh.
  EXPECT_THROW(verify_stablehlo(shardy, cpu(), Mesh{2, 2, 2}), Error);
  EXPECT_THROW(verify_stablehlo(shardy, cpu()), Error);
  EXPECT_THROW(verify_stablehlo(gspmd, with_gspmd(), Mesh{2, 2, 2}), Error);
}

TEST(StableHloVerifier, FindsShardingsThatPluginsOverlook) {
  const Mesh mesh = {2, 2, 3};
  const Mistake of_shardy[] = {
      {R"([{"data", "fsdp"}, {"tensor"}])", R"([{"data", "fsdb"}, {"tensor"}])", "malformed"},
      {R"([{"data", "fsdp"}, {"tensor"}])", R"([{"data", "fsdp"}])", "1 dimensions"},
      {R"([{"data", "fsdp"}, {"tensor"}])", R"([{"data", "tensor"}, {"fsdp"}])",
       "does not divide dimension 0"},
      {R"([{"data", "fsdp"}, {"tensor"}])", R"([{"data", "data"}, {"tensor"}])", "twice"},
      {R"(#sdy.sharding<@mesh, [{}]>)", R"(#sdy.sharding<@grid, [{}]>)", "malformed"},
      {"{sdy.sharding = #sdy.sharding<@mesh, [{}]>}", "{}", "has 0 shardings"},
      {"{sdy.sharding = #sdy.sharding<@mesh, [{}]>}", "{sdy.shard = #sdy.sharding<@mesh, [{}]>}", "unknown"},
      {"\"data\"=2", "\"data\"=4", "the devices are"},
      {"res_attrs", "result_attrs", "res_attrs are missing"},
      {"sharding_constraint\"(%multiply.2) <{sharding", "sharding_constraint\"(%multiply.2) <{shard",
       "'shard' is unknown"},
      {"[{}, {\"tensor\"}]>}> : ", "[{}, {\"tensors\"}]>}> : ", "malformed"},
  };
  const Mistake of_gspmd[] = {
      {"{devices=[4,3]<=[12]}", "{devices=[4,3]<=[12}", "malformed"},
      {"{devices=[4,3]<=[12]}", "{device=[4,3]<=[12]}", "malformed"},
      {"{devices=[4,3]<=[12]}", "{devices=[2,3]<=[6]}", "not of 12 devices"},
      {"{devices=[4,3]<=[12]}", "{devices=[3,4]<=[12]}", "does not divide dimension 0"},
      {"{devices=[4,3]<=[12]}", "{devices=[4,3,1]<=[12]}", "3 dimensions"},
      {"T(2,0,1)", "T(2,0,2)", "order of axes"},
      {"\"Sharding\"}> {mhlo.sharding = ", "\"Sharding\"}> {mhlo.shard = ", "'mhlo.shard' is unknown"},
      {"\"Sharding\"}> {", "\"Shardings\"}> {", "malformed"},
      {"{mhlo.sharding = \"{replicated}\"}", "{mhlo.shardings = \"{replicated}\"}", "unknown"},
  };
  const auto expect_found = [&](const Vendor& vendor, std::span<const Mistake> mistakes) {
    for (const Mistake& mistake : mistakes) {
      std::string text = print_on(mesh, vendor);
      replace(text, mistake.from, mistake.to);
      try {
        verify_stablehlo(text, vendor, mesh);
        ADD_FAILURE() << "overlooked: " << mistake.to;
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find(mistake.message), std::string::npos) << error.what();
      }
    }
  };
  expect_found(cpu(), of_shardy);
  expect_found(with_gspmd(), of_gspmd);
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
