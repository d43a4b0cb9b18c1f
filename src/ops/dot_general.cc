// The general product (primitive dot_general) and matmul.
#include <algorithm>
#include <set>

#include "ops/ops.h"
#include "ops/registry.h"
#include "ops/shape_rules.h"

namespace vertebra {
namespace {

using Ints = std::vector<int64_t>;

DotDims dims_of(const Attrs& attrs) {
  return {attrs.get<Ints>("lhs_batch"), attrs.get<Ints>("rhs_batch"), attrs.get<Ints>("lhs_contract"),
          attrs.get<Ints>("rhs_contract")};
}

Attrs attrs_of(const DotDims& dims, DType result, DType compute) {
  return {{"lhs_batch", dims.lhs_batch},
          {"rhs_batch", dims.rhs_batch},
          {"lhs_contract", dims.lhs_contract},
          {"rhs_contract", dims.rhs_contract},
          {"result", result},
          {"compute", compute}};
}

bool holds(const Ints& list, int64_t value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

Ints free_axes(int rank, const Ints& batch, const Ints& contract) {
  Ints out;
  for (int64_t i = 0; i < rank; ++i) {
    if (!holds(batch, i) && !holds(contract, i)) out.push_back(i);
  }
  return out;
}

void check_roles(const InferInput& in, size_t operand, const Ints& batch, const Ints& contract) {
  std::set<int64_t> seen;
  for (const Ints* list : {&batch, &contract}) {
    for (const int64_t axis : *list) {
      in.check(axis >= 0 && axis < in.operands[operand].shape.rank(), "operand {} has no axis {}", operand,
               axis);
      in.check(seen.insert(axis).second, "axis {} of operand {} is named twice", axis, operand);
    }
  }
}

std::vector<TensorType> infer_dot(const InferInput& in) {
  in.check_operand_count(2);
  check_float(in, 0, "the first operand");
  check_float(in, 1, "the second operand");
  check_compute(in);
  in.check(is_float(in.attrs.get<DType>("result")), "the result's element type {} is no floating-point one",
           dtype_name(in.attrs.get<DType>("result")));
  const DotDims dims = dims_of(in.attrs);
  in.check(
      dims.lhs_batch.size() == dims.rhs_batch.size() && dims.lhs_contract.size() == dims.rhs_contract.size(),
      "the operands name {} and {} batch axes, {} and {} contracting ones", dims.lhs_batch.size(),
      dims.rhs_batch.size(), dims.lhs_contract.size(), dims.rhs_contract.size());
  check_roles(in, 0, dims.lhs_batch, dims.lhs_contract);
  check_roles(in, 1, dims.rhs_batch, dims.rhs_contract);
  const Shape& a = in.operands[0].shape;
  const Shape& b = in.operands[1].shape;
  const auto same = [&](const Ints& mine, const Ints& theirs, std::string_view role) {
    for (size_t i = 0; i < mine.size(); ++i) {
      in.check(a.dim(static_cast<int>(mine[i])) == b.dim(static_cast<int>(theirs[i])),
               "the {} axes {} and {} differ in size", role, mine[i], theirs[i]);
    }
  };
  same(dims.lhs_batch, dims.rhs_batch, "batch");
  same(dims.lhs_contract, dims.rhs_contract, "contracting");
  const Ints free_a = free_axes(a.rank(), dims.lhs_batch, dims.lhs_contract);
  const Ints free_b = free_axes(b.rank(), dims.rhs_batch, dims.rhs_contract);
  in.check(dims.lhs_batch.size() + free_a.size() + free_b.size() <= Shape::kMaxRank,
           "the result would have more than {} dimensions", Shape::kMaxRank);
  Shape out;
  for (const int64_t axis : dims.lhs_batch) out.push_back(a.dim(static_cast<int>(axis)));
  for (const int64_t axis : free_a) out.push_back(a.dim(static_cast<int>(axis)));
  for (const int64_t axis : free_b) out.push_back(b.dim(static_cast<int>(axis)));
  return {{in.attrs.get<DType>("result"), out}};
}

Ints range(size_t begin, size_t count) {
  Ints out = axes_up_to(static_cast<int>(count));
  for (int64_t& axis : out) axis += static_cast<int64_t>(begin);
  return out;
}

// One side of a product: which axes have which role.
struct Side {
  Value value;
  Ints batch, contract, free;
};

// The gradient of `mine`. dy has dims [batch, ...]; `their_place` is where the free axes of theirs lie in dy.
Value side_gradient(const Side& mine, const Side& theirs, Value dy, const Ints& their_place, DType compute) {
  const size_t batch = mine.batch.size();
  // theirs keeps its contracting axes, in their order in theirs; each belongs to one of mine.
  Ints order = range(0, mine.contract.size());
  std::sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
    return theirs.contract[static_cast<size_t>(i)] < theirs.contract[static_cast<size_t>(j)];
  });
  Ints layout = mine.batch;  // axis i of the product is axis layout[i] of mine
  Ints contracted;
  for (const int64_t i : order) contracted.push_back(mine.contract[static_cast<size_t>(i)]);
  // The operand whose axes come first in mine goes first: then the usual cases need no transpose.
  const bool dy_first = mine.free.empty() || mine.contract.empty() || mine.free[0] < contracted[0];
  const DType dtype = mine.value.dtype();
  Value product;
  if (dy_first) {
    product = dot_general(dy, theirs.value, {range(0, batch), theirs.batch, their_place, theirs.free}, dtype,
                          compute);
    layout.insert(layout.end(), mine.free.begin(), mine.free.end());
    layout.insert(layout.end(), contracted.begin(), contracted.end());
  } else {
    product = dot_general(theirs.value, dy, {theirs.batch, range(0, batch), theirs.free, their_place}, dtype,
                          compute);
    layout.insert(layout.end(), contracted.begin(), contracted.end());
    layout.insert(layout.end(), mine.free.begin(), mine.free.end());
  }
  Ints permutation(layout.size());
  for (size_t i = 0; i < layout.size(); ++i)
    permutation[static_cast<size_t>(layout[i])] = static_cast<int64_t>(i);
  return transpose(product, permutation);
}

std::vector<Value> dot_vjp(const VjpInput& in) {
  const DotDims dims = dims_of(in.node.attrs);
  const DType compute = in.node.attrs.get<DType>("compute");
  const Value a = in.operand(0), b = in.operand(1), dy = in.gradients[0];
  const Side left = {a, dims.lhs_batch, dims.lhs_contract,
                     free_axes(a.shape().rank(), dims.lhs_batch, dims.lhs_contract)};
  const Side right = {b, dims.rhs_batch, dims.rhs_contract,
                      free_axes(b.shape().rank(), dims.rhs_batch, dims.rhs_contract)};
  const Ints left_place = range(left.batch.size(), left.free.size());
  const Ints right_place = range(left.batch.size() + left.free.size(), right.free.size());
  return {in.wanted[0] ? side_gradient(left, right, dy, right_place, compute) : Value{},
          in.wanted[1] ? side_gradient(right, left, dy, left_place, compute) : Value{}};
}

std::vector<OpSample> dot_samples() {
  const auto attrs = [](DotDims dims, DType compute = DType::kF32) {
    return attrs_of(dims, DType::kF32, compute);
  };
  std::vector<OpSample> out = {
      {"a.b", {normal({5, 37}), normal({37, 19})}, attrs({{}, {}, {1}, {0}})},
      {"a.b^T", {normal({33, 70}), normal({21, 70})}, attrs({{}, {}, {1}, {1}})},
      {"a^T.b", {normal({13, 6}), normal({13, 17})}, attrs({{}, {}, {0}, {0}})},
      {"a^T.b^T", {normal({9, 4}), normal({5, 9})}, attrs({{}, {}, {0}, {1}})},
      {"batches", {normal({3, 5, 7}), normal({3, 7, 4})}, attrs({{0}, {0}, {2}, {1}})},
      {"batch in the middle", {normal({5, 2, 3, 7}), normal({4, 2, 7})}, attrs({{1}, {1}, {3}, {2}})},
      {"two contracting axes", {normal({2, 3, 5}), normal({4, 5, 2})}, attrs({{}, {}, {0, 2}, {2, 1}})},
      {"outer product", {normal({4}), normal({3})}, attrs({{}, {}, {}, {}})},
      {"inner product", {normal({40}), normal({40})}, attrs({{}, {}, {0}, {0}})},
      {"one row", {normal({1, 65}), normal({34, 65})}, attrs({{}, {}, {1}, {1}})},
      {"no elements", {normal({0, 6}), normal({6, 3})}, attrs({{}, {}, {1}, {0}})},
      {"computed in bf16", {normal({7, 66}), normal({18, 66})}, attrs({{}, {}, {1}, {1}}, DType::kBF16)},
  };
  out.push_back({"rounded to bf16",
                 {normal({5, 24}), normal({24, 9})},
                 attrs_of({{}, {}, {1}, {0}}, DType::kBF16, DType::kF32),
                 5e-3});
  return out;
}

}  // namespace

const OpDef dot_general_op = {
    .name = "dot_general", .infer = infer_dot, .vjp = dot_vjp, .samples = dot_samples};

Value dot_general(Value a, Value b, const DotDims& dims, DType result, DType compute) {
  return make(dot_general_op, {a, b}, attrs_of(dims, result, compute));
}

Value matmul(Value a, Value b, DType compute) {
  const int rank = a.shape().rank();
  require(rank >= 2 && b.shape().rank() == rank,
          "matmul: {} and {} given, two operands of the same two or more dimensions are wanted",
          a.type().to_string(), b.type().to_string());
  const Ints batch = axes_up_to(rank - 2);
  return dot_general(a, b, {batch, batch, {rank - 1}, {rank - 2}}, a.dtype(), compute);
}

}  // namespace vertebra
