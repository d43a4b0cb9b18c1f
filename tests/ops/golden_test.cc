// Composites against PyTorch: tests/golden/ops.json, made by tools/golden/ops.py.
#include <gtest/gtest.h>

#include "backend/reference/reference.h"
#include "base/json.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

Tensor tensor_from(const Json& json) {
  Shape shape;
  for (const auto& size : json.at("shape")) shape.push_back(size.get<int64_t>());
  Tensor out(json.at("dtype") == "i32" ? DType::kI32 : DType::kF64, shape);
  for (int64_t i = 0; i < out.elements(); ++i)
    out.set(i, json.at("values").at(static_cast<size_t>(i)).get<double>());
  return out;
}

Attrs attrs_from(const Json& json) {
  Attrs out;
  for (const auto& [name, value] : json.items()) {
    if (value.is_boolean()) {
      out.set(name, value.get<bool>());
    } else if (value.is_number_integer()) {
      out.set(name, value.get<int64_t>());
    } else if (value.is_number()) {
      out.set(name, value.get<double>());
    } else if (value.is_string()) {
      out.set(name, value.get<std::string>());
    } else {
      out.set(name, dtype_from_name(value.at("dtype").get<std::string>()).value());
    }
  }
  return out;
}

// Within 1e-6 of the largest number: the op's constants are f32.
void expect_close(const Tensor& found, const Tensor& wanted, const std::string& what) {
  ASSERT_EQ(found.shape(), wanted.shape()) << what;
  double largest = 1e-3;
  for (int64_t i = 0; i < wanted.elements(); ++i) largest = std::max(largest, std::abs(wanted.at(i)));
  for (int64_t i = 0; i < wanted.elements(); ++i)
    ASSERT_NEAR(found.at(i), wanted.at(i), 1e-6 * largest) << what << " element " << i;
}

void check_case(const Json& json) {
  const OpDef& op = find_op(json.at("op").get<std::string>());
  Graph graph;
  std::vector<Tensor> inputs;
  std::vector<Value> operands;
  for (const auto& operand : json.at("operands")) {
    inputs.push_back(tensor_from(operand));
    const DType dtype = inputs.back().dtype() == DType::kI32 ? DType::kI32 : DType::kF32;
    operands.push_back(graph.parameter(std::to_string(operands.size()), {dtype, inputs.back().shape()}));
  }
  const std::vector<Value> results = graph.add_node(op, operands, attrs_from(json.at("attrs")));
  std::vector<Tensor> wanted;
  std::vector<std::string> names;
  for (size_t i = 0; i < results.size(); ++i) {
    names.push_back("result " + std::to_string(i));
    graph.add_output(names.back(), results[i]);
    wanted.push_back(tensor_from(json.at("results").at(i)));
  }
  if (json.contains("dy")) {
    inputs.push_back(tensor_from(json.at("dy")));
    std::vector<Value> dresults(results.size());
    dresults[0] = graph.parameter("dy", results[0].type());
    const auto gradients =
        op.vjp({graph, *results[0].node, dresults, std::vector<bool>(operands.size(), true)});
    for (size_t i = 0; i < gradients.size(); ++i) {
      if (json.at("gradients").at(i).is_null()) continue;
      ASSERT_TRUE(gradients[i].defined()) << "gradient " << i;
      names.push_back("gradient " + std::to_string(i));
      graph.add_output(names.back(), gradients[i]);
      wanted.push_back(tensor_from(json.at("gradients").at(i)));
    }
  }
  const std::vector<Tensor> found = evaluate_reference(graph, inputs);
  for (size_t i = 0; i < wanted.size(); ++i) expect_close(found[i], wanted[i], names[i]);
}

TEST(GoldenOps, AgreeWithPyTorch) {
  const Json golden = read_json_file(std::string(VERTEBRA_SOURCE_DIR) + "/tests/golden/ops.json");
  ASSERT_GE(golden.at("cases").size(), 15u);
  for (const auto& each : golden.at("cases")) {
    SCOPED_TRACE(each.at("name").get<std::string>());
    check_case(each);
  }
}

}  // namespace
}  // namespace vertebra
