// Layout, reductions and products in StableHLO.
#include <limits>
#include <map>

#include "backend/pjrt/sharding_text.h"
#include "backend/pjrt/stablehlo_ops.h"
#include "ops/ops.h"

namespace vertebra::pjrt {
namespace {

using Ints = std::vector<int64_t>;

HloValue iota(const HloCall& call) {
  return call.emit.iota(call.result(), call.node.attrs.get<int64_t>("axis"));
}

HloValue reshape(const HloCall& call) { return call.emit.reshape(call.operand(0), call.result().shape); }

HloValue transpose(const HloCall& call) {
  return call.emit.emit("stablehlo.transpose", {call.operand(0)}, call.result(),
                        fmt::format("permutation = {}", hlo_list(call.ints("permutation"))));
}

HloValue broadcast_in_dim(const HloCall& call) {
  return call.emit.broadcast(call.operand(0), call.result().shape, call.ints("dims"));
}

HloValue slice(const HloCall& call) {
  return call.emit.slice(call.operand(0), call.ints("starts"), call.ints("limits"));
}

HloValue concatenate(const HloCall& call) {
  return call.emit.concatenate(call.operands, call.node.attrs.get<int64_t>("axis"), call.result());
}

HloValue pad(const HloCall& call) {
  const Ints interior(call.ints("low").size(), 0);
  const HloValue value =
      call.emit.splat({call.result().dtype, Shape{}}, call.node.attrs.get<double>("value"));
  return call.emit.emit(
      "stablehlo.pad", {call.operand(0), value}, call.result(),
      fmt::format("edge_padding_high = {}, edge_padding_low = {}, interior_padding = {}",
                  hlo_list(call.ints("high")), hlo_list(call.ints("low")), hlo_list(interior)));
}

bool is_narrow(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF16; }

// bf16 and f16 add up in f32 and round once.
HloValue reduce_sum(const HloCall& call) {
  const Ints& axes = call.ints("axes");
  const HloValue& a = call.operand(0);
  if (axes.empty()) return a;
  const DType inner = is_narrow(a.type.dtype) ? DType::kF32 : a.type.dtype;
  return call.emit.convert(call.emit.reduce("stablehlo.add", call.emit.convert(a, inner), axes, 0),
                           a.type.dtype);
}

double smallest(DType dtype) {
  if (is_float(dtype)) return -std::numeric_limits<double>::infinity();
  if (dtype == DType::kU8 || dtype == DType::kU32) return 0;
  return -std::ldexp(1.0, static_cast<int>(dtype_size(dtype)) * 8 - 1);
}

HloValue reduce_max(const HloCall& call) {
  const Ints& axes = call.ints("axes");
  const HloValue& a = call.operand(0);
  return axes.empty() ? a : call.emit.reduce("stablehlo.maximum", a, axes, smallest(a.type.dtype));
}

// The lowest index among the largest: no reduction of pairs, which some compilers lack. A row of NaNs gives
// its last index.
HloValue argmax(const HloCall& call) {
  HloEmitter& emit = call.emit;
  const HloValue& a = call.operand(0);
  const int64_t axis = call.node.attrs.get<int64_t>("axis");
  const Ints axes = {axis};
  Ints kept;
  for (int64_t i = 0; i < a.type.shape.rank(); ++i) {
    if (i != axis) kept.push_back(i);
  }
  const HloValue largest =
      emit.broadcast(emit.reduce("stablehlo.maximum", a, axes, smallest(a.type.dtype)), a.type.shape, kept);
  const TensorType indices = {DType::kI32, a.type.shape};
  const double last = static_cast<double>(a.type.shape[static_cast<int>(axis)] - 1);
  const HloValue candidates =
      emit.select(emit.compare(a, largest, "EQ"), emit.iota(indices, axis), emit.splat(indices, last));
  return emit.reduce("stablehlo.minimum", candidates, axes, last);
}

// What both operands are multiplied in: bf16 where asked, else the wider of the two types.
DType product_dtype(const HloCall& call) {
  if (call.node.attrs.get<DType>("compute") == DType::kBF16) return DType::kBF16;
  const DType a = call.operand(0).type.dtype, b = call.operand(1).type.dtype;
  if (a == DType::kF64 || b == DType::kF64) return DType::kF64;
  return a == b ? a : DType::kF32;
}

// Sums are f32 (f64 for f64 operands); the result is rounded once. HIGHEST: f32 products stay f32 where a
// chip would take a shorter type.
HloValue dot_general(const HloCall& call) {
  HloEmitter& emit = call.emit;
  const DType inner = product_dtype(call);
  const DType sum = inner == DType::kF64 ? DType::kF64 : DType::kF32;
  const std::string attributes = fmt::format(
      "dot_dimension_numbers = #stablehlo.dot<lhs_batching_dimensions = {}, rhs_batching_dimensions = {}, "
      "lhs_contracting_dimensions = {}, rhs_contracting_dimensions = {}>, precision_config = "
      "[#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]",
      hlo_bracketed(call.ints("lhs_batch")), hlo_bracketed(call.ints("rhs_batch")),
      hlo_bracketed(call.ints("lhs_contract")), hlo_bracketed(call.ints("rhs_contract")));
  const HloValue product = emit.emit(
      "stablehlo.dot_general", {emit.convert(call.operand(0), inner), emit.convert(call.operand(1), inner)},
      {sum, call.result().shape}, attributes);
  return emit.convert(product, call.result().dtype);
}

HloValue with_sharding(const HloCall& call) {
  const HloValue& a = call.operand(0);
  const Sharding sharding = sharding_of(call.node);
  const int rank = a.type.shape.rank();
  const Partitioner partitioner = call.vendor.partitioner;
  if (partitioner == Partitioner::kShardy)
    return call.emit.emit("sdy.sharding_constraint", {a}, a.type,
                          "sharding = " + sharding_text(sharding, rank, call.mesh, partitioner));
  return call.emit.emit("stablehlo.custom_call", {a}, a.type, "call_target_name = \"Sharding\"", {},
                        sharding_attribute(sharding, rank, call.mesh, partitioner));
}

}  // namespace

HloTranslation find_structural_translation(std::string_view op) {
  static const std::map<std::string_view, HloTranslation> kTable = {
      {"iota", iota},
      {"reshape", reshape},
      {"transpose", transpose},
      {"broadcast_in_dim", broadcast_in_dim},
      {"slice", slice},
      {"concatenate", concatenate},
      {"pad", pad},
      {"reduce_sum", reduce_sum},
      {"reduce_max", reduce_max},
      {"argmax", argmax},
      {"dot_general", dot_general},
      {"with_sharding", with_sharding},
  };
  const auto it = kTable.find(op);
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace vertebra::pjrt
