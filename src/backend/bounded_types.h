// Bounded dimensions (docs/decisions/0002) as every backend meets them when buffers are bound: which actual
// types fit a declared one.
#pragma once

#include "tensor/shape.h"

namespace vertebra {

// "f32[3, 4]" fits "f32[n1<=8, 4]": same element type and static sizes, the rest within the bounds.
bool fits(const TensorType& actual, const TensorType& declared);
// The type at its bounds, without symbols. Allocates nothing.
TensorType at_bounds(const TensorType& type);

}  // namespace vertebra
