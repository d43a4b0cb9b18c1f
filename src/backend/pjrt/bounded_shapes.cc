#include "backend/pjrt/bounded_shapes.h"

#include <algorithm>
#include <cstring>

#include "backend/bounded_types.h"

namespace vertebra::pjrt {
namespace {

// Copies the block that both have, axis by axis.
void copy_block(const std::byte* from, std::byte* to, std::span<const int64_t> from_sizes,
                std::span<const int64_t> to_sizes, size_t element_bytes) {
  if (from_sizes.empty()) {
    std::memcpy(to, from, element_bytes);
    return;
  }
  const int64_t both = std::min(from_sizes[0], to_sizes[0]);
  if (from_sizes.size() == 1 || std::equal(from_sizes.begin() + 1, from_sizes.end(), to_sizes.begin() + 1)) {
    size_t row = element_bytes;
    for (const int64_t size : from_sizes.subspan(1)) row *= static_cast<size_t>(size);
    if (both > 0 && row > 0) std::memcpy(to, from, static_cast<size_t>(both) * row);
    return;
  }
  size_t from_row = element_bytes, to_row = element_bytes;
  for (const int64_t size : from_sizes.subspan(1)) from_row *= static_cast<size_t>(size);
  for (const int64_t size : to_sizes.subspan(1)) to_row *= static_cast<size_t>(size);
  for (int64_t i = 0; i < both; ++i) {
    const auto at = static_cast<size_t>(i);
    copy_block(from + at * from_row, to + at * to_row, from_sizes.subspan(1), to_sizes.subspan(1),
               element_bytes);
  }
}

}  // namespace

int64_t bucket_size(int64_t size, int64_t bound) {
  int64_t bucket = bound;
  while (bucket > 1 && (bucket + 3) / 4 >= size) bucket = (bucket + 3) / 4;
  return std::max<int64_t>(bucket, 1);
}

TensorType padded_type(const TensorType& actual, const TensorType& declared) {
  TensorType out = at_bounds(actual);
  for (int axis = 0; axis < out.shape.rank(); ++axis) {
    const Dim dim = declared.shape.dim(axis);
    if (dim.symbol != 0) out.shape.set_dim(axis, bucket_size(actual.shape[axis], dim.size));
  }
  return out;
}

Tensor resized(const Tensor& tensor, const Shape& shape) {
  if (tensor.shape() == shape) return tensor;
  Tensor out = Tensor::zeros({tensor.dtype(), shape});
  const std::vector<int64_t> from = tensor.shape().sizes(), to = shape.sizes();
  if (tensor.elements() > 0 && out.elements() > 0)
    copy_block(static_cast<const std::byte*>(tensor.raw()), static_cast<std::byte*>(out.raw()), from, to,
               dtype_size(tensor.dtype()));
  return out;
}

}  // namespace vertebra::pjrt
