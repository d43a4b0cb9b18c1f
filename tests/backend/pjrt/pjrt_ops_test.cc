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

class PjrtOps : public WithPlugin {};

TEST_P(PjrtOps, AgreeWithTheReference) {
  for (const OpDef* op : all_ops()) {
    for (const OpSample& sample : op->samples()) {
      for (const DType dtype : sample_dtypes(sample)) {
        SCOPED_TRACE(fmt::format("{} / {} / {}", op->name, sample.name, dtype_name(dtype)));
        const SampleGraph built = sample_graph(*op, sample, dtype);
        const std::vector<Tensor> inputs = inputs_of(*op, sample, dtype);
        const std::vector<Tensor> wanted = evaluate_reference(built.graph, inputs, {.round_products = true});
        std::vector<Tensor> found;
        ASSERT_NO_THROW(found = run_on(backend(), built.graph, inputs));
        for (size_t i = 0; i < wanted.size(); ++i) {
          SCOPED_TRACE(fmt::format("result {}", i));
          EXPECT_EQ(found[i].type(), built.results[i].type());
          expect_near(found[i], wanted[i], tolerance_of(sample, dtype));
        }
      }
    }
  }
}

VERTEBRA_WITH_CPU_PLUGINS(PjrtOps);

}  // namespace
}  // namespace vertebra
