// Training on meshes of 2, 4 and 8 devices, which the CPU plugins pretend to have: the loss curve of one
// device, parts of the right size, checkpoints that continue on another mesh, by both partitioners.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/pjrt/collectives.h"
#include "backend/pjrt/pjrt_buffer.h"
#include "backend/pjrt/shards.h"
#include "base/file.h"
#include "base/json.h"
#include "models/sharding.h"
#include "ops/ops.h"
#include "tests/backend/pjrt/small_training.h"
#include "tests/backend/pjrt/with_plugin.h"
#include "tests/tensor/random_blocks.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

constexpr int kRows = 8;

std::unique_ptr<Model> small_model(const std::string& type) {
  Json sizes = {{"depth", 1}, {"embedding", 32}, {"heads", 8}, {"feed_forward", 48}};
  if (type == "llama") sizes["key_value_heads"] = 4;
  if (type == "llama") sizes["head_dim"] = 8;
  return make_model(default_config(type, sizes, kSmallVocabulary, 64), "test");
}

// The CPU's row of the table with the other partitioner.
const pjrt::Vendor& vendor(pjrt::Partitioner partitioner) {
  static const pjrt::Vendor gspmd = [] {
    pjrt::Vendor row = *pjrt::find_vendor("cpu");
    row.partitioner = pjrt::Partitioner::kGspmd;
    return row;
  }();
  return partitioner == pjrt::Partitioner::kGspmd ? gspmd : *pjrt::find_vendor("cpu");
}

class OnMesh : public WithPlugin {
 protected:
  void SetUp() override {
    WithPlugin::SetUp();
    folder_ = fs::path(testing::TempDir()) / fmt::format("mesh-{}", getpid());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // With a cache of the test's own: most of its time is compiling.
  std::unique_ptr<Backend> open(const Mesh& mesh,
                                pjrt::Partitioner partitioner = pjrt::Partitioner::kShardy) const {
    return make_pjrt_backend({.plugin = file(),
                              .vendor = &vendor(partitioner),
                              .device_name = "pjrt:cpu",
                              .mesh = mesh,
                              .cache = folder_ / "cache"});
  }

  TrainerOptions options(const std::string& name, const std::string& optimizer = "adamw") const {
    return small_training(folder_ / name, kRows, optimizer);
  }
  static std::vector<double> train(Backend& backend, const TrainerOptions& options, const std::string& type,
                                   int64_t stop = -1) {
    return train_small(backend, *small_model(type), options, stop);
  }

  fs::path folder_;
};

// On the newer plugin alone.
class TrainingOnMesh : public OnMesh {};

TEST_P(OnMesh, AllAxesTogetherGiveTheLossCurveOfOneDevice) {
  expect_near(train(*open({2, 2, 2}), options("mesh"), "llama"), train(*open({}), options("one"), "llama"),
              1e-4);
}

struct MeshCase {
  Mesh mesh;
  pjrt::Partitioner partitioner;
};

TEST_P(TrainingOnMesh, TheLossCurveIsThatOfOneDevice) {
  constexpr auto kShardy = pjrt::Partitioner::kShardy, kGspmd = pjrt::Partitioner::kGspmd;
  const std::tuple<const char*, const char*, std::vector<MeshCase>> kCases[] = {
      {"llama", "adamw", {{{2, 1, 1}, kShardy}, {{1, 4, 1}, kGspmd}, {{1, 1, 2}, kShardy}}},
      {"gpt2", "adamw", {{{2, 1, 2}, kGspmd}, {{1, 1, 4}, kShardy}, {{2, 2, 2}, kGspmd}}},
      {"llama", "muon", {{{1, 2, 2}, kShardy}}},
  };
  for (const auto& [type, optimizer, cases] : kCases) {
    const std::string name = fmt::format("{}-{}", type, optimizer);
    const std::vector<double> wanted = train(*open({}), options(name, optimizer), type);
    ASSERT_EQ(wanted.size(), 10u);
    EXPECT_LT(wanted.back(), wanted.front() - 0.1);
    for (const MeshCase& each : cases) {
      const std::string where = fmt::format("{} on {} by {}", name, each.mesh.to_string(),
                                            each.partitioner == kShardy ? "Shardy" : "GSPMD");
      SCOPED_TRACE(where);
      expect_near(train(*open(each.mesh, each.partitioner), options(where, optimizer), type), wanted, 1e-4);
    }
  }
}

// What one device holds of parameters and optimizer state: everything with the width is cut by fsdp, what has
// heads, feed-forward or vocabulary by tensor, nothing by data; norms are whole everywhere.
TEST_P(OnMesh, EachDeviceHoldsItsShareAndNoMore) {
  const auto model = small_model("llama");
  const auto bytes_per_device = [&](const Mesh& mesh) {
    const auto backend = open(mesh);
    uint64_t out = 0;
    const auto add = [&](const Shape& shape, const Sharding& sharding) {
      const auto buffer = backend->upload_sharded(Tensor::zeros({DType::kF32, shape}), sharding);
      out += dynamic_cast<const pjrt::PjrtBuffer&>(*buffer).bytes_per_device();
    };
    for (const ParameterSpec& spec : model->parameters()) add(spec.shape, parameter_sharding(spec, mesh));
    for (const StateSpec& spec : optimizer_state(*model, {}, mesh)) add(spec.shape, spec.sharding);
    return out;
  };
  uint64_t norms = 0;
  for (const ParameterSpec& spec : model->parameters())
    norms += spec.role == Role::kVector ? 3 * 4 * static_cast<uint64_t>(spec.shape.elements()) : 0;
  const uint64_t all = 3 * 4 * static_cast<uint64_t>(count_parameters(model->parameters()));
  EXPECT_EQ(bytes_per_device({}), all);
  EXPECT_EQ(bytes_per_device({2, 1, 1}), all);
  EXPECT_EQ(bytes_per_device({1, 4, 1}), norms + (all - norms) / 4);
  EXPECT_EQ(bytes_per_device({1, 1, 4}), norms + (all - norms) / 4);
  EXPECT_EQ(bytes_per_device({2, 2, 2}), norms + (all - norms) / 4);
}

// Fully sharded: a step gathers every parameter once and sums its gradient, and nothing of the size of the
// activations travels (which is what partitioners make of it where the residual stream is not pinned).
TEST_P(OnMesh, ByFsdpOnlyParametersAndGradientsTravel) {
  for (const auto partitioner : {pjrt::Partitioner::kShardy, pjrt::Partitioner::kGspmd}) {
    TrainGraphOptions step;
    step.rows = kRows;
    step.length = 64;
    step.mesh = {1, 4, 1};
    const auto model = small_model("llama");
    const auto executable = open(step.mesh, partitioner)->compile(build_training_step(*model, step));
    std::map<std::string, int64_t> bytes;
    for (const pjrt::Collective& each : pjrt::collectives_of(*executable)) bytes[each.kind] += each.bytes;
    const double parameters = 4.0 * static_cast<double>(count_parameters(model->parameters()));
    const double gathered = static_cast<double>(bytes["all-gather"]),
                 summed = static_cast<double>(bytes["all-reduce"] + bytes["reduce-scatter"]);
    EXPECT_GT(gathered, 0.9 * parameters);
    EXPECT_LT(gathered, 1.2 * parameters);
    EXPECT_GT(summed, 0.9 * parameters);
    EXPECT_LT(summed, 1.2 * parameters);
  }
}

// A batch that the mesh does not divide is evaluated as well: every device computes all of it.
TEST_P(OnMesh, AFewRowsAreEvaluatedByEveryDevice) {
  const auto model = small_model("gpt2");
  const std::vector<int32_t> token_bytes(kSmallVocabulary, 1);
  const auto loss = [&](const Mesh& mesh) {
    const auto backend = open(mesh);
    BufferSet parameters;
    for (const ParameterSpec& spec : model->parameters())
      parameters.set(spec.name,
                     backend->upload_sharded(initial_value(spec, 1), parameter_sharding(spec, mesh)));
    LossEvaluator evaluator(*backend, *model, parameters, 1, 6, DType::kF32, token_bytes);
    Batch batch = {};
    batch.rows = 1;
    batch.length = batch.loss_tokens = 6;
    batch.tokens = {1, 2, 3, 4, 5, 6};
    batch.labels = {2, 3, 4, 5, 6, 7};
    batch.segments.assign(6, 0);
    batch.positions = {0, 1, 2, 3, 4, 5};
    return evaluator
        .run([&](int64_t index) { return index == 0 ? std::optional<Batch>(batch) : std::nullopt; })
        .loss();
  };
  EXPECT_NEAR(loss({2, 2, 1}), loss({}), 1e-5);
}

TEST_P(OnMesh, ABufferIsOneTensorHoweverItIsCut) {
  const auto backend = open({2, 2, 2});
  Tensor host(DType::kI32, {4, 6, 8});
  for (int64_t i = 0; i < host.elements(); ++i) host.set(i, static_cast<double>(i));
  constexpr auto kData = MeshAxis::kData, kFsdp = MeshAxis::kFsdp, kTensor = MeshAxis::kTensor;
  const Sharding shardings[] = {{},
                                {{{kData}}},
                                {{{kData, kFsdp}, {kTensor}}},
                                {{{}, {kTensor}, {kFsdp}}},
                                {{{}, {}, {kTensor, kFsdp, kData}}}};
  for (const Sharding& sharding : shardings) {
    SCOPED_TRACE(sharding.to_string());
    const auto buffer = backend->upload_sharded(host, sharding);
    EXPECT_TRUE(buffer->to_host().same_bits(host));
    const auto other = backend->allocate_sharded(host.type(), sharding);
    other->copy_from(host);
    EXPECT_TRUE(other->to_host().same_bits(host));
  }
  EXPECT_THROW(backend->allocate_sharded({DType::kF32, {4, 5}}, {{{}, {kTensor}}}), Error);
  EXPECT_THROW(backend->allocate_sharded({DType::kF32, {4}}, {{{}, {kTensor}}}), Error);
  EXPECT_THROW(backend->allocate_sharded({DType::kF32, {4, 4}}, {{{kTensor}, {kTensor}}}), Error);
}

// Rows of whole blocks on each device, as bytes.
TEST_P(OnMesh, QuantizedWeightsAreCutBetweenBlocks) {
  constexpr auto kFsdp = MeshAxis::kFsdp, kTensor = MeshAxis::kTensor;
  const Tensor blocks = random_blocks({DType::kQ4_K, {6, 1024}}, Philox(3, "weight"));
  Tensor input(DType::kF32, {2, 1024});
  for (int64_t i = 0; i < input.elements(); ++i) input.set(i, static_cast<double>(i % 7 - 3));
  std::vector<Tensor> results;
  for (const Sharding& sharding :
       {Sharding{}, Sharding{{{kFsdp}, {}}}, Sharding{{{}, {kTensor}}}, Sharding{{{kTensor}, {kFsdp}}}}) {
    SCOPED_TRACE(sharding.to_string());
    const auto backend = open({1, 2, 2});
    Graph graph;
    const Value x = graph.parameter("x", input.type());
    const Value w = graph.parameter("w", blocks.type(), sharding);
    graph.add_output("y", linear(x, w));
    BufferSet buffers;
    buffers.set("x", backend->upload(input));
    buffers.set("w", backend->upload_sharded(blocks, sharding));
    EXPECT_TRUE(buffers.at("w").to_host().same_bits(blocks));
    BoundExecutable executable(*backend, graph, buffers);
    executable.run();
    results.push_back(buffers.at("y").to_host());
    for (int64_t i = 0; i < results[0].elements(); ++i)
      EXPECT_NEAR(results.back().at(i), results[0].at(i), 1e-3) << i;
  }
  const auto backend = open({1, 2, 2});
  EXPECT_THROW(backend->allocate_sharded({DType::kQ4_K, {6, 512}}, {{{}, {kTensor, kFsdp}}}), Error);
}

// The plugin's own partitioner against our cutting: a graph whose inputs and outputs lie in different ways.
TEST_P(OnMesh, EachDeviceComputesItsPart) {
  constexpr auto kData = MeshAxis::kData, kFsdp = MeshAxis::kFsdp, kTensor = MeshAxis::kTensor;
  const TensorType type = {DType::kF32, {8, 8}};
  Graph graph;
  const Value a = graph.parameter("a", type, {{{kFsdp}, {kData}}});
  const Value b = graph.parameter("b", type, {{{}, {kTensor, kFsdp}}});
  graph.add_output("sum", add(a, b), a);
  graph.add_output("product", matmul(a, b), {}, {{{kTensor}, {kFsdp, kData}}});
  Tensor left(type), right(type), sum(type), product = Tensor::zeros(type);
  for (int64_t i = 0; i < 64; ++i) {
    left.set(i, static_cast<double>(i % 7));
    right.set(i, static_cast<double>(i % 5 - 2));
    sum.set(i, left.at(i) + right.at(i));
  }
  for (int64_t i = 0; i < 512; ++i)
    product.set(i / 64 * 8 + i % 8,
                product.at(i / 64 * 8 + i % 8) + left.at(i / 8) * right.at(i / 8 % 8 * 8 + i % 8));
  for (const auto partitioner : {pjrt::Partitioner::kShardy, pjrt::Partitioner::kGspmd}) {
    const auto backend = open({2, 2, 2}, partitioner);
    const auto executable = backend->compile(graph);
    const auto x = backend->upload_sharded(left, graph.inputs()[0].sharding);
    const auto y = backend->upload_sharded(right, graph.inputs()[1].sharding);
    const auto z = backend->allocate_sharded(type, graph.outputs()[1].sharding);
    Buffer* const inputs[] = {x.get(), y.get()};
    Buffer* const outputs[] = {x.get(), z.get()};
    executable->run(inputs, outputs);
    EXPECT_TRUE(x->to_host().same_bits(sum));
    EXPECT_TRUE(z->to_host().same_bits(product));
    const auto whole = backend->upload(right);
    Buffer* const wrong[] = {x.get(), whole.get()};
    try {
      executable->run(wrong, outputs);
      FAIL() << "a buffer that lies otherwise was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("'b' lies on the mesh as"), std::string::npos) << error.what();
    }
  }
}

TEST_P(TrainingOnMesh, ACheckpointContinuesOnAnotherMesh) {
  const auto one = open({}), several = open({2, 2, 1});
  const std::vector<double> wanted = train(*one, options("whole"), "llama");
  Backend* const both[] = {one.get(), several.get()};
  for (const int first : {0, 1}) {
    const TrainerOptions cut = options(fmt::format("cut{}", first));
    train(*both[first], cut, "llama", /*stop=*/7);  // the checkpoint is of step 5
    expect_near(train(*both[1 - first], cut, "llama"), wanted, 1e-4);
  }
}

TEST_P(TrainingOnMesh, AccumulatedGradientsAreCutToo) {
  TrainerOptions single = options("single"), meshed = options("meshed");
  single.accumulation = meshed.accumulation = 2;
  single.schedule.steps = meshed.schedule.steps = 4;
  expect_near(train(*open({1, 2, 2}), meshed, "llama"), train(*open({}), single, "llama"), 1e-4);
}

VERTEBRA_WITH_CPU_PLUGINS(OnMesh);
INSTANTIATE_TEST_SUITE_P(Pjrt, TrainingOnMesh, testing::Values("pjrt_c_api_cpu_plugin.so"), plugin_name);

TEST(Shards, ThePartsOfAllDevicesMakeTheWhole) {
  PhiloxSequence random(Philox(1, "shards"));
  for (int attempt = 0; attempt < 300; ++attempt) {
    const auto below = [&](int64_t n) {
      return static_cast<int64_t>(random.uniform() * static_cast<double>(n));
    };
    const Mesh mesh = {1 + below(3), 1 + below(3), 1 + below(3)};
    Shape shape;
    for (int64_t rank = 1 + below(4); rank > 0; --rank) shape.push_back(1 + below(5));
    Sharding sharding;
    sharding.dims.resize(static_cast<size_t>(shape.rank()));
    for (const MeshAxis axis : kMeshAxes) {
      const int dim = static_cast<int>(below(shape.rank()));
      if (below(3) == 0) continue;
      sharding.dims[static_cast<size_t>(dim)].push_back(axis);
      shape.set_dim(dim, shape[dim] * mesh.size(axis));
    }
    SCOPED_TRACE(fmt::format("{} {} {}", shape.to_string(), sharding.to_string(), mesh.to_string()));
    const Shape part = shard_shape(shape, sharding, mesh, "test");
    Tensor whole(DType::kI32, shape), found = Tensor::zeros({DType::kI32, shape});
    for (int64_t i = 0; i < whole.elements(); ++i) whole.set(i, static_cast<double>(i + 1));
    for (int64_t device = 0; device < mesh.devices(); ++device) {
      const std::vector<int64_t> start = shard_start(shape, sharding, mesh, device);
      pjrt::put_part(found, start, pjrt::take_part(whole, start, part));
    }
    EXPECT_TRUE(found.same_bits(whole));
  }
}

TEST(ModelOnMesh, WhatDoesNotDivideIsNamedWithTheRemedy) {
  const auto message = [](const auto& check) -> std::string {
    try {
      check();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kInvalidArgument);
      return error.what();
    }
    return "";
  };
  const auto model =
      small_model("llama");  // 8 heads, 4 key/value heads, 32 wide, feed-forward 48, vocabulary 32
  const auto wrong = [&](const Mesh& mesh) { return message([&] { check_model_fits(*model, mesh); }); };
  EXPECT_EQ(wrong({8, 4, 4}), "");
  EXPECT_EQ(wrong({1, 1, 3}),
            "the model's heads 8 cannot be cut over mesh.tensor = 3: make model.heads a multiple of 3, or "
            "mesh.tensor a divisor of 8");
  EXPECT_NE(wrong({1, 1, 8}).find("key/value heads 4 cannot be cut over mesh.tensor = 8"), std::string::npos);
  EXPECT_NE(wrong({1, 3, 1}).find("width 32 cannot be cut over mesh.fsdp = 3: make model.embedding"),
            std::string::npos);
  const auto odd = make_model(
      default_config("gpt2", {{"depth", 1}, {"embedding", 32}, {"heads", 4}, {"feed_forward", 30}}, 50, 64),
      "test");
  EXPECT_NE(message([&] { check_model_fits(*odd, {1, 1, 4}); }).find("vocabulary 50 cannot be cut"),
            std::string::npos);
  EXPECT_NE(
      message([] {
        check_rows_fit(6, {2, 2, 1}, "pretrain.rows");
      }).find("6 rows cannot be cut over mesh.data = 2 x mesh.fsdp = 2: make pretrain.rows a multiple of 4"),
      std::string::npos);
}

}  // namespace
}  // namespace vertebra
