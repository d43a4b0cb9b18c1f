// Layout, reductions, indexing, products and random bits of the reference evaluation.
#include <algorithm>
#include <limits>
#include <map>

#include "backend/reference/primitives.h"
#include "base/rng.h"

namespace vertebra::reference {
namespace {

int64_t& at(Ints& list, int64_t i) { return list[static_cast<size_t>(i)]; }
int64_t at(const Ints& list, int64_t i) { return list[static_cast<size_t>(i)]; }

void iota(const Call& call) {
  const int64_t axis = call.node.attrs.get<int64_t>("axis");
  for (int64_t i = 0; i < call.result.elements(); ++i) {
    const int64_t value = at(position_of(i, call.result.sizes), axis);
    if (call.result.floating()) {
      call.result.floats[static_cast<size_t>(i)] = static_cast<double>(value);
    } else {
      at(call.result.integers, i) = wrap(call.result.dtype, value);
    }
  }
}

void transpose(const Call& call) {
  const Ints& permutation = call.ints("permutation");
  const Array& a = call.operand(0);
  for (int64_t i = 0; i < call.result.elements(); ++i) {
    const Ints to = position_of(i, call.result.sizes);
    Ints from(to.size());
    for (size_t d = 0; d < to.size(); ++d) at(from, permutation[d]) = to[d];
    call.result.copy_element(i, a, index_of(from, a.sizes));
  }
}

void broadcast_in_dim(const Call& call) {
  const Ints& dims = call.ints("dims");
  const Array& a = call.operand(0);
  for (int64_t i = 0; i < call.result.elements(); ++i) {
    const Ints to = position_of(i, call.result.sizes);
    Ints from(a.sizes.size());
    for (size_t d = 0; d < from.size(); ++d) from[d] = a.sizes[d] == 1 ? 0 : at(to, dims[d]);
    call.result.copy_element(i, a, index_of(from, a.sizes));
  }
}

void slice(const Call& call) {
  const Ints& starts = call.ints("starts");
  const Array& a = call.operand(0);
  for (int64_t i = 0; i < call.result.elements(); ++i) {
    Ints from = position_of(i, call.result.sizes);
    for (size_t d = 0; d < from.size(); ++d) from[d] += starts[d];
    call.result.copy_element(i, a, index_of(from, a.sizes));
  }
}

void concatenate(const Call& call) {
  const int64_t axis = call.node.attrs.get<int64_t>("axis");
  int64_t start = 0;
  for (const Array* part : call.operands) {
    for (int64_t i = 0; i < part->elements(); ++i) {
      Ints to = position_of(i, part->sizes);
      at(to, axis) += start;
      call.result.copy_element(index_of(to, call.result.sizes), *part, i);
    }
    start += at(part->sizes, axis);
  }
}

void pad(const Call& call) {
  const Ints& low = call.ints("low");
  const Array& a = call.operand(0);
  const double value = call.node.attrs.get<double>("value");
  std::fill(call.result.floats.begin(), call.result.floats.end(), value);
  std::fill(call.result.integers.begin(), call.result.integers.end(), static_cast<int64_t>(value));
  for (int64_t i = 0; i < a.elements(); ++i) {
    Ints to = position_of(i, a.sizes);
    for (size_t d = 0; d < to.size(); ++d) to[d] += low[d];
    call.result.copy_element(index_of(to, call.result.sizes), a, i);
  }
}

// Where element `index` of a goes when `axes` are left out.
int64_t reduced_index(int64_t index, const Array& a, const Ints& axes, const Ints& result_sizes) {
  const Ints from = position_of(index, a.sizes);
  Ints to;
  for (int64_t d = 0; d < a.rank(); ++d) {
    if (std::find(axes.begin(), axes.end(), d) == axes.end()) to.push_back(at(from, d));
  }
  return index_of(to, result_sizes);
}

void reduce_sum(const Call& call) {
  const Array& a = call.operand(0);
  for (int64_t i = 0; i < a.elements(); ++i) {
    const int64_t to = reduced_index(i, a, call.ints("axes"), call.result.sizes);
    if (a.floating()) {
      call.result.floats[static_cast<size_t>(to)] += a.floats[static_cast<size_t>(i)];
    } else {
      at(call.result.integers, to) = wrap(a.dtype, at(call.result.integers, to) + at(a.integers, i));
    }
  }
}

int64_t smallest(DType dtype) {
  if (dtype == DType::kU8 || dtype == DType::kU32) return 0;
  return std::numeric_limits<int64_t>::min() >> (64 - 8 * static_cast<int>(dtype_size(dtype)));
}

void reduce_max(const Call& call) {
  const Array& a = call.operand(0);
  std::fill(call.result.floats.begin(), call.result.floats.end(), -std::numeric_limits<double>::infinity());
  std::fill(call.result.integers.begin(), call.result.integers.end(), smallest(a.dtype));
  for (int64_t i = 0; i < a.elements(); ++i) {
    const auto to = static_cast<size_t>(reduced_index(i, a, call.ints("axes"), call.result.sizes));
    const auto from = static_cast<size_t>(i);
    if (a.floating()) {
      double& largest = call.result.floats[to];
      if (a.floats[from] > largest || a.floats[from] != a.floats[from]) largest = a.floats[from];
    } else {
      call.result.integers[to] = std::max(call.result.integers[to], a.integers[from]);
    }
  }
}

void argmax(const Call& call) {
  const int64_t axis = call.node.attrs.get<int64_t>("axis");
  const Array& a = call.operand(0);
  for (int64_t i = 0; i < call.result.elements(); ++i) {
    Ints position = position_of(i, call.result.sizes);
    position.insert(position.begin() + axis, 0);
    const auto value = [&](int64_t place) {
      at(position, axis) = place;
      const auto index = static_cast<size_t>(index_of(position, a.sizes));
      return a.floating() ? a.floats[index] : static_cast<double>(a.integers[index]);
    };
    int64_t best = 0;
    for (int64_t place = 1; place < at(a.sizes, axis); ++place) {
      if (value(place) > value(best)) best = place;
    }
    at(call.result.integers, i) = best;
  }
}

// Elements in one row of the table.
int64_t row_size(const Array& table) { return table.elements() / std::max<int64_t>(table.sizes[0], 1); }

void gather_rows(const Call& call) {
  const Array &table = call.operand(0), &indices = call.operand(1);
  const int64_t row = row_size(table);
  for (int64_t n = 0; n < indices.elements(); ++n) {
    const int64_t from = std::clamp<int64_t>(at(indices.integers, n), 0, table.sizes[0] - 1);
    for (int64_t i = 0; i < row; ++i) call.result.copy_element(n * row + i, table, from * row + i);
  }
}

// Its operand holds values already: see array_from.
void dequantize_blocks(const Call& call) { call.result.floats = call.operand(0).floats; }

void scatter_add_rows(const Call& call) {
  const Array &indices = call.operand(0), &updates = call.operand(1);
  if (updates.elements() == 0) return;
  const int64_t row = updates.elements() / indices.elements();
  for (int64_t n = 0; n < indices.elements(); ++n) {
    const int64_t to = at(indices.integers, n);
    if (to < 0 || to >= call.result.sizes[0]) continue;
    for (int64_t i = 0; i < row; ++i) {
      const auto target = static_cast<size_t>(to * row + i), source = static_cast<size_t>(n * row + i);
      if (updates.floating()) {
        call.result.floats[target] += updates.floats[source];
      } else {
        call.result.integers[target] =
            wrap(updates.dtype, call.result.integers[target] + updates.integers[source]);
      }
    }
  }
}

void dynamic_update_slice(const Call& call) {
  const Array &a = call.operand(0), &update = call.operand(1);
  call.result.floats = a.floats;
  call.result.integers = a.integers;
  for (int64_t i = 0; i < update.elements(); ++i) {
    Ints to = position_of(i, update.sizes);
    for (size_t d = 0; d < to.size(); ++d)
      to[d] += std::clamp<int64_t>(call.operand(2 + d).integers[0], 0, a.sizes[d] - update.sizes[d]);
    call.result.copy_element(index_of(to, a.sizes), update, i);
  }
}

void random_bits(const Call& call) {
  const Ints& key = call.operand(0).integers;
  const auto join = [&](size_t i) {
    return static_cast<uint64_t>(key[i]) | (static_cast<uint64_t>(key[i + 1]) << 32);
  };
  const Philox philox(join(0), join(2));
  for (int64_t i = 0; i < call.result.elements(); ++i)
    at(call.result.integers, i) = philox.block(static_cast<uint64_t>(i) / 4)[static_cast<size_t>(i % 4)];
}

// The axes in neither list.
Ints free_axes(const Array& a, const Ints& batch, const Ints& contract) {
  Ints out;
  for (int64_t d = 0; d < a.rank(); ++d) {
    if (std::find(batch.begin(), batch.end(), d) == batch.end() &&
        std::find(contract.begin(), contract.end(), d) == contract.end())
      out.push_back(d);
  }
  return out;
}

void dot_general(const Call& call) {
  const Array &a = call.operand(0), &b = call.operand(1);
  const Ints &a_batch = call.ints("lhs_batch"), &b_batch = call.ints("rhs_batch");
  const Ints &a_contract = call.ints("lhs_contract"), &b_contract = call.ints("rhs_contract");
  const Ints a_free = free_axes(a, a_batch, a_contract), b_free = free_axes(b, b_batch, b_contract);
  const bool round = call.options.round_products && call.node.attrs.get<DType>("compute") == DType::kBF16;
  const auto read = [&](const Array& x, const Ints& position) {
    const double value = x.floats[static_cast<size_t>(index_of(position, x.sizes))];
    return round ? round_to(DType::kBF16, value) : value;
  };
  Ints contract_sizes;
  int64_t terms = 1;
  for (const int64_t axis : a_contract) {
    contract_sizes.push_back(at(a.sizes, axis));
    terms *= at(a.sizes, axis);
  }
  for (int64_t i = 0; i < call.result.elements(); ++i) {
    const Ints to = position_of(i, call.result.sizes);
    Ints in_a(a.sizes.size()), in_b(b.sizes.size());
    size_t next = 0;
    for (size_t d = 0; d < a_batch.size(); ++d) at(in_a, a_batch[d]) = at(in_b, b_batch[d]) = to[next++];
    for (const int64_t axis : a_free) at(in_a, axis) = to[next++];
    for (const int64_t axis : b_free) at(in_b, axis) = to[next++];
    double sum = 0;
    for (int64_t term = 0; term < terms; ++term) {
      const Ints inside = position_of(term, contract_sizes);
      for (size_t d = 0; d < inside.size(); ++d) {
        at(in_a, a_contract[d]) = inside[d];
        at(in_b, b_contract[d]) = inside[d];
      }
      sum += read(a, in_a) * read(b, in_b);
    }
    call.result.floats[static_cast<size_t>(i)] = sum;
  }
}

}  // namespace

Primitive find_structural(std::string_view name) {
  static const std::map<std::string_view, Primitive> kTable = {
      {"iota", iota},
      {"transpose", transpose},
      {"broadcast_in_dim", broadcast_in_dim},
      {"slice", slice},
      {"concatenate", concatenate},
      {"pad", pad},
      {"reduce_sum", reduce_sum},
      {"reduce_max", reduce_max},
      {"argmax", argmax},
      {"gather_rows", gather_rows},
      {"dequantize", dequantize_blocks},
      {"scatter_add_rows", scatter_add_rows},
      {"dynamic_update_slice", dynamic_update_slice},
      {"random_bits", random_bits},
      {"dot_general", dot_general},
  };
  const auto it = kTable.find(name);
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace vertebra::reference
