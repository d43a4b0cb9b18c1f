#include "backend/bounded_types.h"

#include <array>
#include <span>

namespace vertebra {

bool fits(const TensorType& actual, const TensorType& declared) {
  if (actual.dtype != declared.dtype || actual.shape.rank() != declared.shape.rank()) return false;
  for (int axis = 0; axis < actual.shape.rank(); ++axis) {
    const Dim& wanted = declared.shape.dim(axis);
    const int64_t size = actual.shape[axis];
    if (wanted.symbol == 0 ? size != wanted.size : size > wanted.size) return false;
  }
  return true;
}

TensorType at_bounds(const TensorType& type) {
  std::array<int64_t, Shape::kMaxRank> sizes{};
  for (int axis = 0; axis < type.shape.rank(); ++axis) sizes[static_cast<size_t>(axis)] = type.shape[axis];
  const auto rank = static_cast<size_t>(type.shape.rank());
  return {type.dtype, Shape(std::span<const int64_t>(sizes.data(), rank))};
}

}  // namespace vertebra
