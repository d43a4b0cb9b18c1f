#include "backend/pjrt/stablehlo.h"

#include <algorithm>

#include "backend/pjrt/chip_rules.h"
#include "backend/pjrt/device_type.h"
#include "backend/pjrt/sharding_text.h"
#include "backend/pjrt/stablehlo_loop.h"
#include "backend/pjrt/stablehlo_ops.h"
#include "base/error.h"
#include "graph/op.h"

namespace vertebra::pjrt {

bool HloCall::banned(std::string_view operation) const {
  return find_ban(vendor.rules, operation) != nullptr;
}

HloTranslation find_translation(std::string_view op) {
  for (const auto find : {find_elementwise_translation, find_structural_translation,
                          find_indexing_translation, find_block_translation}) {
    if (const HloTranslation found = find(op)) return found;
  }
  return nullptr;
}

namespace {

std::string types_of(std::span<const TensorType> types) {
  std::string out;
  for (const TensorType& type : types) out += (out.empty() ? "" : ", ") + hlo_type(type);
  return out;
}

// One dictionary for each: its sharding on a mesh, and the output that takes it over.
std::string argument_attributes(const Graph& graph, const Vendor& vendor, const Mesh& mesh) {
  std::vector<std::string> donations(graph.inputs().size());
  for (size_t j = 0; j < graph.outputs().size(); ++j) {
    if (const int input = graph.outputs()[j].donated_input; input >= 0)
      donations[static_cast<size_t>(input)] = fmt::format("tf.aliasing_output = {} : i32", j);
  }
  std::string out;
  for (size_t i = 0; i < graph.inputs().size(); ++i) {
    const auto& input = graph.inputs()[i];
    std::string attributes;
    if (mesh.devices() > 1)
      attributes = sharding_attribute(input.sharding, input.value.shape().rank(), mesh, vendor.partitioner);
    if (!attributes.empty() && !donations[i].empty()) attributes += ", ";
    out += fmt::format("{}{{{}{}}}", i == 0 ? "" : ", ", attributes, donations[i]);
  }
  return out;
}

// Every result pinned: a partitioner gathers or cuts what is left open.
std::string result_attributes(const Graph& graph, const Vendor& vendor, const Mesh& mesh) {
  if (mesh.devices() == 1) return "";
  std::string out;
  for (const auto& output : graph.outputs()) {
    out += fmt::format(
        "{}{{{}}}", out.empty() ? "" : ", ",
        sharding_attribute(output.sharding, output.value.shape().rank(), mesh, vendor.partitioner));
  }
  return fmt::format("res_attrs = [{}], ", out);
}

class Printer {
 public:
  Printer(const Graph& graph, const Vendor& vendor, const Mesh& mesh)
      : graph_(graph), vendor_(vendor), mesh_(mesh), emit_(body_) {
    values_.resize(graph.nodes().size());
    if (vendor.layers_as_loop) loops_ = find_loops(graph);
    loop_results_.resize(loops_.loops.size());
  }

  std::string print() {
    std::vector<TensorType> inputs, outputs;
    std::string arguments, results;
    for (size_t i = 0; i < graph_.inputs().size(); ++i) {
      const auto& input = graph_.inputs()[i];
      const HloValue value = {fmt::format("%arg{}.{}", i, hlo_name(input.name)),
                              device_type(input.value.type())};
      values_[static_cast<size_t>(input.value.node->id)] = value;
      inputs.push_back(value.type);
      arguments += fmt::format("{}{}: {}", i == 0 ? "" : ", ", value.name, hlo_type(value.type));
    }
    for (const auto& node : graph_.nodes()) print_node(*node);
    for (const auto& output : graph_.outputs()) {
      const HloValue& value = value_of(output.value);
      results += (results.empty() ? "" : ", ") + value.name;
      outputs.push_back(value.type);
    }
    const std::string result_types = types_of(outputs);
    std::string out = "\"builtin.module\"() <{sym_name = \"vertebra\"}> ({\n";
    if (mesh_.devices() > 1 && vendor_.partitioner == Partitioner::kShardy) out += mesh_operation(mesh_);
    out += fmt::format(
        "\"func.func\"() <{{arg_attrs = [{}], function_type = ({}) -> ({}), {}sym_name = \"main\"}}> ({{\n",
        argument_attributes(graph_, vendor_, mesh_), types_of(inputs), result_types,
        result_attributes(graph_, vendor_, mesh_));
    out += fmt::format("^bb0({}):\n{}  \"func.return\"({}) : ({}) -> ()\n", arguments, body_, results,
                       result_types);
    return out + "}) : () -> ()\n}) : () -> ()\n";
  }

 private:
  LoopPlace place_of(const Node& node) const {
    return loops_.places.empty() ? LoopPlace{} : loops_.places[static_cast<size_t>(node.id)];
  }

  const HloValue& value_of(const Value& of) {
    HloValue& value = values_[static_cast<size_t>(of.node->id)];
    const LoopPlace place = place_of(*of.node);
    if (value.name.empty() && place.loop >= 0) {  // taken out of the loop's results at its first use
      const auto at = static_cast<size_t>(place.loop);
      value = loop_results_[at].value(emit_, loops_.loops[at], place);
    }
    return value;
  }

  void print_node(const Node& node) {
    if (is_parameter(node)) return;
    if (const LoopPlace place = place_of(node); place.loop >= 0) {
      const auto at = static_cast<size_t>(place.loop);
      if (place.iteration == 0 && place.position == 0)
        loop_results_[at] = print_loop(
            emit_, loops_.loops[at], vendor_, mesh_,
            [&](const Value& v) -> const HloValue& { return value_of(v); },
            [&](int loop, int position) -> const HloValue& {
              return loop_results_[static_cast<size_t>(loop)].stacks.at(position);
            });
      return;
    }
    HloValue& value = values_[static_cast<size_t>(node.id)];
    emit_.set_scope(node.scope);
    if (is_constant(node)) {
      value = emit_.constant(constant_value(node));
      return;
    }
    std::vector<HloValue> operands;
    for (const Value& operand : node.operands) operands.push_back(value_of(operand));
    value = translate(emit_, node, operands, vendor_, mesh_);
  }

  const Graph& graph_;
  const Vendor& vendor_;
  const Mesh& mesh_;
  std::string body_;
  HloEmitter emit_;
  std::vector<HloValue> values_;  // by node id; every primitive has one result
  GraphLoops loops_;
  std::vector<LoopResults> loop_results_;
};

}  // namespace

HloValue translate(HloEmitter& emit, const Node& node, std::span<const HloValue> operands,
                   const Vendor& vendor, const Mesh& mesh) {
  const HloTranslation translation = find_translation(node.op->name);
  require(translation != nullptr, Code::kUnimplemented, "op '{}'{} has no translation to StableHLO",
          node.op->name, node.scope.empty() ? "" : " in '" + node.scope + "'");
  HloValue value = translation({emit, node, operands, vendor, mesh});
  VERTEBRA_CHECK(value.type == node.results[0], "a translation to StableHLO changed a value's type");
  return value;
}

std::string print_stablehlo(const Graph& graph, const Vendor& vendor, const Mesh& mesh) {
  for (const auto& node : graph.nodes()) {
    for (const TensorType& type : node->results)
      require(type.shape.is_static(), Code::kInternal,
              "a bounded dimension reached the printer: {} of type {}", node->op->name, type.to_string());
  }
  return Printer(graph, vendor, mesh).print();
}

}  // namespace vertebra::pjrt
