// A value that is to lie on a mesh of devices in a certain way. No computation: on one device it is its
// operand.
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Types = std::vector<TensorType>;
using Values = std::vector<Value>;
using Ints = std::vector<int64_t>;

constexpr int64_t bit(MeshAxis axis) { return int64_t{1} << static_cast<int>(axis); }

Types infer(const InferInput& in) {
  in.check_operand_count(1);
  const auto& axes = in.attrs.get<Ints>("axes");
  const Shape& shape = in.operands[0].shape;
  in.check(static_cast<int>(axes.size()) <= shape.rank(), "{} dimensions are cut, the value has {}",
           axes.size(), shape.rank());
  int64_t used = 0;
  for (size_t i = 0; i < axes.size(); ++i) {
    in.check(axes[i] >= 0 && axes[i] < int64_t{1} << kMeshAxes.size(),
             "dimension {} is cut along unknown axes", i);
    in.check((used & axes[i]) == 0, "a mesh axis cuts two dimensions");
    in.check(axes[i] == 0 || shape.dim(static_cast<int>(i)).symbol == 0, "dimension {} is bounded and is cut",
             i);
    used |= axes[i];
  }
  return {in.operands[0]};
}

// The gradient of a value lies as the value does.
Values vjp(const VjpInput& in) {
  return in.graph.add_node(with_sharding_op, {in.gradients[0]}, in.node.attrs);
}

std::vector<OpSample> samples() {
  return {{"rows", {normal({4, 6})}, {{"axes", Ints{bit(MeshAxis::kData) | bit(MeshAxis::kFsdp)}}}},
          {"columns", {normal({2, 3, 4})}, {{"axes", Ints{0, 0, bit(MeshAxis::kTensor)}}}},
          {"nowhere", {normal({})}, {{"axes", Ints{}}}}};
}

}  // namespace

const OpDef with_sharding_op = {
    .name = "with_sharding",
    .infer = infer,
    .vjp = vjp,
    .decompose = [](Graph&, const Node&, std::span<const Value> operands) -> Values { return {operands[0]}; },
    .samples = samples,
    .cheap = true};

Value with_sharding(Value a, const Sharding& sharding) {
  Ints axes;
  for (const auto& dim : sharding.dims) {
    int64_t& mask = axes.emplace_back(0);
    for (const MeshAxis axis : dim) {
      require(mask < bit(axis), "with_sharding {}: the axes of a dimension must stand in the mesh's order",
              sharding.to_string());
      mask |= bit(axis);
    }
  }
  return a.graph().add_node(with_sharding_op, {a}, {{"axes", axes}})[0];
}

Sharding sharding_of(const Node& node) {
  Sharding out;
  for (const int64_t mask : node.attrs.get<Ints>("axes")) {
    auto& dim = out.dims.emplace_back();
    for (const MeshAxis axis : kMeshAxes) {
      if ((mask & bit(axis)) != 0) dim.push_back(axis);
    }
  }
  return out;
}

}  // namespace vertebra
