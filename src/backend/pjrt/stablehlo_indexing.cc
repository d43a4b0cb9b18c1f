// Rows by index, and random numbers, in StableHLO.
#include <algorithm>
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

HloValue gather_rows(const HloCall& call) { return rows_at(call.emit, call.operand(0), call.operand(1)); }

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

constexpr double kMostOneHot = 1 << 26;  // elements of a one-hot matrix: 256 MB of f32

// Rows first to before limit of scatter_add_rows without a scatter: the product of a one-hot matrix of the
// indices [rows, N] and the updates [N, width] in f32; integers, whose products are not exact everywhere, as
// a masked sum. An index outside fits no row; its update counts as zero, since zero times what padding may
// hold is no zero.
HloValue add_rows_by_product(HloEmitter& emit, const HloValue& indices, const HloValue& updates,
                             int64_t first, int64_t limit) {
  const int64_t rows = limit - first, n = indices.type.shape[0], width = updates.type.shape[1];
  const Shape pairs{rows, n};
  const Ints row_axis = {0}, index_axis = {1};
  const HloValue numbers = emit.iota({DType::kI32, Shape{rows}}, 0);
  const HloValue shifted = first == 0 ? numbers
                                      : emit.binary("stablehlo.add", numbers,
                                                    emit.splat(numbers.type, static_cast<double>(first)));
  const HloValue same = emit.compare(emit.broadcast(shifted, pairs, row_axis),
                                     emit.broadcast(indices, pairs, index_axis), "EQ");
  const DType dtype = updates.type.dtype;
  if (is_float(dtype)) {
    return emit.emit(
        "stablehlo.dot_general", {emit.convert(same, dtype), updates}, {dtype, Shape{rows, width}},
        "dot_dimension_numbers = #stablehlo.dot<lhs_batching_dimensions = [], rhs_batching_dimensions = "
        "[], lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>, precision_config = "
        "[#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]");
  }
  const Shape all{rows, n, width};
  const Ints pair_axes = {0, 1}, update_axes = {1, 2}, summed = {1};
  const HloValue spread = emit.broadcast(updates, all, update_axes);
  const HloValue chosen =
      emit.select(emit.broadcast(same, all, pair_axes), spread, emit.splat(spread.type, 0));
  return emit.reduce("stablehlo.add", chosen, summed, 0);
}

// In pieces of so many rows that no one-hot matrix grows large.
HloValue scatter_add_by_product(HloEmitter& emit, const HloValue& indices, const HloValue& updates,
                                const Shape& result) {
  const int64_t n = indices.type.shape.elements(), rows = result[0];
  const int64_t width = rows == 0 ? 0 : result.elements() / rows;
  if (n == 0 || result.elements() == 0) return emit.splat({updates.type.dtype, result}, 0);
  const HloValue flat = emit.reshape(indices, Shape{n});
  const HloValue within =
      emit.binary("stablehlo.and", emit.compare(flat, emit.splat(flat.type, 0), "GE"),
                  emit.compare(flat, emit.splat(flat.type, static_cast<double>(rows)), "LT"));
  HloValue matrix = emit.reshape(updates, Shape{n, width});
  const Ints row_axis = {0};
  matrix =
      emit.select(emit.broadcast(within, matrix.type.shape, row_axis), matrix, emit.splat(matrix.type, 0));
  const double per_row =
      static_cast<double>(n) * (is_float(updates.type.dtype) ? 1.0 : static_cast<double>(width));
  const int64_t piece = std::max<int64_t>(1, static_cast<int64_t>(kMostOneHot / per_row));
  std::vector<HloValue> parts;
  for (int64_t first = 0; first < rows; first += piece)
    parts.push_back(add_rows_by_product(emit, flat, matrix, first, std::min(rows, first + piece)));
  const TensorType whole = {updates.type.dtype, Shape{rows, width}};
  return emit.reshape(parts.size() == 1 ? parts[0] : emit.concatenate(parts, 0, whole), result);
}

// For every row of the table the update that writes it, by the largest n with that index, and a gather;
// nothing is multiplied, so that what one row holds (infinity, NaN) never reaches another.
HloValue write_rows_by_gather(HloEmitter& emit, const HloValue& table, const HloValue& indices,
                              const HloValue& rows) {
  const int64_t n = indices.type.shape[0], size = table.type.shape[0];
  if (n == 0 || table.type.shape.elements() == 0) return table;
  const TensorType pairs = {DType::kI32, Shape{size, n}};
  const Ints index_axis = {1}, row_axis = {0};
  const HloValue same =
      emit.compare(emit.iota(pairs, 0), emit.broadcast(indices, pairs.shape, index_axis), "EQ");
  const HloValue candidates = emit.select(same, emit.iota(pairs, 1), emit.splat(pairs, -1));
  const HloValue source = emit.reduce("stablehlo.maximum", candidates, index_axis, -1);
  const HloValue written = emit.compare(source, emit.splat(source.type, 0), "GE");
  return emit.select(emit.broadcast(written, table.type.shape, row_axis), rows_at(emit, rows, source), table);
}

// In place when the table's buffer is given up, by scatter; the chip must drop rows that are to go nowhere.
HloValue write_rows(const HloCall& call) {
  if (!call.vendor.rules.indices_outside || call.banned("stablehlo.scatter"))
    return write_rows_by_gather(call.emit, call.operand(0), call.operand(1), call.operand(2));
  return scatter(call.emit, call.operand(0), call.operand(1), call.operand(2),
                 call.emit.second(call.operand(0).type.dtype));
}

// Zeros plus the rows. Rows outside are dropped. The operation itself does so except where an index outside
// is an error, hence they are written to a row of their own, which is cut off.
HloValue scatter_add_rows(const HloCall& call) {
  HloEmitter& emit = call.emit;
  const HloValue &indices = call.operand(0), &updates = call.operand(1);
  const DType dtype = updates.type.dtype;
  const DType inner = dtype == DType::kBF16 || dtype == DType::kF16 ? DType::kF32 : dtype;
  const TensorType result = {inner, call.result().shape};
  if (call.banned("stablehlo.scatter"))
    return emit.convert(scatter_add_by_product(emit, indices, emit.convert(updates, inner), result.shape),
                        dtype);
  TensorType larger = result;
  larger.shape.set_dim(0, result.shape[0] + 1);
  const HloValue beyond = emit.splat(indices.type, static_cast<double>(result.shape[0]));
  const HloValue outside =
      emit.binary("stablehlo.or", emit.compare(indices, emit.splat(indices.type, 0), "LT"),
                  emit.compare(indices, beyond, "GE"));
  HloValue rows = emit.select(outside, beyond, indices);
  if (!call.vendor.rules.indices_outside)  // for whoever proves that none lies outside: chip_rules.h
    rows = emit.emit("stablehlo.clamp", {emit.splat(indices.type, 0), rows, beyond}, rows.type);
  const HloValue added = scatter(emit, emit.splat(larger, 0), rows, emit.convert(updates, inner),
                                 emit.combiner("stablehlo.add", inner));
  const Ints starts(static_cast<size_t>(result.shape.rank()), 0);
  return emit.convert(emit.slice(added, starts, result.shape.sizes()), dtype);
}

// Moves `axis` to the front, or from the front back to its place.
HloValue move_axis(HloEmitter& emit, const HloValue& a, int axis, bool to_front) {
  Ints order;
  for (int i = 0; i < a.type.shape.rank(); ++i) {
    if (to_front)
      order.push_back(i == 0 ? axis : i <= axis ? i - 1 : i);
    else
      order.push_back(i < axis ? i + 1 : i == axis ? 0 : i);
  }
  Shape shape;
  for (const int64_t from : order) shape.push_back(a.type.shape.dim(static_cast<int>(from)));
  return emit.emit("stablehlo.transpose", {a}, {a.type.dtype, shape},
                   fmt::format("permutation = {}", hlo_list(order)));
}

// The update stretched to the array's shape by gathering along each axis, and where it lies, chosen by
// select.
HloValue update_by_select(const HloCall& call) {
  HloEmitter& emit = call.emit;
  const HloValue& into = call.operand(0);
  const Shape& shape = into.type.shape;
  HloValue stretched = call.operand(1), inside;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const int64_t size = shape[axis], part = stretched.type.shape[axis];
    const TensorType scalar = {DType::kI32, Shape{}}, line = {DType::kI32, Shape{size}};
    const Ints none, own = {axis};
    const HloValue start = emit.emit("stablehlo.clamp",
                                     {emit.splat(scalar, 0), call.operand(2 + static_cast<size_t>(axis)),
                                      emit.splat(scalar, static_cast<double>(size - part))},
                                     scalar);
    const HloValue place =
        emit.binary("stablehlo.subtract", emit.iota(line, 0), emit.broadcast(start, line.shape, none));
    const HloValue within =
        emit.binary("stablehlo.and", emit.compare(place, emit.splat(line, 0), "GE"),
                    emit.compare(place, emit.splat(line, static_cast<double>(part)), "LT"));
    const HloValue everywhere = emit.broadcast(within, shape, own);
    inside = axis == 0 ? everywhere : emit.binary("stablehlo.and", inside, everywhere);
    stretched = move_axis(emit, rows_at(emit, move_axis(emit, stretched, axis, true), place), axis, false);
  }
  return shape.rank() == 0 ? stretched : emit.select(inside, stretched, into);
}

HloValue dynamic_update_slice(const HloCall& call) {
  if (call.banned("stablehlo.dynamic_update_slice")) return update_by_select(call);
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

// Clamped here as well: an index outside is an error at run time on some chips.
HloValue rows_at(HloEmitter& emit, const HloValue& table, const HloValue& indices) {
  const TensorType scalar = {DType::kI32, Shape{}};
  const double last = static_cast<double>(table.type.shape[0] - 1);
  const HloValue clamped =
      emit.emit("stablehlo.clamp", {emit.splat(scalar, 0), indices, emit.splat(scalar, last)}, indices.type);
  const int64_t index_rank = indices.type.shape.rank();
  Ints sizes = table.type.shape.sizes();
  sizes[0] = 1;
  TensorType result = {table.type.dtype, indices.type.shape};
  for (int i = 1; i < table.type.shape.rank(); ++i) result.shape.push_back(table.type.shape.dim(i));
  return emit.emit(
      "stablehlo.gather", {table, clamped}, result,
      fmt::format("dimension_numbers = #stablehlo.gather<offset_dims = {}, collapsed_slice_dims = [0], "
                  "start_index_map = [0], index_vector_dim = {}>, slice_sizes = {}",
                  hlo_bracketed(count(index_rank, result.shape.rank())), index_rank, hlo_list(sizes)));
}

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
