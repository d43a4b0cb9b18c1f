// Every op of the registry on every sample, on the CPU plugins against the reference evaluation. There is no
// code for an op here: a new op is tested by being listed.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <list>
#include <memory>

#include "backend/pjrt/prepare_graph.h"
#include "backend/pjrt/stablehlo.h"
#include "backend/reference/reference.h"
#include "ops/ops.h"
#include "tests/backend/pjrt/chip_types.h"
#include "tests/backend/pjrt/with_plugin.h"
#include "tests/ops/sample_inputs.h"

namespace vertebra {
namespace {

std::vector<Tensor> run_on(Backend& backend, const Graph& graph, const std::vector<Tensor>& inputs) {
  const std::unique_ptr<Executable> executable = backend.compile(graph);
  std::vector<std::unique_ptr<Buffer>> owned;
  std::vector<Buffer*> in, out;
  for (const Tensor& input : inputs) in.push_back(owned.emplace_back(backend.upload(input)).get());
  for (const auto& output : graph.outputs())
    out.push_back(owned.emplace_back(backend.allocate(output.value.type())).get());
  executable->run(in, out);
  std::vector<Tensor> results;
  for (Buffer* buffer : out) results.push_back(buffer->to_host());
  return results;
}

std::vector<Tensor> inputs_of(const OpDef& op, const OpSample& sample, DType dtype) {
  std::vector<Tensor> out;
  for (size_t i = 0; i < sample.operands.size(); ++i)
    out.push_back(sample_tensor(op, sample, i, sample_type(sample.operands[i], dtype).dtype));
  return out;
}

double tolerance_of(const OpSample& sample, DType dtype) {
  const bool bf16_products = sample.attrs.get_or("compute", DType::kF32) == DType::kBF16;
  if (dtype == DType::kBF16) return 3e-2;  // decomposed: rounded at every step
  return bf16_products ? std::max(sample.tolerance, 1e-3) : sample.tolerance;
}

void expect_near(const Tensor& found, const Tensor& wanted, double tolerance) {
  ASSERT_EQ(found.shape(), wanted.shape());
  double largest = 1e-30;
  for (int64_t i = 0; i < wanted.elements(); ++i) {
    if (std::isfinite(wanted.at(i))) largest = std::max(largest, std::fabs(wanted.at(i)));
  }
  for (int64_t i = 0; i < wanted.elements(); ++i) {
    if (std::isnan(wanted.at(i)) && std::isnan(found.at(i))) continue;
    if (found.at(i) == wanted.at(i)) continue;
    const double allowed = is_float(found.dtype()) ? tolerance * largest : 0;
    ASSERT_LE(std::fabs(found.at(i) - wanted.at(i)), allowed)
        << "element " << i << ": " << found.at(i) << " instead of " << wanted.at(i);
  }
}

// All samples of an op in one graph: compiling takes most of the time, and most of it is per module.
struct OpGraph {
  struct Part {
    std::string name;
    const OpSample* sample;
    DType dtype;
    std::vector<Tensor> wanted;
    size_t first_output;
  };
  std::vector<OpSample> samples;
  std::vector<Part> parts;
  Graph graph;
  std::vector<Tensor> inputs;
};

OpGraph graph_of(const OpDef& op, const pjrt::Vendor& vendor) {
  OpGraph out;
  for (OpSample& sample : op.samples()) {
    if (pjrt::chips_hold(vendor, sample)) out.samples.push_back(std::move(sample));
  }
  for (const OpSample& sample : out.samples) {
    for (const DType dtype : sample_dtypes(sample)) {
      const std::vector<Tensor> inputs = inputs_of(op, sample, dtype);
      const SampleGraph alone = sample_graph(op, sample, dtype);
      out.parts.push_back({fmt::format("{} / {} / {}", op.name, sample.name, dtype_name(dtype)), &sample,
                           dtype, evaluate_reference(alone.graph, inputs, {.round_products = true}),
                           out.graph.outputs().size()});
      std::vector<Value> operands;
      for (const Tensor& input : inputs) {
        operands.push_back(out.graph.parameter(fmt::format("operand{}", out.inputs.size()), input.type()));
        out.inputs.push_back(input);
      }
      for (const Value& result : out.graph.add_node(op, operands, sample.attrs))
        out.graph.add_output(fmt::format("result{}", out.graph.outputs().size()), result);
    }
  }
  return out;
}

class PjrtOps : public WithPlugin {};

// All ops that are `wanted`, by the graph of their samples; their number.
int expect_reference_results(Backend& backend, const pjrt::Vendor& vendor,
                             const std::function<bool(const Graph&)>& wanted) {
  int count = 0;
  for (const OpDef* op : all_ops()) {
    const OpGraph all = graph_of(*op, vendor);
    if (all.parts.empty() || !wanted(all.graph)) continue;
    ++count;
    SCOPED_TRACE(op->name);
    std::vector<Tensor> found;
    EXPECT_NO_THROW(found = run_on(backend, all.graph, all.inputs));
    if (found.empty()) continue;
    for (const OpGraph::Part& part : all.parts) {
      for (size_t i = 0; i < part.wanted.size(); ++i) {
        SCOPED_TRACE(fmt::format("{}, result {}", part.name, i));
        const Tensor& result = found[part.first_output + i];
        EXPECT_EQ(result.dtype(), all.graph.outputs()[part.first_output + i].value.dtype());
        expect_near(result, part.wanted[i], tolerance_of(*part.sample, part.dtype));
      }
    }
  }
  return count;
}

std::string module_text(const Graph& graph, const pjrt::Vendor& row) {
  return pjrt::print_stablehlo(pjrt::prepare_graph(graph, row), row);
}

TEST_P(PjrtOps, AgreeWithTheReference) {
  expect_reference_results(backend(), *pjrt::find_vendor("cpu"), [](const Graph&) { return true; });
}

// What is written instead of the operations that a vendor's chips do not take: ops whose module is another
// for that vendor, run on this plugin.
TEST_P(PjrtOps, ReplacementsAgreeWithTheReference) {
  static std::list<pjrt::Vendor> rows;  // a loaded plugin refers to its row for good
  for (const char* name : {"neuron", "tt"}) {
    SCOPED_TRACE(name);
    pjrt::Vendor& row = rows.emplace_back(*pjrt::find_vendor("cpu"));
    row.rules = pjrt::find_vendor(name)->rules;
    ASSERT_FALSE(row.rules.banned_operations.empty());
    const std::unique_ptr<Backend> as_that_chip = make_pjrt_backend(
        {.plugin = file(), .vendor = &row, .device_name = "pjrt:cpu", .cache = std::filesystem::path()});
    const int replaced = expect_reference_results(*as_that_chip, row, [&](const Graph& graph) {
      return module_text(graph, row) != module_text(graph, *pjrt::find_vendor("cpu"));
    });
    EXPECT_GE(replaced, 6);  // erf and what uses it, scatter and what uses it, write_rows
  }
}

// Rows of padding may hold anything; neither they nor another request's row may reach the rest of a cache.
TEST_P(PjrtOps, AWrittenRowReachesNoOther) {
  static pjrt::Vendor row = *pjrt::find_vendor("cpu");
  row.rules = pjrt::find_vendor("neuron")->rules;
  const auto as_that_chip = make_pjrt_backend(
      {.plugin = file(), .vendor = &row, .device_name = "pjrt:cpu", .cache = std::filesystem::path()});
  Graph graph;
  const Value table = graph.parameter("table", {DType::kF32, {3, 2}});
  const Value indices = graph.parameter("indices", {DType::kI32, {3}});
  const Value rows = graph.parameter("rows", {DType::kF32, {3, 2}});
  graph.add_output("written", write_rows(table, indices, rows));
  graph.add_output("added", scatter_add_rows(indices, rows, 3));
  const float nan = std::nanf(""), infinity = HUGE_VALF;
  const std::vector<Tensor> found =
      run_on(*as_that_chip, graph,
             {Tensor::from<float>({3, 2}, {1, 2, 3, 4, 5, 6}), Tensor::from<int32_t>({3}, {-1, 1, 3}),
              Tensor::from<float>({3, 2}, {nan, infinity, 7, 8, infinity, nan})});
  EXPECT_TRUE(found[0].same_bits(Tensor::from<float>({3, 2}, {1, 2, 7, 8, 5, 6})));
  EXPECT_TRUE(found[1].same_bits(Tensor::from<float>({3, 2}, {0, 0, 7, 8, 0, 0})));
  const std::vector<Tensor> other =
      run_on(*as_that_chip, graph,
             {Tensor::from<float>({3, 2}, {1, 2, 3, 4, 5, 6}), Tensor::from<int32_t>({3}, {0, 1, 2}),
              Tensor::from<float>({3, 2}, {nan, infinity, 7, 8, 9, 10})});
  for (int64_t i = 2; i < 6; ++i) EXPECT_EQ(other[0].at(i), 5.0 + static_cast<double>(i));
}

VERTEBRA_WITH_CPU_PLUGINS(PjrtOps);

}  // namespace
}  // namespace vertebra
