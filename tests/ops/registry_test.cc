// Every op of the registry, on every one of its samples: types, decomposition, gradient, errors.
#include <gtest/gtest.h>

#include <set>

#include "backend/reference/reference.h"
#include "base/error.h"
#include "ops/ops.h"
#include "tests/ops/sample_inputs.h"
#include "transforms/autodiff.h"

namespace vertebra {
namespace {

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

// The operands in double precision where they are floating-point, so that steps far below f32 can be taken.
std::vector<Tensor> exact_inputs(const OpDef& op, const OpSample& sample) {
  std::vector<Tensor> out;
  for (size_t i = 0; i < sample.operands.size(); ++i) {
    const DType dtype = sample.operands[i].type.dtype;
    out.push_back(sample_tensor(op, sample, i, is_float(dtype) ? DType::kF64 : dtype));
  }
  return out;
}

TEST(Registry, EveryOpIsWhole) {
  std::set<std::string_view> names;
  for (const OpDef* op : all_ops()) {
    EXPECT_TRUE(names.insert(op->name).second) << op->name;
    EXPECT_EQ(&find_op(op->name), op);
    EXPECT_NE(op->infer, nullptr) << op->name;
    ASSERT_NE(op->samples, nullptr) << op->name;
    EXPECT_FALSE(op->samples().empty()) << op->name;
    EXPECT_NE(op->vjp == nullptr, op->no_vjp.empty()) << op->name << ": a gradient or a reason, not both";
    std::set<std::string> sample_names;
    for (const OpSample& sample : op->samples())
      EXPECT_TRUE(sample_names.insert(sample.name).second) << op->name << " " << sample.name;
  }
}

TEST(Registry, AnUnknownOpNamesTheNearest) {
  try {
    find_op("rmsnorm");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kNotFound);
    EXPECT_NE(std::string(error.what()).find("'rms_norm'"), std::string::npos) << error.what();
  }
  EXPECT_THROW(find_op(std::string(100000, 'x')), Error);
}

TEST(Registry, InferredTypesAreTheActualOnes) {
  for_every_sample([](const OpDef& op, const OpSample& sample, DType dtype) {
    const SampleGraph built = sample_graph(op, sample, dtype);
    built.graph.verify();
    EXPECT_NE(built.graph.to_string().find(std::string(op.name) + "("), std::string::npos);
    const std::vector<Tensor> outputs =
        evaluate_reference(built.graph, exact_inputs(op, sample), {.round_results = true});
    ASSERT_EQ(outputs.size(), built.results.size());
    for (size_t i = 0; i < outputs.size(); ++i) EXPECT_EQ(outputs[i].type(), built.results[i].type()) << i;
  });
}

TEST(Registry, ADecompositionHasTheOpsTypesAndOnlySimplerOps) {
  for_every_sample([](const OpDef& op, const OpSample& sample, DType dtype) {
    if (op.is_primitive()) return;
    SampleGraph built = sample_graph(op, sample, dtype);
    Graph target;
    std::vector<Value> operands;
    for (const Value& v : built.operands)
      operands.push_back(target.parameter(std::to_string(v.node->id), v.type()));
    const std::vector<Value> results = op.decompose(target, *built.results[0].node, operands);
    ASSERT_EQ(results.size(), built.results.size());
    for (size_t i = 0; i < results.size(); ++i) EXPECT_EQ(results[i].type(), built.results[i].type()) << i;
    target.verify();
    for (const auto& node : target.nodes()) EXPECT_NE(node->op, &op);
  });
}

// The loss of the gradient tests: the results weighted by fixed random numbers and added up.
struct Weights {
  std::vector<Tensor> of_result;  // undefined for results that do not count
};

Weights weights_for(const OpSample& sample, const std::vector<Tensor>& outputs) {
  Weights out;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const auto& chosen = sample.gradient_results;
    const bool counts =
        is_float(outputs[i].dtype()) &&
        (chosen.empty() || std::find(chosen.begin(), chosen.end(), static_cast<int>(i)) != chosen.end());
    Tensor weight;
    if (counts) {
      weight = Tensor(DType::kF64, outputs[i].shape());
      const Philox random(11, i);
      for (int64_t j = 0; j < weight.elements(); ++j) weight.set(j, random.normal(static_cast<uint64_t>(j)));
    }
    out.of_result.push_back(weight);
  }
  return out;
}

double loss_of(const Graph& graph, const std::vector<Tensor>& inputs, const Weights& weights) {
  const std::vector<Tensor> outputs = evaluate_reference(graph, inputs);
  double loss = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!weights.of_result[i].defined()) continue;
    for (int64_t j = 0; j < outputs[i].elements(); ++j) loss += outputs[i].at(j) * weights.of_result[i].at(j);
  }
  return loss;
}

// The gradients of that loss by the op's own rule; an undefined tensor means zero.
std::vector<Tensor> rule_gradients(const OpDef& op, const OpSample& sample, DType dtype,
                                   std::vector<Tensor> inputs, const Weights& weights) {
  SampleGraph built;
  for (size_t i = 0; i < sample.operands.size(); ++i)
    built.operands.push_back(
        built.graph.parameter(std::to_string(i), sample_type(sample.operands[i], dtype)));
  built.results = built.graph.add_node(op, built.operands, sample.attrs);
  std::vector<Value> gradients;
  for (size_t i = 0; i < built.results.size(); ++i) {
    gradients.push_back(Value{});
    if (!weights.of_result[i].defined()) continue;
    gradients[i] = built.graph.parameter("d" + std::to_string(i), built.results[i].type());
    inputs.push_back(weights.of_result[i]);
  }
  std::vector<bool> wanted;
  for (const OperandSample& operand : sample.operands)
    wanted.push_back(!is_block_quantized(operand.type.dtype));
  const std::vector<Value> found = op.vjp({built.graph, *built.results[0].node, gradients, wanted});
  EXPECT_EQ(found.size(), sample.operands.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (!found[i].defined()) continue;
    EXPECT_EQ(found[i].type(), built.operands[i].type()) << "gradient of operand " << i;
    built.graph.add_output(std::to_string(i), found[i]);
  }
  built.graph.verify();
  const std::vector<Tensor> outputs = evaluate_reference(built.graph, inputs);
  std::vector<Tensor> out(found.size());
  size_t next = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (found[i].defined()) out[i] = outputs[next++];
  }
  return out;
}

// Compares the rule with central differences along random directions of one operand.
void check_along_directions(const Graph& graph, const std::vector<Tensor>& inputs, size_t operand,
                            const Tensor& gradient, const Weights& weights, double tolerance) {
  constexpr double kStep = 1e-6;
  constexpr int kDirections = 3;
  for (int k = 0; k < kDirections; ++k) {
    const Philox random(13, static_cast<uint64_t>(k));
    double predicted = 0, scale = 1e-3;
    std::vector<Tensor> plus = inputs, minus = inputs;
    plus[operand] = inputs[operand].clone();
    minus[operand] = inputs[operand].clone();
    for (int64_t i = 0; i < inputs[operand].elements(); ++i) {
      const double step = random.normal(static_cast<uint64_t>(i));
      plus[operand].set(i, inputs[operand].at(i) + kStep * step);
      minus[operand].set(i, inputs[operand].at(i) - kStep * step);
      const double part = gradient.defined() ? gradient.at(i) * step : 0;
      predicted += part;
      scale += std::fabs(part);
    }
    const double measured = (loss_of(graph, plus, weights) - loss_of(graph, minus, weights)) / (2 * kStep);
    EXPECT_NEAR(predicted, measured, tolerance * std::max(scale, std::fabs(measured)))
        << "operand " << operand << ", direction " << k;
  }
}

TEST(Registry, GradientsAreThoseOfFiniteDifferences) {
  for_every_sample([](const OpDef& op, const OpSample& sample, DType dtype) {
    if (op.vjp == nullptr) return;
    const SampleGraph built = sample_graph(op, sample, dtype);
    const std::vector<Tensor> inputs = exact_inputs(op, sample);
    const Weights weights = weights_for(sample, evaluate_reference(built.graph, inputs));
    if (std::none_of(weights.of_result.begin(), weights.of_result.end(),
                     [](const Tensor& w) { return w.defined(); }))
      return;
    const std::vector<Tensor> gradients = rule_gradients(op, sample, dtype, inputs, weights);
    // Numbers stay double, but constants of a bf16 graph are rounded to bf16.
    const double tolerance = dtype == DType::kF32 ? 1e-5 : 1e-2;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!is_float(inputs[i].dtype()) || !sample.operands[i].differentiable) continue;
      check_along_directions(built.graph, inputs, i, gradients[i], weights, tolerance);
    }
  });
}

TEST(Registry, GradientsNotWantedMayBeLeftOut) {
  for_every_sample([](const OpDef& op, const OpSample& sample, DType dtype) {
    if (op.vjp == nullptr) return;
    SampleGraph built = sample_graph(op, sample, dtype);
    std::vector<Value> gradients;
    for (size_t i = 0; i < built.results.size(); ++i) {
      const bool counts =
          sample.gradient_results.empty() || i == static_cast<size_t>(sample.gradient_results[0]);
      gradients.push_back(counts && is_float(built.results[i].dtype())
                              ? built.graph.parameter("d" + std::to_string(i), built.results[i].type())
                              : Value{});
    }
    if (!gradients[0].defined()) return;
    for (size_t wanted = 0; wanted < built.operands.size(); ++wanted) {
      if (is_block_quantized(built.operands[wanted].dtype())) continue;  // an error: see below
      std::vector<bool> mask(built.operands.size(), false);
      mask[wanted] = true;
      EXPECT_EQ(op.vjp({built.graph, *built.results[0].node, gradients, mask}).size(), built.operands.size());
    }
    built.graph.verify();
  });
}

TEST(Registry, ABlockQuantizedWeightHasNoGradient) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {3, 64}});
  const Value w = graph.parameter("w", {DType::kQ8_0, {5, 64}});
  const Value loss = reduce_sum(linear(x, w), {0, 1});
  EXPECT_EQ(gradients(loss, std::vector<Value>{x})[0].type(), x.type());
  EXPECT_THROW(gradients(loss, std::vector<Value>{w}), Error);
}

TEST(Registry, OpsThatTakeNoBlocksSayWhichOperand) {
  Graph graph;
  const Value w = graph.parameter("w", {DType::kQ4_K, {5, 256}});
  try {
    multiply(dequantize(w), w);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("multiply: operand 1 has the block-quantized type q4_k[5, 256]"),
              std::string::npos)
        << error.what();
  }
  EXPECT_THROW(
      linear(graph.parameter("x", {DType::kF32, {2, 40}}), graph.parameter("v", {DType::kQ8_0, {5, 40}})),
      Error);
}

// ---- Hostile operands ----------------------------------------------------------------------------

// True when the rule accepts the types. Then a composite must decompose with those types.
bool accepts(const OpDef& op, const std::vector<TensorType>& types, const Attrs& attrs) {
  Graph graph;
  std::vector<Value> operands;
  for (size_t i = 0; i < types.size(); ++i) operands.push_back(graph.parameter(std::to_string(i), types[i]));
  std::vector<Value> results;
  try {
    results = graph.add_node(op, operands, attrs);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kInvalidArgument) << error.what();
    // What a pass puts together, no user wrote: its parts' errors may stand alone.
    const bool by_pass = op.no_vjp.starts_with("made by");
    EXPECT_TRUE(by_pass || std::string(error.what()).find(op.name) != std::string::npos) << error.what();
    return false;
  }
  if (op.is_primitive()) return true;
  const std::vector<Value> parts = op.decompose(graph, *results[0].node, operands);
  for (size_t i = 0; i < parts.size(); ++i) EXPECT_EQ(parts[i].type(), results[i].type()) << i;
  return true;
}

TEST(Registry, WrongOperandsAreErrors) {
  for_every_sample([](const OpDef& op, const OpSample& sample, DType dtype) {
    std::vector<TensorType> types;
    for (const OperandSample& operand : sample.operands) types.push_back(sample_type(operand, dtype));
    EXPECT_TRUE(accepts(op, types, sample.attrs));
    if (op.name != "concatenate") {  // takes any number of parts
      auto more = types;
      more.push_back({DType::kF32, Shape{2, 2}});
      EXPECT_FALSE(accepts(op, more, sample.attrs));
    }
    for (size_t i = 0; i < types.size(); ++i) {
      auto fewer = types;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
      const bool enough = op.name == "concatenate" && !fewer.empty();
      EXPECT_EQ(accepts(op, fewer, sample.attrs), enough) << i;
      for (const DType wrong :
           {DType::kQ8_0, DType::kQ4_K, DType::kF32, DType::kBF16, DType::kF16, DType::kF64, DType::kI64,
            DType::kI32, DType::kU32, DType::kI8, DType::kU8, DType::kBool}) {
        auto changed = types;
        changed[i].dtype = wrong;
        accepts(op, changed, sample.attrs);
      }
      auto deeper = types;
      if (deeper[i].shape.rank() < Shape::kMaxRank) deeper[i].shape.push_back(3);
      accepts(op, deeper, sample.attrs);
      auto scalar = types;
      scalar[i].shape = Shape{};
      accepts(op, scalar, sample.attrs);
      for (int axis = 0; axis < types[i].shape.rank(); ++axis) {
        for (const Dim dim : {Dim(types[i].shape[axis] + 1), Dim(0), Dim(types[i].shape[axis], 3)}) {
          auto changed = types;
          changed[i].shape.set_dim(axis, dim);
          accepts(op, changed, sample.attrs);
        }
      }
    }
  });
}

TEST(Registry, ResultsBeyondAllBoundsAreErrors) {
  Graph graph;
  constexpr int64_t kHuge = int64_t{1} << 40;
  const Value column = graph.parameter("column", {DType::kF32, {kHuge, 1}});
  EXPECT_THROW(linear(column, column), Error);
  EXPECT_THROW(matmul(column, transpose(column, {1, 0})), Error);
  EXPECT_THROW(multiply(column, transpose(column, {1, 0})), Error);
  const Value most = graph.parameter("most", {DType::kF32, {int64_t{1} << 59}});
  EXPECT_THROW(concatenate(std::vector<Value>{most, most}, 0), Error);
  EXPECT_THROW(pad(most, {1}, {0}, 0), Error);
  const Value row = graph.parameter("row", {DType::kF32, {1, kHuge}});
  EXPECT_THROW(gather_rows(row, graph.parameter("indices", {DType::kI32, {kHuge}})), Error);
}

TEST(Registry, AnErrorNamesOpOperandsAndScope) {
  Graph graph;
  const Value x = graph.parameter("x", {DType::kF32, {4, 6}});
  const Value w = graph.parameter("w", {DType::kF32, {8, 5}});
  const Graph::Scope scope(graph, "layers.3");
  try {
    linear(x, w);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "linear: x of shape [4, 6] does not fit the weight [F, E] of shape [8, 5] (operands: f32[4, "
              "6], f32[8, "
              "5]) in 'layers.3'");
  }
}

}  // namespace
}  // namespace vertebra
