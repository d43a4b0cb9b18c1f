// Compiling and running graphs on the CPU: results, donation, bounded dimensions, errors, threads, and that
// steady state allocates nothing.
#include "backend/cpu/cpu_backend.h"

#include <gtest/gtest.h>

#include "backend/reference/reference.h"
#include "ops/ops.h"
#include "tests/backend/allocation_count.h"

namespace vertebra {
namespace {

Tensor ramp(const Shape& shape, double start = 0, double step = 1) {
  Tensor out(DType::kF32, shape);
  for (int64_t i = 0; i < out.elements(); ++i) out.set(i, start + step * static_cast<double>(i));
  return out;
}

// Uploads, runs with fresh output buffers, downloads.
std::vector<Tensor> run_graph(Backend& backend, const Graph& graph, const std::vector<Tensor>& inputs) {
  const auto executable = backend.compile(graph);
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<Buffer*> in, out;
  for (const Tensor& tensor : inputs) {
    buffers.push_back(backend.upload(tensor));
    in.push_back(buffers.back().get());
  }
  for (const auto& output : graph.outputs()) {
    buffers.push_back(backend.allocate(output.value.type()));
    out.push_back(buffers.back().get());
  }
  executable->run(in, out);
  std::vector<Tensor> results;
  for (const Buffer* buffer : out) results.push_back(buffer->to_host());
  return results;
}

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(CpuBackend, RunsAGraph) {
  const auto backend = make_cpu_backend();
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{2, 3}});
  const Value w = graph.parameter("w", {DType::kF32, Shape{4, 3}});
  graph.add_output("y", add(linear(x, w), 1.0));
  graph.add_output("x again", x);
  graph.add_output("constant", constant(graph, 2.5));
  graph.add_output("flat", reshape(x, Shape{6}));
  const auto out = run_graph(*backend, graph, {ramp(Shape{2, 3}), ramp(Shape{4, 3}, 0, 0.5)});
  EXPECT_EQ(out[0].at(0), 0 * 0.0 + 1 * 0.5 + 2 * 1.0 + 1);
  EXPECT_EQ(out[0].at(7), 3 * 4.5 + 4 * 5.0 + 5 * 5.5 + 1);
  EXPECT_TRUE(out[1].same_bits(ramp(Shape{2, 3})));
  EXPECT_EQ(out[2].at(0), 2.5);
  EXPECT_TRUE(out[3].same_bits(ramp(Shape{6})));
}

// A residual network with values that live for long, several readers and reductions.
Graph network() {
  Graph graph;
  Value x = graph.parameter("x", {DType::kF32, Shape{37, 48}});
  const Value w = graph.parameter("w", {DType::kF32, Shape{48, 48}});
  const Value first = x;
  for (int layer = 0; layer < 4; ++layer) {
    const Value h = silu(linear(softmax(x), w));
    x = add(x, multiply(h, reshape(reduce_sum(h, {1}), Shape{37, 1})));
    x = add(transpose(transpose(x, {1, 0}), {1, 0}), first);
  }
  graph.add_output("x", x);
  graph.add_output("sum", reduce_sum(x, {0, 1}));
  graph.add_output("columns", mean(x, {0}));
  return graph;
}

TEST(CpuBackend, AgreesWithTheReferenceAndWithItselfOnAnyNumberOfThreads) {
  const Graph graph = network();
  const std::vector<Tensor> inputs = {ramp(Shape{37, 48}, -1, 0.001), ramp(Shape{48, 48}, -0.5, 0.0004)};
  const auto wanted = evaluate_reference(graph, inputs);
  std::vector<Tensor> first;
  for (const int threads : {1, 2, 3, 4}) {
    ThreadTeam team(threads);
    const auto backend = make_cpu_backend({.team = &team});
    const auto out = run_graph(*backend, graph, inputs);
    if (first.empty()) first = out;
    for (size_t j = 0; j < out.size(); ++j) {
      EXPECT_TRUE(out[j].same_bits(first[j])) << threads << " threads, output " << j;
      for (int64_t i = 0; i < out[j].elements(); ++i)
        ASSERT_NEAR(out[j].at(i), wanted[j].at(i), 1e-4 * (1 + std::abs(wanted[j].at(i))));
    }
  }
}

TEST(CpuBackend, SteadyStateAllocatesNothing) {
  const Graph graph = network();
  const auto backend = make_cpu_backend();
  const auto executable = backend->compile(graph);
  const auto x = backend->upload(ramp(Shape{37, 48}));
  const auto w = backend->upload(ramp(Shape{48, 48}));
  std::vector<std::unique_ptr<Buffer>> buffers;
  std::vector<Buffer*> out;
  for (const auto& output : graph.outputs()) {
    buffers.push_back(backend->allocate(output.value.type()));
    out.push_back(buffers.back().get());
  }
  const std::vector<Buffer*> in = {x.get(), w.get()};
  executable->run(in, out);
  const int64_t before = allocation_count();
  for (int i = 0; i < 5; ++i) executable->run(in, out);
  EXPECT_EQ(allocation_count(), before);
}

TEST(CpuBackend, DonatedBuffersEndUpWithTheOutput) {
  const auto backend = make_cpu_backend();
  Graph graph;
  const Value a = graph.parameter("a", {DType::kF32, Shape{8}});
  const Value b = graph.parameter("b", {DType::kF32, Shape{8}});
  graph.add_output("a", add(a, b), a);  // a is read again below: no writing in place
  graph.add_output("b", multiply(subtract(b, a), 2.0), b);
  const auto executable = backend->compile(graph);
  const auto buffer_a = backend->upload(ramp(Shape{8}));
  const auto buffer_b = backend->upload(ramp(Shape{8}, 100));
  Buffer* buffers[] = {buffer_a.get(), buffer_b.get()};
  executable->run(buffers, buffers);
  for (int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(buffer_a->to_host().at(i), 100 + 2 * static_cast<double>(i));
    EXPECT_EQ(buffer_b->to_host().at(i), 200);
  }
  // Other buffers than the inputs' are as good.
  const auto other_a = backend->allocate({DType::kF32, Shape{8}});
  const auto other_b = backend->allocate({DType::kF32, Shape{8}});
  Buffer* others[] = {other_a.get(), other_b.get()};
  executable->run(buffers, others);
  EXPECT_EQ(other_a->to_host().at(3), 306);
  EXPECT_EQ(other_b->to_host().at(3), 188);
}

TEST(CpuBackend, InputsThatSwapPlaces) {
  const auto backend = make_cpu_backend();
  Graph graph;
  const Value a = graph.parameter("a", {DType::kF32, Shape{5}});
  const Value b = graph.parameter("b", {DType::kF32, Shape{5}});
  graph.add_output("a", b, a);
  graph.add_output("b", a, b);
  const auto executable = backend->compile(graph);
  const auto buffer_a = backend->upload(ramp(Shape{5}));
  const auto buffer_b = backend->upload(ramp(Shape{5}, 50));
  Buffer* buffers[] = {buffer_a.get(), buffer_b.get()};
  executable->run(buffers, buffers);
  EXPECT_TRUE(buffer_a->to_host().same_bits(ramp(Shape{5}, 50)));
  EXPECT_TRUE(buffer_b->to_host().same_bits(ramp(Shape{5})));
}

TEST(CpuBackend, ADonatedCacheIsWrittenInPlace) {
  const auto backend = make_cpu_backend();
  Graph graph;
  const Value cache = graph.parameter("cache", {DType::kF32, Shape{6, 2}});
  const Value row = graph.parameter("row", {DType::kF32, Shape{1, 2}});
  const Value at = graph.parameter("at", {DType::kI32, Shape{}});
  const std::vector<Value> starts = {at, constant(graph, 0, DType::kI32)};
  graph.add_output("cache", dynamic_update_slice(cache, row, starts), cache);
  const auto executable = backend->compile(graph);
  EXPECT_EQ(executable->describe().find("copy "), std::string::npos) << executable->describe();
  const auto buffer = backend->upload(ramp(Shape{6, 2}));
  const auto new_row = backend->upload(ramp(Shape{1, 2}, 70));
  const auto position = backend->upload(Tensor::scalar<int32_t>(4));
  Buffer* in[] = {buffer.get(), new_row.get(), position.get()};
  Buffer* out[] = {buffer.get()};
  executable->run(in, out);
  EXPECT_EQ(buffer->to_host().at(7), 7);
  EXPECT_EQ(buffer->to_host().at(8), 70);
  EXPECT_EQ(buffer->to_host().at(9), 71);
}

TEST(CpuBackend, BoundedDimensionsTakeTheirSizesFromTheInputs) {
  const auto backend = make_cpu_backend();
  constexpr uint8_t kRows = 1;
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{Dim(9, kRows), 16}});
  const Value y = graph.parameter("y", {DType::kF32, Shape{Dim(9, kRows)}});
  const Value w = graph.parameter("w", {DType::kF32, Shape{7, 16}});
  graph.add_output("out", add(linear(x, w), broadcast_in_dim(y, Shape{Dim(9, kRows), 7}, {0})));
  graph.add_output("sum", reduce_sum(x, {0}));
  const auto executable = backend->compile(graph);
  const auto weight = backend->upload(ramp(Shape{7, 16}, 0, 0.01));
  const auto out = backend->allocate(graph.outputs()[0].value.type());
  const auto sum = backend->allocate(graph.outputs()[1].value.type());
  const auto run = [&](int64_t rows) {
    const auto bx = backend->upload(ramp(Shape{rows, 16}, 1, 0.1)), by = backend->upload(ramp(Shape{rows}));
    Buffer* in[] = {bx.get(), by.get(), weight.get()};
    Buffer* outputs[] = {out.get(), sum.get()};
    executable->run(in, outputs);
    return out->to_host();
  };
  const Tensor all = run(9), few = run(4);
  EXPECT_EQ(all.shape(), (Shape{9, 7}));
  EXPECT_EQ(few.shape(), (Shape{4, 7}));
  for (int64_t i = 0; i < few.elements(); ++i) EXPECT_EQ(few.at(i), all.at(i));
  EXPECT_EQ(run(0).elements(), 0);
  EXPECT_EQ(sum->to_host().at(3), 0);

  const auto message = error_of([&] {
    const auto bx = backend->upload(ramp(Shape{3, 16})), by = backend->upload(ramp(Shape{4}));
    Buffer* in[] = {bx.get(), by.get(), weight.get()};
    Buffer* outputs[] = {out.get(), sum.get()};
    executable->run(in, outputs);
  });
  EXPECT_NE(message.find("'y'"), std::string::npos) << message;
  EXPECT_NE(message.find("'x'"), std::string::npos) << message;
  EXPECT_NE(error_of([&] { run(10); }).find("input 'x'"), std::string::npos);
}

// Weights are kept packed between runs; writing the buffer must show all the same.
TEST(CpuBackend, ChangedWeightsAreSeen) {
  const auto backend = make_cpu_backend();
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    for (const int64_t rows : {1, 3, 40}) {
      Graph kept, donated;
      for (Graph* graph : {&kept, &donated}) {
        const Value x = graph->parameter("x", {DType::kF32, Shape{rows, 33}});
        const Value w = graph->parameter("w", {DType::kF32, Shape{19, 33}});
        graph->add_output("y", linear(x, w, {}, compute));
        // A weight that an output takes over is read as it lies: the same bits.
        if (graph == &donated) graph->add_output("w", multiply(w, 1.0), w);
      }
      const auto with_kept = backend->compile(kept), with_donated = backend->compile(donated);
      const auto x = backend->upload(ramp(Shape{rows, 33}, -1, 0.01));
      const auto w = backend->upload(ramp(Shape{19, 33}, -1, 0.003));
      const auto y = backend->allocate({DType::kF32, Shape{rows, 19}});
      const auto other = backend->allocate({DType::kF32, Shape{rows, 19}});
      Buffer* in[] = {x.get(), w.get()};
      Buffer* out[] = {y.get()};
      Buffer* outs[] = {other.get(), w.get()};
      for (int change = 0; change < 3; ++change) {
        with_kept->run(in, out);
        with_donated->run(in, outs);
        EXPECT_TRUE(y->to_host().same_bits(other->to_host())) << rows << " rows, change " << change;
        w->copy_from(ramp(Shape{19, 33}, 0.5 * change, 0.002));
      }
    }
  }
}

TEST(CpuBackend, WrongBuffersAreNamed) {
  const auto backend = make_cpu_backend();
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, Shape{4}});
  graph.add_output("y", negate(x));
  const auto executable = backend->compile(graph);
  const auto good = backend->upload(ramp(Shape{4})), wrong = backend->upload(ramp(Shape{3}));
  const auto run = [&](Buffer* in, Buffer* out) {
    Buffer* inputs[] = {in};
    Buffer* outputs[] = {out};
    return error_of([&] { executable->run(inputs, outputs); });
  };
  const auto target = backend->allocate({DType::kF32, Shape{4}});
  EXPECT_EQ(run(good.get(), target.get()), "no error");
  EXPECT_NE(run(wrong.get(), target.get()).find("input 'x' has type f32[3], the graph wants f32[4]"),
            std::string::npos);
  EXPECT_NE(run(nullptr, target.get()).find("input 'x' is missing"), std::string::npos);
  EXPECT_NE(run(good.get(), wrong.get()).find("output 'y'"), std::string::npos);
  EXPECT_NE(run(good.get(), good.get()).find("the same buffer"), std::string::npos);
  EXPECT_NE(error_of([&] { executable->run({}, {}); }).find("0 inputs given, the graph has 1"),
            std::string::npos);
}

TEST(CpuBackend, ABufferTakesTensorsUpToItsBounds) {
  const auto backend = make_cpu_backend();
  const auto buffer = backend->allocate({DType::kF32, Shape{Dim(4, 1), 2}});
  buffer->copy_from(ramp(Shape{3, 2}));
  EXPECT_TRUE(buffer->to_host().same_bits(ramp(Shape{3, 2})));
  EXPECT_NE(error_of([&] { buffer->copy_from(ramp(Shape{5, 2})); }), "no error");
  EXPECT_NE(error_of([&] { buffer->copy_from(ramp(Shape{3, 1})); }), "no error");
}

}  // namespace
}  // namespace vertebra
