// Collectives of compiled graphs, where theory says how many there must be and of what size.
#include "backend/pjrt/collectives.h"

#include <gtest/gtest.h>

#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "ops/ops.h"
#include "tests/backend/pjrt/with_plugin.h"

namespace vertebra::pjrt {
namespace {

constexpr auto kData = MeshAxis::kData, kFsdp = MeshAxis::kFsdp, kTensor = MeshAxis::kTensor;

class Collectives : public WithPlugin {
 protected:
  static std::vector<Collective> count(const Graph& graph, const Mesh& mesh) {
    const auto backend = make_pjrt_backend(
        {.plugin = file(), .device_name = "pjrt:cpu", .mesh = mesh, .cache = std::filesystem::path()});
    return collectives_of(*backend->compile(graph));
  }
};

using Counted = std::vector<Collective>;

TEST_P(Collectives, OneDeviceSaysNothing) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {8, 16}});
  graph.add_output("y", reduce_sum(x, {0}));
  EXPECT_EQ(count(graph, {}), Counted{});
}

TEST_P(Collectives, ASumOverWhatIsCutIsOneAllReduceOfTheSum) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {8, 16}}, {{{kData}}});
  graph.add_output("y", reduce_sum(x, {0}));
  EXPECT_EQ(count(graph, {4, 1, 1}), (Counted{{"all-reduce", 4, 1, 16 * 4}}));
  EXPECT_EQ(count(graph, {2, 1, 2}), (Counted{{"all-reduce", 2, 1, 16 * 4}}));
}

TEST_P(Collectives, AProductWithGatheredWeights) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {64, 16}}, {{{kFsdp}}});
  const Value w = graph.parameter("w", {DType::kF32, {16, 8}}, {{{}, {kFsdp}}});
  graph.add_output("y", matmul(x, w), {}, {{{kFsdp}}});
  EXPECT_EQ(count(graph, {1, 2, 1}), (Counted{{"all-gather", 2, 1, 16 * 8 * 4}}));
}

// Megatron's pair of products: columns, then rows, then one sum.
TEST_P(Collectives, AFeedForwardBlockCutByTensorIsOneAllReduce) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {32, 16}});
  const Value up = graph.parameter("up", {DType::kF32, {16, 64}}, {{{}, {kTensor}}});
  const Value down = graph.parameter("down", {DType::kF32, {64, 16}}, {{{kTensor}}});
  graph.add_output("y", matmul(tanh(matmul(x, up)), down));
  EXPECT_EQ(count(graph, {1, 1, 4}), (Counted{{"all-reduce", 4, 1, 32 * 16 * 4}}));
}

VERTEBRA_WITH_CPU_PLUGINS(Collectives);

TEST(CollectivesReader, RefusesWhatIsNoProgram) {
  EXPECT_EQ(read_collectives("", "hlo"), Counted{});
  EXPECT_THROW(read_collectives(std::string_view("\x1a\x05\x12", 3), "hlo"), Error);
  EXPECT_THROW(read_collectives(std::string_view("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11), "hlo"),
               Error);
  EXPECT_THROW(read_collectives("", "text"), Error);
  const auto cpu = make_cpu_backend();
  Graph graph;
  graph.add_output("y", graph.parameter("x", {DType::kF32, {8}}));
  EXPECT_THROW(collectives_of(*cpu->compile(graph)), Error);
}

}  // namespace
}  // namespace vertebra::pjrt
