// Rows by index: gather_rows, scatter_add_rows, dynamic_update_slice (primitives), write_rows, embedding (a
// gather with a name of its own, so that a backend can tell it apart).
#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Types = std::vector<TensorType>;

Types infer_gather(const InferInput& in) {
  in.check_operand_count(2);
  const Shape& table = in.operands[0].shape;
  check_dtype(in, 1, DType::kI32, "the index");
  in.check(table.rank() >= 1, "the table is a scalar and has no rows");
  in.check(table[0] > 0, "the table has no rows");
  in.check(in.operands[1].shape.rank() + table.rank() - 1 <= Shape::kMaxRank,
           "the result would have more than {} dimensions", Shape::kMaxRank);
  Shape out = in.operands[1].shape;
  for (int i = 1; i < table.rank(); ++i) out.push_back(table.dim(i));
  return {{in.operands[0].dtype, out}};
}

Types infer_scatter(const InferInput& in) {
  in.check_operand_count(2);
  check_dtype(in, 0, DType::kI32, "the index");
  in.check(in.operands[1].dtype != DType::kBool, "there is no arithmetic on bool");
  const Shape& indices = in.operands[0].shape;
  const Shape& updates = in.operands[1].shape;
  bool leading = updates.rank() >= indices.rank();
  for (int i = 0; leading && i < indices.rank(); ++i) leading = updates.dim(i) == indices.dim(i);
  in.check(leading, "the updates of shape {} do not begin with the index's shape {}", updates.to_string(),
           indices.to_string());
  Shape out = in.attrs.get<Shape>("rows");
  in.check(out.rank() == 1, "rows {} must be one dimension", out.to_string());
  for (int i = indices.rank(); i < updates.rank(); ++i) out.push_back(updates.dim(i));
  return {{in.operands[1].dtype, out}};
}

Types infer_update(const InferInput& in) {
  in.check(in.operands.size() >= 2, "{} operands given, an array, an update and the starts are wanted",
           in.operands.size());
  const Shape& a = in.operands[0].shape;
  const Shape& update = in.operands[1].shape;
  in.check_operand_count(2 + static_cast<size_t>(a.rank()));
  check_dtype(in, 1, in.operands[0].dtype, "the update");
  in.check(update.rank() == a.rank(), "the update has {} dimensions, {} are wanted", update.rank(), a.rank());
  for (int i = 0; i < a.rank(); ++i) {
    in.check(update[i] <= a[i], "the update is larger than the array along axis {}", i);
    in.check(a.dim(i).symbol == 0 || a.dim(i) == update.dim(i),
             "axis {} is bounded and can only be written whole", i);
    check_type(in, 2 + static_cast<size_t>(i), {DType::kI32, Shape{}}, "a start");
  }
  return {in.operands[0]};
}

Types infer_write(const InferInput& in) {
  in.check_operand_count(3);
  check_dtype(in, 1, DType::kI32, "the index");
  in.check(in.operands[0].dtype != DType::kBool, "there is no arithmetic on bool");
  check_rank(in, 1, 1, "the index");
  const Shape& table = in.operands[0].shape;
  in.check(table.rank() >= 1, "the table is a scalar and has no rows");
  Shape rows = table;
  rows.set_dim(0, in.operands[1].shape.dim(0));
  check_type(in, 2, {in.operands[0].dtype, rows}, "the rows");
  return {in.operands[0]};
}

std::vector<OpSample> gather_samples() {
  return {{"rows", {normal({7, 33}), integers({5}, 0, 7)}, {}},
          {"indices outside", {normal({4, 3}), values({5}, {-2, 0, 3, 4, 99}, DType::kI32)}, {}},
          {"two index axes", {normal({5, 2, 3}), integers({2, 4}, 0, 5)}, {}},
          {"scalars", {normal({9}), integers({4}, 0, 9)}, {}},
          {"one index", {normal({6, 4}), integers({}, 0, 6)}, {}}};
}

// y = table[clamp(indices)]: rows of dy added where they came from.
std::vector<Value> gather_vjp(const VjpInput& in) {
  const Dim rows = in.operand(0).shape().dim(0);
  const Value clamped = minimum(maximum(in.operand(1), 0.0), static_cast<double>(rows.size) - 1);
  return {scatter_add_rows(clamped, in.gradients[0], rows), Value{}};
}

std::vector<Value> scatter_vjp(const VjpInput& in) {
  // y[indices[n]] += updates[n], unless outside
  if (!in.wanted[1]) return {Value{}, Value{}};
  const Value indices = in.operand(0), dy = in.gradients[0];
  const double rows = static_cast<double>(in.node.attrs.get<Shape>("rows")[0]);
  const Value inside = logical_and(compare_with(indices, 0, "ge"), compare_with(indices, rows, "lt"));
  const Value picked = gather_rows(dy, indices);
  return {Value{}, select(broadcast_leading(inside, picked.shape()), picked, zeros_like(picked))};
}

}  // namespace

const OpDef gather_rows_op = {
    .name = "gather_rows", .infer = infer_gather, .vjp = gather_vjp, .samples = gather_samples};

// Attribute rows: Shape of one dimension. bf16 and f16 add up in f32 and round once.
const OpDef scatter_add_rows_op = {
    .name = "scatter_add_rows",
    .infer = infer_scatter,
    .vjp = scatter_vjp,
    .samples = []() -> std::vector<OpSample> {
      const auto attrs = [](int64_t rows) { return Attrs{{"rows", Shape{rows}}}; };
      return {{"rows, some twice", {integers({11}, 0, 5), normal({11, 33})}, attrs(6)},
              {"indices outside", {values({5}, {-2, 0, 3, 4, 99}, DType::kI32), normal({5, 3})}, attrs(4)},
              {"two index axes", {integers({2, 4}, 0, 5), normal({2, 4, 3})}, attrs(5)},
              {"scalars", {integers({6}, 0, 3), normal({6})}, attrs(3)},
              {"integers", {integers({6}, 0, 3), integers({6}, -9, 9)}, attrs(4)}};
    }};

// (table [V, ...], indices i32 [N], rows [N, ...]) -> table
const OpDef write_rows_op = {
    .name = "write_rows",
    .infer = infer_write,
    .no_vjp = "only in generation: it writes caches",
    .decompose = [](Graph& graph, const Node&, std::span<const Value> operands) -> std::vector<Value> {
      const Value table = operands[0], indices = operands[1];
      const Dim rows = table.shape().dim(0);
      const Value ones = full(graph, indices.shape(), 1, DType::kI32);
      const Value written = compare_with(scatter_add_rows(indices, ones, rows), 0, "gt");
      const Value added = scatter_add_rows(indices, operands[2], rows);
      return {select(broadcast_leading(written, table.shape()), added, table)};
    },
    .samples = []() -> std::vector<OpSample> {
      return {
          {"rows", {normal({7, 5}), values({3}, {6, 0, 3}, DType::kI32), normal({3, 5})}, {}},
          {"indices outside", {normal({4, 3}), values({4}, {-1, 2, 4, 99}, DType::kI32), normal({4, 3})}, {}},
          {"heads", {normal({6, 2, 3}), values({2}, {5, 1}, DType::kI32), normal({2, 2, 3})}, {}}};
    }};

const OpDef dynamic_update_slice_op = {
    .name = "dynamic_update_slice",
    .infer = infer_update,
    .no_vjp = "only in generation: it writes caches",
    .samples = []() -> std::vector<OpSample> {
      const auto at = [](double start) { return values({}, {start}, DType::kI32); };
      return {{"block", {normal({7, 9}), normal({2, 4}), at(3), at(5)}, {}},
              {"clamped", {normal({7, 9}), normal({2, 4}), at(6), at(-1)}, {}},
              {"row", {normal({9}), normal({4}), at(2)}, {}}};
    }};

const OpDef embedding_op = {
    .name = "embedding",
    .infer = [](const InferInput& in) -> Types {
      in.check_operand_count(2);
      check_rank(in, 0, 2, "the table");
      const bool quantized = is_block_quantized(in.operands[0].dtype);
      if (quantized) {
        check_blocks(in, 0, "the table");
      } else {
        check_float(in, 0, "the table");
      }
      Types types = infer_gather(in);
      if (quantized) types[0].dtype = DType::kF32;
      return types;
    },
    .vjp = [](const VjpInput& in) -> std::vector<Value> {
      if (is_block_quantized(in.operand(0).dtype())) return {Value{}, Value{}};  // a constant
      return gather_vjp(in);
    },
    .decompose = [](Graph&, const Node&, std::span<const Value> operands) -> std::vector<Value> {
      const bool quantized = is_block_quantized(operands[0].dtype());
      return {gather_rows(quantized ? dequantize(operands[0]) : operands[0], operands[1])};
    },
    .samples = []() -> std::vector<OpSample> {
      return {
          {"tokens", {normal({17, 33}), integers({6}, 0, 17)}, {}},
          {"a batch, some outside", {normal({5, 8}), values({2, 3}, {0, 4, 5, -1, 2, 2}, DType::kI32)}, {}},
          {"q4_0", {blocks({35, 96}, DType::kQ4_0), integers({6}, -1, 36)}, {}},
          {"q6_k", {blocks({17, 512}, DType::kQ6_K), integers({2, 3}, 0, 17)}, {}}};
    },
    .takes_blocks = true};

Value gather_rows(Value table, Value indices) { return make(gather_rows_op, {table, indices}); }

Value scatter_add_rows(Value indices, Value updates, Dim rows) {
  return make(scatter_add_rows_op, {indices, updates}, {{"rows", Shape{rows}}});
}

Value write_rows(Value table, Value indices, Value rows) {
  return make(write_rows_op, {table, indices, rows});
}

Value dynamic_update_slice(Value a, Value update, std::span<const Value> starts) {
  std::vector<Value> operands = {a, update};
  operands.insert(operands.end(), starts.begin(), starts.end());
  return make(dynamic_update_slice_op, std::move(operands));
}

Value embedding(Value table, Value tokens) { return make(embedding_op, {table, tokens}); }

}  // namespace vertebra
