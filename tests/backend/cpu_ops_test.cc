// Every op of the registry on the CPU backend: against the reference evaluation on every instruction set, the
// same bits with any number of threads, and a row's bits independent of its batch.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>

#include "backend/cpu/cpu_backend.h"
#include "backend/reference/reference.h"
#include "ops/ops.h"
#include "tests/ops/sample_inputs.h"

namespace vertebra {
namespace {

constexpr int kMostThreads = 4;

ThreadTeam& team_of(int threads) {
  static std::array<std::unique_ptr<ThreadTeam>, kMostThreads + 1> teams;
  auto& team = teams[static_cast<size_t>(threads)];
  if (team == nullptr) team = std::make_unique<ThreadTeam>(threads);
  return *team;
}

std::vector<Tensor> run_on_cpu(const Graph& graph, const std::vector<Tensor>& inputs, int threads = 1) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({.team = &team_of(threads), .isa = std::nullopt});
  const std::unique_ptr<Executable> executable = backend->compile(graph);
  std::vector<std::unique_ptr<Buffer>> owned;
  std::vector<Buffer*> in, out;
  for (const Tensor& input : inputs) in.push_back(owned.emplace_back(backend->upload(input)).get());
  for (const auto& output : graph.outputs())
    out.push_back(owned.emplace_back(backend->allocate(output.value.type())).get());
  executable->run(in, out);
  std::vector<Tensor> results;
  for (Buffer* buffer : out) results.push_back(buffer->to_host());
  return results;
}

// Inputs in the types the graph declares.
std::vector<Tensor> inputs_of(const OpDef& op, const OpSample& sample, DType dtype) {
  std::vector<Tensor> out;
  for (size_t i = 0; i < sample.operands.size(); ++i)
    out.push_back(sample_tensor(op, sample, i, sample_type(sample.operands[i], dtype).dtype));
  return out;
}

double tolerance_of(const OpSample& sample, DType dtype) {
  // A product's operands are rounded to bf16 from f32 here and from double in the reference: an operand
  // computed inside (as in the gradient of the loss) may fall to the other side.
  const bool bf16_products = sample.attrs.get_or("compute", DType::kF32) == DType::kBF16;
  if (dtype == DType::kBF16) return 2e-2;
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

template <class Check>
void for_every_sample(Check&& check) {
  for (const OpDef* op : all_ops()) {
    for (const OpSample& sample : op->samples()) {
      for (const DType dtype : sample_dtypes(sample)) {
        SCOPED_TRACE(fmt::format("{} / {} / {}", op->name, sample.name, dtype_name(dtype)));
        check(*op, sample, dtype);
      }
    }
  }
}

class EveryIsa : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    before_ = active_isa();
    set_isa(GetParam());
  }
  void TearDown() override { set_isa(before_); }

 private:
  Isa before_ = Isa::kBaseline;
};

TEST_P(EveryIsa, OpsAgreeWithTheReference) {
  for_every_sample([](const OpDef& op, const OpSample& sample, DType dtype) {
    const SampleGraph built = sample_graph(op, sample, dtype);
    const std::vector<Tensor> inputs = inputs_of(op, sample, dtype);
    const std::vector<Tensor> wanted = evaluate_reference(built.graph, inputs, {.round_products = true});
    const std::vector<Tensor> found = run_on_cpu(built.graph, inputs);
    for (size_t i = 0; i < wanted.size(); ++i) {
      SCOPED_TRACE(fmt::format("result {}", i));
      EXPECT_EQ(found[i].type(), built.results[i].type());
      expect_near(found[i], wanted[i], tolerance_of(sample, dtype));
    }
  });
}

TEST_P(EveryIsa, OpsGiveTheSameBitsOnAnyNumberOfThreads) {
  for_every_sample([](const OpDef& op, const OpSample& sample, DType dtype) {
    const SampleGraph built = sample_graph(op, sample, dtype);
    const std::vector<Tensor> inputs = inputs_of(op, sample, dtype);
    const std::vector<Tensor> alone = run_on_cpu(built.graph, inputs, 1);
    for (int threads = 2; threads <= kMostThreads; ++threads) {
      const std::vector<Tensor> together = run_on_cpu(built.graph, inputs, threads);
      for (size_t i = 0; i < alone.size(); ++i)
        EXPECT_TRUE(together[i].same_bits(alone[i])) << threads << " threads, result " << i;
    }
  });
}

// ---- A row and its batch -------------------------------------------------------------------------

struct RowOp {
  std::string op;
  Attrs attrs;
  std::vector<OperandSample> by_row;  // shapes without the leading row axis
  std::vector<OperandSample> fixed;   // follow the operands by row
  std::vector<size_t> order =
      {};  // operand i is entry order[i] of by_row followed by fixed; empty: as listed
};

std::vector<RowOp> row_ops() {
  const auto frozen = [](OperandSample sample) {
    sample.differentiable = false;
    return sample;
  };
  const auto linear = [](DType compute, bool bias) {
    return Attrs{{"compute", compute},
                 {"has_bias", bias},
                 {"has_residual", false},
                 {"activation", std::string("none")}};
  };
  return {{"linear", linear(DType::kF32, false), {normal({70})}, {normal({35, 70})}},
          {"linear", linear(DType::kF32, true), {normal({300})}, {normal({129, 300}), normal({129})}},
          {"linear", linear(DType::kBF16, false), {normal({96})}, {normal({40, 96})}},
          {"rms_norm", {{"epsilon", 1e-5}}, {normal({131})}, {normal({131})}},
          {"layer_norm", {{"epsilon", 1e-5}}, {normal({67})}, {normal({67}), normal({67})}},
          {"softmax", {}, {normal({45})}, {}},
          {"silu", {}, {normal({37})}, {}},
          {"gelu", {{"tanh_approximation", true}}, {normal({37})}, {}},
          {"swiglu", {}, {normal({37}), normal({37})}, {}},
          {"rope", {}, {normal({3, 32}), integers({}, 0, 500)}, {frozen(uniform({16}, 0, 1))}},
          {"embedding", {}, {integers({}, 0, 17)}, {normal({17, 33})}, {1, 0}},
          {"argmax", {{"axis", int64_t{1}}}, {normal({99})}, {}},
          {"top_k", {{"k", int64_t{3}}}, {normal({45})}, {}},
          {"expert_linear",
           {{"compute", DType::kF32}, {"has_bias", false}},
           {normal({70}), integers({2}, 0, 5)},
           {normal({5, 35, 70})},
           {0, 2, 1}},
          {"expert_linear",
           {{"compute", DType::kBF16}, {"has_bias", false}},
           {normal({2, 96}), integers({2}, 0, 3)},
           {normal({3, 40, 96})},
           {0, 2, 1}},
          {"linear_cross_entropy",
           {{"compute", DType::kF32}},
           {normal({64}), integers({}, -1, 90)},
           {normal({90, 64})},
           {0, 2, 1}}};
}

// The op on rows [start, limit) of the whole batch's operands, its row axis declared as `rows`.
std::vector<Tensor> run_rows(const RowOp& each, const std::vector<Tensor>& whole, DType dtype, Dim rows,
                             int64_t start, int64_t limit, int threads) {
  Graph graph;
  std::vector<Value> values;
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < whole.size(); ++i) {
    const bool by_row = i < each.by_row.size();
    const OperandSample& operand = by_row ? each.by_row[i] : each.fixed[i - each.by_row.size()];
    TensorType type = sample_type(operand, dtype);
    if (by_row) {
      Shape declared = {rows}, actual = {limit - start};
      for (const Dim& dim : operand.type.shape.dims()) {
        declared.push_back(dim);
        actual.push_back(dim);
      }
      Tensor part(type.dtype, actual);
      const size_t row_bytes = operand.type.shape.elements() * dtype_size(type.dtype);
      std::memcpy(part.raw(),
                  static_cast<const char*>(whole[i].raw()) + static_cast<size_t>(start) * row_bytes,
                  part.size_bytes());
      inputs.push_back(part);
      type.shape = declared;
    } else {
      inputs.push_back(whole[i]);
    }
    values.push_back(graph.parameter(std::to_string(i), type));
  }
  std::vector<Value> operands;
  for (size_t i = 0; i < values.size(); ++i)
    operands.push_back(values[each.order.empty() ? i : each.order[i]]);
  graph.add_output("out", graph.add_node(find_op(each.op), operands, each.attrs)[0]);
  return run_on_cpu(graph, inputs, threads);
}

TEST_P(EveryIsa, ARowsBitsDoNotDependOnItsBatch) {
  constexpr int64_t kRows = 8;
  for (const RowOp& each : row_ops()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(fmt::format("{} / {}", each.op, dtype_name(dtype)));
      OpSample sample = {"batch", {}, {}};
      for (OperandSample operand : each.by_row) {
        Shape shape = {kRows};
        for (const Dim& dim : operand.type.shape.dims()) shape.push_back(dim);
        operand.type.shape = shape;
        sample.operands.push_back(operand);
      }
      sample.operands.insert(sample.operands.end(), each.fixed.begin(), each.fixed.end());
      const std::vector<Tensor> whole = inputs_of(find_op(each.op), sample, dtype);
      const Tensor batch = run_rows(each, whole, dtype, kRows, 0, kRows, 2)[0];
      const size_t row_bytes = batch.size_bytes() / kRows;
      const auto expect_rows = [&](const Tensor& part, int64_t start, const char* what) {
        const char* wanted = static_cast<const char*>(batch.raw()) + static_cast<size_t>(start) * row_bytes;
        EXPECT_EQ(std::memcmp(part.raw(), wanted, part.size_bytes()), 0) << what << " from row " << start;
      };
      for (int64_t row = 0; row < kRows; ++row)
        expect_rows(run_rows(each, whole, dtype, 1, row, row + 1, 1)[0], row, "one row");
      expect_rows(run_rows(each, whole, dtype, Dim(16, 1), 3, 4, 1)[0], 3, "one row of a bounded number");
      expect_rows(run_rows(each, whole, dtype, Dim(16, 1), 2, 7, 3)[0], 2, "five rows of a bounded number");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(CpuOps, EveryIsa, testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

}  // namespace
}  // namespace vertebra
