// Every op of the registry on every sample, on the CPU plugins against the reference evaluation. There is no
// code for an op here: a new op is tested by being listed.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "backend/reference/reference.h"
#include "ops/ops.h"
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

OpGraph graph_of(const OpDef& op) {
  OpGraph out;
  out.samples = op.samples();
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

TEST_P(PjrtOps, AgreeWithTheReference) {
  for (const OpDef* op : all_ops()) {
    SCOPED_TRACE(op->name);
    const OpGraph all = graph_of(*op);
    std::vector<Tensor> found;
    ASSERT_NO_THROW(found = run_on(backend(), all.graph, all.inputs));
    for (const OpGraph::Part& part : all.parts) {
      for (size_t i = 0; i < part.wanted.size(); ++i) {
        SCOPED_TRACE(fmt::format("{}, result {}", part.name, i));
        const Tensor& result = found[part.first_output + i];
        EXPECT_EQ(result.dtype(), all.graph.outputs()[part.first_output + i].value.dtype());
        expect_near(result, part.wanted[i], tolerance_of(*part.sample, part.dtype));
      }
    }
  }
}

VERTEBRA_WITH_CPU_PLUGINS(PjrtOps);

}  // namespace
}  // namespace vertebra
