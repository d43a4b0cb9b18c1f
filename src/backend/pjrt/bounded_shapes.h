// Bounded dimensions on a device that knows static shapes only: which padded size (bucket) a device buffer
// gets, and the copies between actual and padded tensors on the host.
#pragma once

#include "tensor/tensor.h"

namespace vertebra::pjrt {

// Buckets are the bound, a quarter of it, a sixteenth, ..., at least 1: the smallest that holds `size`. Steps
// of 4 keep the number of executables small (a serving step has two bounded dimensions: 5 x 3 of them for 256
// tokens and 8 requests); a decoding step of one token is padded by nothing, the worst case by 4.
int64_t bucket_size(int64_t size, int64_t bound);
// The padded type of a device buffer of that actual type.
TensorType padded_type(const TensorType& actual, const TensorType& declared);

// The tensor cut or padded with zeros to the sizes.
Tensor resized(const Tensor& tensor, const Shape& shape);

}  // namespace vertebra::pjrt
