#include "backend/pjrt/stablehlo_loop.h"

#include <algorithm>

#include "backend/pjrt/device_type.h"
#include "base/error.h"

namespace vertebra::pjrt {
namespace {

using Kind = GraphLoop::Operand::Kind;

const TensorType kIndexType = {DType::kI32, Shape{}};

TensorType stacked(const TensorType& type, int64_t count) {
  Shape shape{count};
  for (const Dim& dim : type.shape.dims()) shape.push_back(dim);
  return {type.dtype, shape};
}

// The starts of row `index` of a stack.
std::vector<HloValue> starts(HloEmitter& emit, const HloValue& index, const HloValue& stack) {
  std::vector<HloValue> out = {index};
  if (stack.type.shape.rank() > 1) {
    const HloValue zero = emit.splat(kIndexType, 0);
    out.resize(static_cast<size_t>(stack.type.shape.rank()), zero);
  }
  return out;
}

class LoopPrinter {
 public:
  LoopPrinter(HloEmitter& emit, const GraphLoop& loop, const Vendor& vendor, const Mesh& mesh,
              FunctionRef<const HloValue&(const Value&)> outside,
              FunctionRef<const HloValue&(int, int)> stack)
      : emit_(emit), loop_(loop), vendor_(vendor), mesh_(mesh), outside_(outside), stack_(stack) {}

  LoopResults print() {
    emit_.set_scope(loop_.node(0, 0).scope);
    start_values();
    std::vector<TensorType> types;
    for (const HloValue& each : start_) types.push_back(each.type);
    const std::string regions[] = {condition(), body()};
    emit_.set_scope("loop");
    const std::vector<HloValue> results = emit_.emit_many("stablehlo.while", start_, types, regions);
    LoopResults out;
    out.carried.assign(results.begin() + 1, results.begin() + 1 + std::ssize(loop_.carried));
    for (size_t i = 0; i < loop_.collected.size(); ++i)
      out.stacks[loop_.collected[i]] = results[results.size() - loop_.collected.size() + i];
    return out;
  }

 private:
  // The loop's variables: index, carried values, stacks that are read, invariants, stacks that are written.
  void start_values() {
    start_.push_back(emit_.splat(kIndexType, 0));
    for (const auto& carried : loop_.carried) start_.push_back(outside_(carried.initial));
    first_each_ = start_.size();
    for (const auto& each : loop_.each)
      start_.push_back(each.loop >= 0 ? stack_(each.loop, each.position) : gather(each));
    first_invariant_ = start_.size();
    for (const Value& invariant : loop_.invariants) {
      if (!is_constant(*invariant.node)) start_.push_back(outside_(invariant));
    }
    first_collected_ = start_.size();
    for (const int position : loop_.collected)
      start_.push_back(emit_.splat(stacked(loop_.node(0, position).results[0], loop_.count), 0));
  }

  HloValue gather(const GraphLoop::Each& each) {
    std::vector<HloValue> rows;
    const TensorType type = device_type(each.values[0].type());
    const TensorType row = stacked(type, 1);
    for (const Value& value : each.values) rows.push_back(emit_.reshape(outside_(value), row.shape));
    return emit_.concatenate(rows, 0, stacked(type, loop_.count));
  }

  std::vector<HloValue> arguments() {
    std::vector<HloValue> out;
    for (const HloValue& each : start_) out.push_back(emit_.argument(each.type));
    return out;
  }

  std::string condition() {
    const std::vector<HloValue> variables = arguments();
    return emit_.region(variables, [&] {
      const HloValue below[] = {emit_.compare(variables[0], emit_.splat(kIndexType, loop_.count), "LT")};
      emit_.emit_return(below);
    });
  }

  std::string body() {
    std::vector<HloValue> variables = arguments();
    return emit_.region(variables, [&] {
      open_operands(variables);
      std::vector<HloValue> values;
      for (int at = 0; at < loop_.period; ++at) {
        // The second iteration stands for all: its scope names the layer that the loop's text was taken from.
        const Node& node = loop_.node(1, at);
        std::vector<HloValue> operands;
        for (const auto& operand : loop_.operands[static_cast<size_t>(at)])
          operands.push_back(operand.kind == Kind::kInside ? values[static_cast<size_t>(operand.index)]
                                                           : opened_.at({operand.kind, operand.index}));
        emit_.set_scope("each/" + node.scope);
        values.push_back(translate(emit_, node, operands, vendor_, mesh_));
      }
      close(variables, values);
      emit_.emit_return(variables);
    });
  }

  // What the nodes of an iteration use from outside.
  void open_operands(const std::vector<HloValue>& variables) {
    for (size_t i = 0; i < loop_.carried.size(); ++i)
      opened_[{Kind::kCarried, static_cast<int>(i)}] = variables[1 + i];
    for (size_t i = 0; i < loop_.each.size(); ++i) {
      const HloValue& stack = variables[first_each_ + i];
      const TensorType type = device_type(loop_.each[i].values[0].type());
      const HloValue row = emit_.dynamic_slice(
          stack, starts(emit_, row_index(loop_.each[i], variables[0]), stack), stacked(type, 1).shape);
      opened_[{Kind::kEach, static_cast<int>(i)}] = emit_.reshape(row, type.shape);
    }
    size_t next = first_invariant_;
    for (size_t i = 0; i < loop_.invariants.size(); ++i) {
      const Node& node = *loop_.invariants[i].node;
      if (is_constant(node)) {
        opened_[{Kind::kConstant, static_cast<int>(i)}] = emit_.constant(constant_value(node));
      } else {
        opened_[{Kind::kInvariant, static_cast<int>(i)}] = variables[next++];
      }
    }
  }

  HloValue row_index(const GraphLoop::Each& each, const HloValue& iteration) {
    if (each.loop < 0 || (each.first == 0 && each.step == 1)) return iteration;
    const HloValue first = emit_.splat(kIndexType, each.first);
    return emit_.binary(each.step == 1 ? "stablehlo.add" : "stablehlo.subtract", first, iteration);
  }

  // The variables of the next iteration.
  void close(std::vector<HloValue>& variables, const std::vector<HloValue>& values) {
    emit_.set_scope("each");
    for (size_t i = 0; i < loop_.collected.size(); ++i) {
      HloValue& stack = variables[first_collected_ + i];
      const HloValue& value = values[static_cast<size_t>(loop_.collected[i])];
      const HloValue row = emit_.reshape(value, stacked(value.type, 1).shape);
      stack = emit_.dynamic_update_slice(stack, row, starts(emit_, variables[0], stack));
    }
    for (size_t i = 0; i < loop_.carried.size(); ++i)
      variables[1 + i] = values[static_cast<size_t>(loop_.carried[i].position)];
    variables[0] = emit_.binary("stablehlo.add", variables[0], emit_.splat(kIndexType, 1));
  }

  HloEmitter& emit_;
  const GraphLoop& loop_;
  const Vendor& vendor_;
  const Mesh& mesh_;
  FunctionRef<const HloValue&(const Value&)> outside_;
  FunctionRef<const HloValue&(int, int)> stack_;
  std::vector<HloValue> start_;
  size_t first_each_ = 0, first_invariant_ = 0, first_collected_ = 0;
  std::map<std::pair<Kind, int>, HloValue> opened_;
};

}  // namespace

HloValue LoopResults::value(HloEmitter& emit, const GraphLoop& loop, const LoopPlace& place) const {
  if (place.iteration == loop.count - 1) {
    for (size_t i = 0; i < loop.carried.size(); ++i) {
      if (loop.carried[i].position == place.position) return carried[i];
    }
  }
  const HloValue& stack = stacks.at(place.position);
  const TensorType& type = loop.node(0, place.position).results[0];
  std::vector<int64_t> first(static_cast<size_t>(stack.type.shape.rank()), 0),
      limit = stack.type.shape.sizes();
  first[0] = place.iteration;
  limit[0] = place.iteration + 1;
  return emit.reshape(emit.slice(stack, first, limit), type.shape);
}

LoopResults print_loop(HloEmitter& emit, const GraphLoop& loop, const Vendor& vendor, const Mesh& mesh,
                       FunctionRef<const HloValue&(const Value&)> outside,
                       FunctionRef<const HloValue&(int loop, int position)> stack) {
  return LoopPrinter(emit, loop, vendor, mesh, outside, stack).print();
}

}  // namespace vertebra::pjrt
