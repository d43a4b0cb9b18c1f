// Equal layers written as a loop: what is found, what is written, and on the plugins the same numbers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <list>

#include "backend/buffer_set.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/pjrt/find_loops.h"
#include "backend/pjrt/prepare_graph.h"
#include "backend/pjrt/stablehlo.h"
#include "backend/pjrt/verify_stablehlo.h"
#include "engine/serving_graph.h"
#include "models/sharding.h"
#include "ops/ops.h"
#include "tests/backend/pjrt/with_plugin.h"
#include "tests/engine/tiny_model.h"
#include "tests/tensor/random_blocks.h"
#include "train/evaluate.h"
#include "train/train_graph.h"

namespace vertebra::pjrt {
namespace {

const Vendor& looping() {
  static const Vendor vendor = [] {
    Vendor out = *find_vendor("cpu");
    out.layers_as_loop = true;
    return out;
  }();
  return vendor;
}

std::unique_ptr<Model> model_of(const std::string& type, int depth) {
  Json sizes = {{"depth", depth}, {"embedding", 16}, {"heads", 2}, {"feed_forward", 24}};
  if (type == "llama") sizes["key_value_heads"] = 1;
  return make_model(default_config(type, sizes, 32, 32), "test");
}

TrainGraphOptions training() {
  TrainGraphOptions out;
  out.rows = 2;
  out.length = 8;
  out.optimizer.learning_rate = 1e-2;
  return out;
}

Graph prepared_step(const std::string& type, int depth) {
  return prepare_graph(build_training_step(*model_of(type, depth), training()), looping());
}

int64_t lines(const Graph& graph, const Vendor& vendor) {
  const std::string text = print_stablehlo(graph, vendor);
  verify_stablehlo(text, vendor);
  EXPECT_EQ(print_stablehlo(graph, vendor), text);
  return std::count(text.begin(), text.end(), '\n');
}

TEST(FindLoops, ForwardAndBackwardOfEqualLayersAreALoopEach) {
  for (const char* type : {"llama", "gpt2"}) {
    SCOPED_TRACE(type);
    const Graph graph = prepared_step(type, 6);
    const GraphLoops found = find_loops(graph);
    ASSERT_EQ(found.loops.size(), 2u);
    for (const GraphLoop& loop : found.loops) {
      EXPECT_GE(loop.count, 5);  // the first layer done may compute what the others use again
      EXPECT_EQ(loop.nodes.size(), static_cast<size_t>(loop.count * loop.period));
      EXPECT_EQ(loop.carried.size(), 1u);  // the activations, or their gradient
    }
    // The backward loop reads what the forward loop kept, last layer first.
    const auto& each = found.loops[1].each;
    EXPECT_TRUE(std::any_of(each.begin(), each.end(),
                            [](const GraphLoop::Each& e) { return e.loop == 0 && e.step == -1; }));
  }
}

TEST(FindLoops, EachFurtherLayerAddsOnlyWhatIsStacked) {
  // Evaluation: the optimizer's updates stand side by side.
  const auto growth = [](const Vendor& vendor) {
    int64_t out[2] = {};
    for (int i = 0; i < 2; ++i) {
      const auto model = model_of("llama", i == 0 ? 6 : 12);
      out[i] = lines(prepare_graph(build_evaluation(*model, 2, 8, DType::kF32), vendor), vendor);
    }
    return (out[1] - out[0]) / 6;
  };
  const int64_t unrolled = growth(*find_vendor("cpu")), rolled = growth(looping());
  EXPECT_GT(unrolled, 70);
  EXPECT_LE(rolled, 9);  // one reshape for each of the 9 parameters that are stacked
}

TEST(FindLoops, ACacheThatIsWrittenInPlaceIsNotCopied) {
  ServingShape shape;
  shape.tokens = 8;
  shape.sampled = shape.requests = 2;
  shape.pages = 4;
  shape.page_size = 4;
  shape.pages_per_request = 2;
  const Graph graph = prepare_graph(build_serving_step(*model_of("llama", 6), shape), looping());
  EXPECT_TRUE(find_loops(graph).loops.empty());
}

// Pieces that look alike but are wired differently.
TEST(FindLoops, ChecksTheWiring) {
  const auto chain = [](bool crossed) {
    Graph graph;
    const TensorType type = {DType::kF32, {4, 4}};
    Value x = graph.parameter("x", type), before = x;
    for (int i = 0; i < 6; ++i) {
      const Value start = x;
      for (int j = 0; j < 30; ++j) x = add(tanh(x), start);
      x = matmul(x, start);
      if (crossed) x = add(x, i % 2 == 0 ? before : start);
      before = start;
    }
    graph.add_output("y", x);
    const GraphLoops found = find_loops(graph);
    for (const GraphLoop& loop : found.loops) EXPECT_EQ(loop.period % 61, 0);
    return found.loops.size();
  };
  EXPECT_EQ(chain(false), 1u);
  EXPECT_EQ(chain(true), 0u);
}

class PjrtLoops : public WithPlugin {};

TEST_P(PjrtLoops, GiveTheCpusLossCurve) {
  const auto cpu = make_cpu_backend();
  const auto pjrt =
      make_pjrt_backend({.plugin = file(), .vendor = &looping(), .cache = std::filesystem::path()});
  for (const char* type : {"llama", "gpt2"}) {
    SCOPED_TRACE(type);
    std::vector<std::vector<double>> losses;
    for (Backend* backend : {cpu.get(), pjrt.get()}) {
      const auto model = model_of(type, 4);
      BufferSet buffers;
      for (const ParameterSpec& spec : model->parameters())
        buffers.set(spec.name, backend->upload(initial_value(spec, 1)));
      for (const StateSpec& state : optimizer_state(*model, training().optimizer))
        buffers.set(state.name, backend->upload(Tensor::zeros({DType::kF32, state.shape})));
      BoundExecutable step(*backend, build_training_step(*model, training()), buffers);
      const auto set = [&](const char* name, float value) {
        buffers.at(name).copy_from(Tensor::scalar<float>(value));
      };
      set(inputs::kLearningRate, 1e-2F);
      set(inputs::kLossScale, 1.0F / 16);
      set(inputs::kNormLimit, 1e30F);
      auto& curve = losses.emplace_back();
      for (int i = 0; i < 10; ++i) {
        Tensor tokens(DType::kI32, {2, 8}), labels = tokens.clone(), zeros = Tensor::zeros(tokens.type()),
                                            positions = tokens.clone();
        for (int64_t t = 0; t < 16; ++t) {
          tokens.set(t, static_cast<double>((t * 3 + i) % 32));
          labels.set(t, static_cast<double>((t * 3 + i + 3) % 32));
          positions.set(t, static_cast<double>(t % 8));
        }
        buffers.at(inputs::kTokens).copy_from(tokens);
        buffers.at(inputs::kLabels).copy_from(labels);
        buffers.at(inputs::kSegments).copy_from(zeros);
        buffers.at(inputs::kPositions).copy_from(positions);
        set(inputs::kStep, static_cast<float>(i + 1));
        step.run();
        curve.push_back(buffers.at(outputs::kLoss).to_host().at(0) / 16);
      }
      if (backend == pjrt.get()) {
        EXPECT_NE(step.executable().describe().find("stablehlo.while"), std::string::npos);
      }
    }
    EXPECT_LT(losses[0].back(), losses[0].front() - 0.1);
    for (size_t i = 0; i < losses[0].size(); ++i)
      EXPECT_NEAR(losses[1][i], losses[0][i], 1e-4) << "step " << i;
  }
}

// The layers' blocks are stacked as bytes.
TEST_P(PjrtLoops, TakeQuantizedWeights) {
  constexpr int kLayers = 4;
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {3, 64}});
  std::vector<Tensor> weights;
  Value h = x;
  for (int i = 0; i < kLayers; ++i) {
    weights.push_back(random_blocks({DType::kQ5_0, {64, 64}}, Philox(7, std::to_string(i))));
    const Value before = h;
    h = linear(h, graph.parameter(fmt::format("w{}", i), weights.back().type()));
    for (int j = 0; j < 13; ++j) h = add(tanh(h), before);
  }
  graph.add_output("y", h);
  Tensor input(DType::kF32, {3, 64});
  for (int64_t i = 0; i < input.elements(); ++i) input.set(i, std::sin(static_cast<double>(i)));
  const Vendor unrolled = *find_vendor("cpu");
  std::vector<Tensor> results;
  for (const Vendor* vendor : {&unrolled, &looping()}) {
    const auto backend =
        make_pjrt_backend({.plugin = file(), .vendor = vendor, .cache = std::filesystem::path()});
    BufferSet buffers;
    buffers.set("x", backend->upload(input));
    for (int i = 0; i < kLayers; ++i)
      buffers.set(fmt::format("w{}", i), backend->upload(weights[static_cast<size_t>(i)]));
    BoundExecutable executable(*backend, graph, buffers);
    EXPECT_EQ(executable.executable().describe().find("stablehlo.while") != std::string::npos,
              vendor == &looping());
    executable.run();
    results.push_back(buffers.at("y").to_host());
  }
  for (int64_t i = 0; i < results[0].elements(); ++i)
    EXPECT_NEAR(results[1].at(i), results[0].at(i), 1e-3 * std::fabs(results[0].at(i)) + 1e-5) << i;
}

// With the residual stream pinned inside the loop.
TEST_P(PjrtLoops, RunOnAMesh) {
  const auto model = model_of("llama", 4);
  const BatchSequence one = [](int64_t index) -> std::optional<Batch> {
    if (index > 0) return std::nullopt;
    Batch out;
    out.rows = 2;
    out.length = 8;
    for (int i = 0; i < 16; ++i) {
      out.tokens.push_back(i * 3 % 32);
      out.labels.push_back((i * 3 + 3) % 32);
      out.segments.push_back(0);
      out.positions.push_back(i % 8);
    }
    return out;
  };
  const auto loss_on = [&](Backend& backend) {
    BufferSet parameters;
    for (const ParameterSpec& spec : model->parameters())
      parameters.set(spec.name, backend.upload_sharded(initial_value(spec, 1),
                                                       parameter_sharding(spec, backend.mesh())));
    LossEvaluator evaluator(backend, *model, parameters, 2, 8, DType::kF32, {});
    return evaluator.run(one).loss();
  };
  const double wanted = loss_on(*make_cpu_backend());
  for (const Partitioner partitioner : {Partitioner::kShardy, Partitioner::kGspmd}) {
    static std::list<Vendor> vendors;  // plugins refer to them
    vendors.push_back(looping());
    vendors.back().partitioner = partitioner;
    const auto mesh = make_pjrt_backend(
        {.plugin = file(), .vendor = &vendors.back(), .mesh = {1, 2, 1}, .cache = std::filesystem::path()});
    EXPECT_NEAR(loss_on(*mesh), wanted, 1e-5);
  }
}

VERTEBRA_WITH_CPU_PLUGINS(PjrtLoops);

}  // namespace
}  // namespace vertebra::pjrt
