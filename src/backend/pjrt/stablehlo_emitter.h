// Writes the operations of one StableHLO function as text, in MLIR's generic form. Each call appends one
// operation and returns its result. Knows how types, attributes and constants are spelt; what an op of ours
// becomes is in stablehlo_*.cc.
#pragma once

#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "graph/graph.h"

namespace vertebra::pjrt {

// A value of the text: its name ("%layers.3.attention.multiply.17") and its type (static).
struct HloValue {
  std::string name;
  TensorType type;
};

// "tensor<4x8xf32>"
std::string hlo_type(const TensorType& type);
std::string hlo_dtype(DType dtype);
// "array<i64: 1, 2>"
std::string hlo_list(std::span<const int64_t> values);
// "[1, 2]"
std::string hlo_bracketed(std::span<const int64_t> values);
// The bits of one element as an attribute: "0x3F800000", "-5", "true".
std::string hlo_element(DType dtype, double value);
// What may stand in a name: other characters become '.', runs of them one.
std::string hlo_name(std::string_view text);

class HloEmitter {
 public:
  explicit HloEmitter(std::string& out) : out_(out) {}

  // Names of what follows begin with this: the scope of the node being written.
  void set_scope(std::string_view scope) { scope_ = hlo_name(scope); }

  // The general form. `operation` with its dialect ("stablehlo.add"); `attributes` as written between <{ }>,
  // empty for none; `region` the text between ({ and }), empty for none; `further` attributes that are no
  // part of the operation, written between { }.
  HloValue emit(std::string_view operation, std::span<const HloValue> operands, const TensorType& result,
                std::string_view attributes = {}, std::string_view region = {},
                std::string_view further = {});
  HloValue emit(std::string_view operation, std::initializer_list<HloValue> operands,
                const TensorType& result, std::string_view attributes = {}, std::string_view region = {},
                std::string_view further = {}) {
    return emit(operation, std::span<const HloValue>(operands.begin(), operands.size()), result, attributes,
                region, further);
  }

  // Several results, several regions (each as `region` returns it).
  std::vector<HloValue> emit_many(std::string_view operation, std::span<const HloValue> operands,
                                  std::span<const TensorType> results, std::span<const std::string> regions);
  // A new name, for an argument of a region.
  HloValue argument(const TensorType& type) { return {fresh_name("argument"), type}; }
  // The text of a region: what `body` emits. It must end in emit_return.
  std::string region(std::span<const HloValue> arguments, FunctionRef<void()> body);
  void emit_return(std::span<const HloValue> values);

  // Elementwise: the result has the first operand's type.
  HloValue unary(std::string_view operation, const HloValue& a) { return emit(operation, {a}, a.type); }
  HloValue binary(std::string_view operation, const HloValue& a, const HloValue& b) {
    return emit(operation, {a, b}, a.type);
  }
  HloValue compare(const HloValue& a, const HloValue& b, std::string_view direction);  // "EQ", "LT", ...
  HloValue select(const HloValue& condition, const HloValue& a, const HloValue& b);
  HloValue convert(const HloValue& a, DType dtype);  // the value itself when it has that type

  HloValue constant(const Tensor& value);
  HloValue splat(const TensorType& type, double value);  // every element the same
  HloValue iota(const TensorType& type, int64_t axis);
  HloValue reshape(const HloValue& a, const Shape& shape);
  HloValue broadcast(const HloValue& a, const Shape& shape, std::span<const int64_t> dims);
  HloValue slice(const HloValue& a, std::span<const int64_t> starts, std::span<const int64_t> limits);
  // `starts`: an i32 scalar for each axis.
  HloValue dynamic_slice(const HloValue& a, std::span<const HloValue> starts, const Shape& shape);
  HloValue dynamic_update_slice(const HloValue& a, const HloValue& block, std::span<const HloValue> starts);
  HloValue concatenate(std::span<const HloValue> parts, int64_t axis, const TensorType& result);
  // `operation` (stablehlo.add, stablehlo.maximum) over the axes, from `start`.
  HloValue reduce(std::string_view operation, const HloValue& a, std::span<const int64_t> axes, double start);

  // A region of two scalar arguments that returns `operation` of them.
  std::string combiner(std::string_view operation, DType dtype);
  // One that returns the second.
  std::string second(DType dtype);

 private:
  std::string fresh_name(std::string_view operation);
  void write(std::string_view results, std::string_view operation, std::span<const HloValue> operands,
             std::string_view attributes, std::span<const std::string> regions, std::string_view result_types,
             std::string_view further = {});
  std::string& out_;
  std::string scope_;
  int count_ = 0;
};

}  // namespace vertebra::pjrt
