// What the kernels on rows of f32 share: which nodes they take, and how rows are cut into tasks (by shape
// alone).
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/kernel.h"

namespace vertebra::cpu {

// Every floating-point operand and result is f32.
inline bool all_f32(const Node& node) {
  const auto fits = [](DType dtype) { return dtype == DType::kF32 || !is_float(dtype); };
  return std::all_of(node.operands.begin(), node.operands.end(), [&](Value v) { return fits(v.dtype()); }) &&
         std::all_of(node.results.begin(), node.results.end(), [&](const auto& t) { return fits(t.dtype); });
}

struct Rows {
  int64_t count, size;
  explicit Rows(const Shape& shape) : count(1), size(shape.rank() == 0 ? 1 : shape[-1]) {
    for (int axis = 0; axis + 1 < shape.rank(); ++axis) count *= shape[axis];
  }
};

// Calls body(first, count) for pieces of [0, total), each of `piece` or what is left.
template <class Body>
void for_pieces(ThreadTeam& team, int64_t total, int64_t piece, const Body& body) {
  team.parallel_for((total + piece - 1) / piece,
                    [&](int64_t index, int) { body(index * piece, std::min(piece, total - index * piece)); });
}

// Rows of `size` elements per task, so that a task is worth handing out.
inline int64_t rows_per_piece(int64_t size) {
  constexpr int64_t kElements = 16384;
  return std::max<int64_t>(1, kElements / std::max<int64_t>(size, 1));
}

}  // namespace vertebra::cpu
