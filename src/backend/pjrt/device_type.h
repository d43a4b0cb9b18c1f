// How tensors lie in a device's memory: as they are, but for block-quantized ones, whose rows are bytes
// there, since StableHLO has no such types.
#pragma once

#include "tensor/tensor.h"

namespace vertebra::pjrt {

// u8[.., bytes of a row] for a block-quantized type, any other unchanged.
TensorType device_type(const TensorType& type);
// The same memory under device_type of its type, and back: `type` is what it was.
Tensor as_on_device(const Tensor& tensor);
Tensor from_device(const Tensor& tensor, const TensorType& type);

}  // namespace vertebra::pjrt
