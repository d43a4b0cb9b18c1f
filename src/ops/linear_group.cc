// linear_group: several linear layers of the same x. Made by a backend's group_linears pass, so that what
// they need of x is prepared once; its decomposition is the layers it was made from.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

Attrs layer_attrs(const Attrs& attrs) {
  return {{"compute", attrs.get<DType>("compute")},
          {"has_bias", attrs.get<bool>("has_bias")},
          {"has_residual", false},
          {"activation", std::string("none")}};
}

// x, the layer's weight and, where there are any, its bias.
template <class T>
std::vector<T> layer_operands(std::span<const T> operands, size_t layers, bool has_bias, size_t layer) {
  std::vector<T> out = {operands[0], operands[1 + layer]};
  if (has_bias) out.push_back(operands[1 + layers + layer]);
  return out;
}

std::vector<TensorType> infer_group(const InferInput& in) {
  const auto layers = in.attrs.get<int64_t>("layers");
  const bool has_bias = in.attrs.get<bool>("has_bias");
  in.check(layers >= 1 && layers <= 64, "there are {} layers, 1 to 64 were wanted", layers);
  in.check_operand_count(1 + static_cast<size_t>(layers) * (has_bias ? 2 : 1));
  const Attrs attrs = layer_attrs(in.attrs);
  std::vector<TensorType> out;
  for (size_t i = 0; i < static_cast<size_t>(layers); ++i) {
    const auto operands = layer_operands<TensorType>(in.operands, static_cast<size_t>(layers), has_bias, i);
    out.push_back(find_op("linear").infer({"linear_group", operands, attrs})[0]);
  }
  return out;
}

std::vector<Value> decompose_group(Graph& graph, const Node& node, std::span<const Value> operands) {
  const auto layers = static_cast<size_t>(node.attrs.get<int64_t>("layers"));
  std::vector<Value> out;
  for (size_t i = 0; i < layers; ++i) {
    out.push_back(graph.add_node(find_op("linear"),
                                 layer_operands<Value>(operands, layers, node.attrs.get<bool>("has_bias"), i),
                                 layer_attrs(node.attrs))[0]);
  }
  return out;
}

std::vector<OpSample> group_samples() {
  const auto attrs = [](int64_t layers, bool has_bias) {
    return Attrs{{"compute", DType::kF32}, {"layers", layers}, {"has_bias", has_bias}};
  };
  constexpr double kRoundedX = 2e-2;  // 8-bit integers for x
  const auto x = normal({3, 5, 512});
  const auto q4_k = blocks({37, 512}, DType::kQ4_K), q6_k = blocks({16, 512}, DType::kQ6_K),
             q8_0 = blocks({20, 512}, DType::kQ8_0), q4_0 = blocks({21, 512}, DType::kQ4_0);
  return {{"floats", {normal({5, 32}), normal({19, 32}), normal({7, 32})}, attrs(2, false)},
          {"one type", {x, q8_0, q8_0}, attrs(2, false), kRoundedX},
          {"two types", {x, q4_k, q4_k, q6_k}, attrs(3, false), kRoundedX},
          {"biases", {x, q8_0, q4_0, normal({20}), normal({21})}, attrs(2, true), kRoundedX},
          {"one row", {normal({1, 512}), q8_0, q6_k, q4_k}, attrs(3, false), kRoundedX},
          {"a vector", {normal({512}), q4_0, q8_0}, attrs(2, false), kRoundedX}};
}

}  // namespace

// Operands x, the weights, then the biases of all or of none; results in the order of the weights.
const OpDef linear_group_op = {.name = "linear_group",
                               .infer = infer_group,
                               .no_vjp = "made by a backend's pass, after differentiation",
                               .decompose = decompose_group,
                               .samples = group_samples,
                               .takes_blocks = true};

}  // namespace vertebra
