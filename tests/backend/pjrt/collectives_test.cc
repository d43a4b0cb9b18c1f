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

// Fields of a protocol buffer, numbers and lengths below 128.
std::string number(int field, int value) {
  std::string out;
  if (field >= 16) out += static_cast<char>(0x80 | ((field << 3) & 0x7f));
  out += static_cast<char>(field >= 16 ? field >> 4 : field << 3);
  return out + static_cast<char>(value);
}
std::string message(int field, const std::string& bytes) {
  std::string out = number(field, static_cast<int>(bytes.size()));
  out[0] = static_cast<char>(out[0] | 2);
  return out + bytes;
}
std::string f32(int elements) {
  return number(2, 11) + message(3, std::string(1, static_cast<char>(elements)));
}
std::string instruction(const std::string& opcode, int id, const std::string& shape,
                        const std::string& rest) {
  return message(2, message(2, opcode) + message(3, shape) + number(35, id) + rest);
}

// Groups in each of the four forms that plugins have used, and an operation in two pieces.
TEST(CollectivesReader, ReadsEveryFormOfGroups) {
  const std::string of_first = message(36, "\x01");
  const std::string groups = message(1, message(1, std::string("\x00\x01\x02", 3)));
  const std::string counted = number(1, 2) + number(2, 4);
  const std::string axis = message(1, message(1, "x") + number(2, 5));
  const std::string computation =
      instruction("parameter", 1, f32(16), "") +
      instruction("all-reduce", 2, f32(16), of_first + message(87, groups)) +
      instruction("all-reduce", 3, f32(16),
                  of_first + message(49, message(1, std::string("\x00\x01\x02", 3)))) +
      instruction("all-reduce", 4, f32(16), of_first + message(87, message(2, counted))) +
      instruction("all-gather-start", 5, message(4, f32(16)) + message(4, f32(64)),
                  of_first + message(92, counted)) +
      instruction("all-gather-done", 6, f32(64), message(36, "\x05")) +
      instruction("reduce-scatter", 7, f32(4),
                  of_first + message(93, message(1, axis + axis) + message(2, number(1, 1)))) +
      instruction("collective-permute", 8, f32(16), of_first);
  ASSERT_GT(computation.size(), 127u);
  std::string module = "\x1a";  // field 3, with a length of two bytes
  module += static_cast<char>(0x80 | (computation.size() & 0x7f));
  module += static_cast<char>(computation.size() >> 7);
  module += computation;
  const Counted wanted = {{"all-gather", 4, 1, 64 * 4},
                          {"all-reduce", 3, 2, 2 * 16 * 4},
                          {"all-reduce", 4, 1, 16 * 4},
                          {"collective-permute", 0, 1, 16 * 4},
                          {"reduce-scatter", 5, 1, 16 * 4}};
  EXPECT_EQ(read_collectives(module, "hlo"), wanted);
  for (size_t length = 1; length < module.size(); ++length)
    EXPECT_THROW(read_collectives(std::string_view(module).substr(0, length), "hlo"), Error) << length;
}

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
