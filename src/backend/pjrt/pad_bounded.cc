#include "backend/pjrt/pad_bounded.h"

#include <algorithm>
#include <limits>
#include <map>

#include "base/error.h"
#include "ops/ops.h"

namespace vertebra::pjrt {
namespace {

using Ints = std::vector<int64_t>;

class Padder {
 public:
  Padder(const Graph& source, const std::vector<Symbol>& symbols, const std::vector<int64_t>& sizes)
      : source_(source), symbols_(symbols) {
    for (size_t i = 0; i < symbols.size(); ++i) padded_[symbols[i].symbol] = sizes[i];
  }

  Graph run() {
    for (const auto& input : source_.inputs()) target_.parameter(input.name, padded(input.value.type()));
    for (const Symbol& symbol : symbols_)
      actual_[symbol.symbol] =
          target_.parameter(fmt::format("size of n{}", symbol.symbol), {DType::kI32, Shape{}});
    mapped_.resize(source_.nodes().size());
    for (size_t i = 0; i < source_.inputs().size(); ++i)
      mapped_[static_cast<size_t>(source_.inputs()[i].value.node->id)] = {target_.inputs()[i].value};
    for (const auto& node : source_.nodes()) {
      target_.set_scope(node->scope);
      if (!is_parameter(*node)) mapped_[static_cast<size_t>(node->id)] = rewrite(*node);
    }
    copy_outputs(source_, target_, [this](Value v) { return translate(v); });
    return std::move(target_);
  }

 private:
  Value translate(Value v) const {
    return mapped_[static_cast<size_t>(v.node->id)][static_cast<size_t>(v.index)];
  }

  Shape padded(const Shape& shape) const {
    Shape out;
    for (const Dim& dim : shape.dims()) {
      const auto it = padded_.find(dim.symbol);
      out.push_back(it == padded_.end() ? dim.size : it->second);
    }
    return out;
  }
  TensorType padded(const TensorType& type) const { return {type.dtype, padded(type.shape)}; }

  // Whether rows beyond the actual size may be there.
  bool is_padded(const Dim& dim) const { return actual_.contains(dim.symbol); }

  // bool of a's padded shape: the place lies within the actual size along `axis` of symbol `symbol`.
  Value within(Value a, int64_t axis, uint8_t symbol) {
    const Value index = iota(target_, a.shape(), static_cast<int>(axis));
    return compare(index, broadcast_in_dim(actual_.at(symbol), a.shape(), {}), Comparison::kLess);
  }

  // `a` with `value` wherever it is padding along any of the axes that `declared` has bounded.
  Value masked(Value a, const Shape& declared, const Ints& axes, double value) {
    for (const int64_t axis : axes) {
      const Dim dim = declared.dim(static_cast<int>(axis));
      if (is_padded(dim))
        a = select(within(a, axis, dim.symbol), a, full(target_, a.shape(), value, a.dtype()));
    }
    return a;
  }

  static double lowest(DType dtype) {
    if (is_float(dtype)) return -std::numeric_limits<double>::infinity();
    if (dtype == DType::kU8 || dtype == DType::kU32) return 0;
    return -std::ldexp(1.0, static_cast<int>(dtype_size(dtype)) * 8 - 1);
  }

  Attrs padded_attrs(const Node& node) const {
    Attrs out;
    for (const auto& [name, value] : node.attrs.items()) {
      if (const Shape* shape = std::get_if<Shape>(&value)) {
        out.set(name, padded(*shape));
      } else if (node.op->name == "slice" && name == "limits") {  // a bounded axis is taken whole
        Ints limits = std::get<Ints>(value);
        const Shape& declared = node.operands[0].shape();
        for (size_t i = 0; i < limits.size(); ++i) {
          const auto it = padded_.find(declared.dim(static_cast<int>(i)).symbol);
          if (it != padded_.end()) limits[i] = it->second;
        }
        out.set(name, std::move(limits));
      } else {
        out.set(name, value);
      }
    }
    return out;
  }

  std::vector<Value> rewrite(const Node& node) {
    std::vector<Value> operands;
    for (const Value& operand : node.operands) operands.push_back(translate(operand));
    const auto& name = node.op->name;
    const auto declared = [&](size_t i) -> const Shape& { return node.operands[i].shape(); };
    if (name == "reduce_sum" || name == "reduce_max") {
      const double neutral = name == "reduce_sum" ? 0 : lowest(operands[0].dtype());
      operands[0] = masked(operands[0], declared(0), node.attrs.get<Ints>("axes"), neutral);
    } else if (name == "argmax") {
      operands[0] =
          masked(operands[0], declared(0), {node.attrs.get<int64_t>("axis")}, lowest(operands[0].dtype()));
    } else if (name == "dot_general") {
      // Both: zero times what padding may hold (infinity, NaN) is no zero.
      operands[0] = masked(operands[0], declared(0), node.attrs.get<Ints>("lhs_contract"), 0);
      operands[1] = masked(operands[1], declared(1), node.attrs.get<Ints>("rhs_contract"), 0);
    } else if (name == "scatter_add_rows") {  // outside: dropped
      Ints axes;
      for (int64_t i = 0; i < declared(0).rank(); ++i) axes.push_back(i);
      operands[0] = masked(operands[0], declared(0), axes, -1);
    } else if (name == "write_rows") {
      operands[1] = masked(operands[1], declared(1), {0}, -1);
    } else if (name == "gather_rows" && is_padded(declared(0).dim(0))) {  // clamped to the actual rows
      const Value last = subtract(actual_.at(declared(0).dim(0).symbol), 1.0);
      operands[1] = minimum(operands[1], last);
    } else if (name == "random_bits") {
      const Shape& shape = node.results[0].shape;
      for (int axis = 1; axis < shape.rank(); ++axis)
        require(!is_padded(shape.dim(axis)), Code::kUnimplemented,
                "random_bits of shape {}: on this device only the first dimension may be bounded",
                shape.to_string());
    }
    return target_.add_node(*node.op, std::move(operands), padded_attrs(node));
  }

  const Graph& source_;
  const std::vector<Symbol>& symbols_;
  std::map<uint8_t, int64_t> padded_;  // symbol -> padded size
  std::map<uint8_t, Value> actual_;    // symbol -> actual size, i32 scalar
  Graph target_;
  std::vector<std::vector<Value>> mapped_;  // by node id of the source
};

}  // namespace

std::vector<Symbol> symbols_of(const Graph& graph) {
  std::map<uint8_t, int64_t> bounds;
  for (const auto& input : graph.inputs()) {
    for (const Dim& dim : input.value.shape().dims()) {
      if (dim.symbol == 0) continue;
      const auto [it, is_new] = bounds.emplace(dim.symbol, dim.size);
      require(is_new || it->second == dim.size, "dimension n{} has the bounds {} and {}", dim.symbol,
              it->second, dim.size);
    }
  }
  std::vector<Symbol> out;
  for (const auto& [symbol, bound] : bounds) out.push_back({symbol, bound});
  return out;
}

Graph pad_bounded(const Graph& graph, const std::vector<Symbol>& symbols, const std::vector<int64_t>& sizes) {
  return Padder(graph, symbols, sizes).run();
}

}  // namespace vertebra::pjrt
