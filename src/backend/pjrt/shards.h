// Parts of host tensors: what each device of a mesh gets, and the whole from the parts.
#pragma once

#include <span>

#include "tensor/tensor.h"

namespace vertebra::pjrt {

// The part of that shape which begins at `start`; the tensor itself when that is all of it.
Tensor take_part(const Tensor& whole, std::span<const int64_t> start, const Shape& shape);
// Puts a part back to where it begins. Types are alike.
void put_part(Tensor& whole, std::span<const int64_t> start, const Tensor& part);

}  // namespace vertebra::pjrt
