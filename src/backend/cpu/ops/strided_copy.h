// Copying between two strided views of the same shape: what broadcast, transpose, slice, concatenate and pad
// come down to, and the copy that brings a dot_general operand into a matrix layout. Called by ops/*.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/thread_team.h"
#include "tensor/shape.h"

namespace vertebra::cpu {

// Strides count elements; a stride of 0 in `from` repeats.
struct StridedCopy {
  int rank = 0;
  std::array<int64_t, Shape::kMaxRank> sizes{}, from{}, to{};

  void add_axis(int64_t size, int64_t from_stride, int64_t to_stride) {
    const auto i = static_cast<size_t>(rank++);
    sizes[i] = size, from[i] = from_stride, to[i] = to_stride;
  }
};

using Strides = std::array<int64_t, Shape::kMaxRank>;
// Row-major strides in elements.
Strides dense_strides(const Shape& shape);

// Axes in row-major order of the destination run fastest when the last has destination stride 1. Destination
// elements must be distinct. `element_bytes` is 1, 2, 4 or 8.
void run_strided_copy(StridedCopy copy, const void* from, void* to, size_t element_bytes, ThreadTeam& team);

// Splits `count` items of `cost` element operations each into chunks whose size depends on these numbers
// alone, and calls body(begin, end); inline when there is little to do.
void parallel_ranges(ThreadTeam& team, int64_t count, int64_t cost, FunctionRef<void(int64_t, int64_t)> body);

}  // namespace vertebra::cpu
