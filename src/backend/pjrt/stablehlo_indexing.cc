// Rows by index, and random numbers, in StableHLO.
#include <array>
#include <map>

#include "backend/pjrt/stablehlo_ops.h"
#include "base/error.h"

namespace vertebra::pjrt {
namespace {

using Ints = std::vector<int64_t>;

// first, first + 1, ..., before limit
Ints count(int64_t first, int64_t limit) {
  Ints out;
  for (int64_t i = first; i < limit; ++i) out.push_back(i);
  return out;
}

// Clamped here as well: an index outside is an error at run time on some chips.
HloValue gather_rows(const HloCall& call) {
  HloEmitter& emit = call.emit;
  const HloValue &table = call.operand(0), &indices = call.operand(1);
  const TensorType scalar = {DType::kI32, Shape{}};
  const double last = static_cast<double>(table.type.shape[0] - 1);
  const HloValue clamped =
      emit.emit("stablehlo.clamp", {emit.splat(scalar, 0), indices, emit.splat(scalar, last)}, indices.type);
  const int64_t index_rank = indices.type.shape.rank();
  Ints sizes = table.type.shape.sizes();
  sizes[0] = 1;
  return emit.emit(
      "stablehlo.gather", {table, clamped}, call.result(),
      fmt::format("dimension_numbers = #stablehlo.gather<offset_dims = {}, collapsed_slice_dims = [0], "
                  "start_index_map = [0], index_vector_dim = {}>, slice_sizes = {}",
                  hlo_bracketed(count(index_rank, call.result().shape.rank())), index_rank, hlo_list(sizes)));
}

// Rows written at i32 indices, combined with what is there by the region.
HloValue scatter(HloEmitter& emit, const HloValue& into, const HloValue& indices, const HloValue& rows,
                 const std::string& region) {
  const int64_t index_rank = indices.type.shape.rank();
  return emit.emit(
      "stablehlo.scatter", {into, indices, rows}, into.type,
      fmt::format("scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = {}, "
                  "inserted_window_dims = [0], scatter_dims_to_operand_dims = [0], index_vector_dim = {}>",
                  hlo_bracketed(count(index_rank, rows.type.shape.rank())), index_rank),
      region);
}

// In place when the table's buffer is given up.
HloValue write_rows(const HloCall& call) {
  return scatter(call.emit, call.operand(0), call.operand(1), call.operand(2),
                 call.emit.second(call.operand(0).type.dtype));
}

// Zeros plus the rows. Rows outside are dropped: by the operation itself on every chip where an index outside
// is no error, hence written to a row of their own, which is cut off.
HloValue scatter_add_rows(const HloCall& call) {
  HloEmitter& emit = call.emit;
  const HloValue &indices = call.operand(0), &updates = call.operand(1);
  const DType dtype = updates.type.dtype;
  const DType inner = dtype == DType::kBF16 || dtype == DType::kF16 ? DType::kF32 : dtype;
  const TensorType result = {inner, call.result().shape};
  TensorType larger = result;
  larger.shape.set_dim(0, result.shape[0] + 1);
  const HloValue beyond = emit.splat(indices.type, static_cast<double>(result.shape[0]));
  const HloValue outside =
      emit.binary("stablehlo.or", emit.compare(indices, emit.splat(indices.type, 0), "LT"),
                  emit.compare(indices, beyond, "GE"));
  const HloValue rows = emit.select(outside, beyond, indices);
  const HloValue added = scatter(emit, emit.splat(larger, 0), rows, emit.convert(updates, inner),
                                 emit.combiner("stablehlo.add", inner));
  const Ints starts(static_cast<size_t>(result.shape.rank()), 0);
  return emit.convert(emit.slice(added, starts, result.shape.sizes()), dtype);
}

HloValue dynamic_update_slice(const HloCall& call) {
  return call.emit.emit("stablehlo.dynamic_update_slice", call.operands, call.result());
}

// Philox4x32-10 (base/rng.h) in 32-bit arithmetic: not every chip has wider integers.
class PhiloxText {
 public:
  PhiloxText(HloEmitter& emit, int64_t blocks) : emit_(emit), type_{DType::kU32, Shape{blocks}} {}

  HloValue number(uint32_t value) { return emit_.splat(type_, value); }
  HloValue apply(std::string_view operation, const HloValue& a, const HloValue& b) {
    return emit_.binary(operation, a, b);
  }
  HloValue add(const HloValue& a, const HloValue& b) { return apply("stablehlo.add", a, b); }
  HloValue multiply(const HloValue& a, const HloValue& b) { return apply("stablehlo.multiply", a, b); }
  HloValue exclusive_or(const HloValue& a, const HloValue& b) { return apply("stablehlo.xor", a, b); }
  HloValue low_half(const HloValue& a) { return apply("stablehlo.and", a, number(0xffff)); }
  HloValue high_half(const HloValue& a) { return apply("stablehlo.shift_right_logical", a, number(16)); }

  // The upper 32 bits of factor * a, from products of 16-bit halves.
  HloValue multiply_high(uint32_t factor, const HloValue& a) {
    const HloValue low = number(factor & 0xffff), high = number(factor >> 16);
    const HloValue a_low = low_half(a), a_high = high_half(a);
    const HloValue middle = add(multiply(low, a_high), high_half(multiply(low, a_low)));
    const HloValue carry = add(multiply(high, a_low), low_half(middle));
    return add(add(multiply(high, a_high), high_half(middle)), high_half(carry));
  }

  using Block = std::array<HloValue, 4>;
  Block rounds(Block c, std::array<HloValue, 2> key) {
    for (int round = 0; round < 10; ++round) {
      constexpr uint32_t kFirst = 0xD2511F53u, kSecond = 0xCD9E8D57u;
      const HloValue high0 = multiply_high(kFirst, c[0]), low0 = multiply(number(kFirst), c[0]);
      const HloValue high1 = multiply_high(kSecond, c[2]), low1 = multiply(number(kSecond), c[2]);
      c = {exclusive_or(exclusive_or(high1, c[1]), key[0]), low1,
           exclusive_or(exclusive_or(high0, c[3]), key[1]), low0};
      key = {add(key[0], number(0x9E3779B9u)), add(key[1], number(0xBB67AE85u))};
    }
    return c;
  }

 private:
  HloEmitter& emit_;
  TensorType type_;
};

HloValue random_bits(const HloCall& call) {
  HloEmitter& emit = call.emit;
  const int64_t elements = call.result().shape.elements(), blocks = (elements + 3) / 4;
  if (elements == 0) return emit.splat(call.result(), 0);
  require(blocks <= (int64_t{1} << 32), Code::kUnimplemented,
          "random_bits of {} elements: at most 2^34 are supported on this device", elements);
  PhiloxText philox(emit, blocks);
  const auto word = [&](int64_t i) {  // of seed_and_stream, for every block
    const Ints starts = {i}, limits = {i + 1};
    const HloValue scalar = emit.reshape(emit.slice(call.operand(0), starts, limits), Shape{});
    return emit.broadcast(scalar, Shape{blocks}, Ints{});
  };
  const HloValue position = emit.iota({DType::kU32, Shape{blocks}}, 0);
  const PhiloxText::Block words =
      philox.rounds({position, philox.number(0), word(2), word(3)}, {word(0), word(1)});
  std::vector<HloValue> columns;
  for (const HloValue& each : words) columns.push_back(emit.reshape(each, Shape{blocks, 1}));
  const HloValue all = emit.concatenate(columns, 1, {DType::kU32, Shape{blocks, 4}});
  const Ints starts = {0}, limits = {elements};
  return emit.reshape(emit.slice(emit.reshape(all, Shape{blocks * 4}), starts, limits), call.result().shape);
}

}  // namespace

HloTranslation find_indexing_translation(std::string_view op) {
  static const std::map<std::string_view, HloTranslation> kTable = {
      {"gather_rows", gather_rows}, {"scatter_add_rows", scatter_add_rows},
      {"write_rows", write_rows},   {"dynamic_update_slice", dynamic_update_slice},
      {"random_bits", random_bits},
  };
  const auto it = kTable.find(op);
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace vertebra::pjrt
