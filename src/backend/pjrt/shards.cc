#include "backend/pjrt/shards.h"

#include <cstring>

namespace vertebra::pjrt {
namespace {

// Calls copy(offset in the whole, offset in the part, bytes) for each run of the part that lies together.
template <class Copy>
void for_each_run(const Shape& whole, std::span<const int64_t> start, const Shape& part, size_t element_bytes,
                  Copy&& copy) {
  if (part.elements() == 0) return;
  int inner = whole.rank();  // dimensions from here on are whole: one run
  size_t run = element_bytes;
  while (inner > 0 && part[inner - 1] == whole[inner - 1]) run *= static_cast<size_t>(part[--inner]);
  if (inner > 0) run *= static_cast<size_t>(part[--inner]);
  std::vector<int64_t> at(static_cast<size_t>(inner), 0);
  for (size_t in_part = 0;; in_part += run) {
    size_t in_whole = 0;
    for (int i = 0; i < whole.rank(); ++i) {
      const auto axis = static_cast<size_t>(i);
      in_whole = in_whole * static_cast<size_t>(whole[i]) +
                 static_cast<size_t>(start[axis] + (i < inner ? at[axis] : 0));
    }
    copy(in_whole * element_bytes, in_part, run);
    int axis = inner;
    while (axis-- > 0) {
      if (++at[static_cast<size_t>(axis)] < part[axis]) break;
      at[static_cast<size_t>(axis)] = 0;
    }
    if (axis < 0) return;
  }
}

}  // namespace

Tensor take_part(const Tensor& whole, std::span<const int64_t> start, const Shape& shape) {
  if (whole.shape() == shape) return whole;
  Tensor out(whole.dtype(), shape);
  const auto* from = static_cast<const std::byte*>(whole.raw());
  auto* to = static_cast<std::byte*>(out.raw());
  for_each_run(whole.shape(), start, shape, dtype_size(whole.dtype()),
               [&](size_t in_whole, size_t in_part, size_t bytes) {
                 std::memcpy(to + in_part, from + in_whole, bytes);
               });
  return out;
}

void put_part(Tensor& whole, std::span<const int64_t> start, const Tensor& part) {
  const auto* from = static_cast<const std::byte*>(part.raw());
  auto* to = static_cast<std::byte*>(whole.raw());
  for_each_run(whole.shape(), start, part.shape(), dtype_size(whole.dtype()),
               [&](size_t in_whole, size_t in_part, size_t bytes) {
                 std::memcpy(to + in_whole, from + in_part, bytes);
               });
}

}  // namespace vertebra::pjrt
