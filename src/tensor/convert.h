// Whole tensors from one element type to another on all threads of the process: for loading and writing
// models. Not to be called inside of a region of the thread team.
#pragma once

#include "tensor/tensor.h"

namespace vertebra {

// From floats or blocks to floats or blocks; this very handle when the type is the same. The same bits for
// any number of threads. Throws invalid_argument when rows are no whole blocks of the wanted type.
Tensor convert(const Tensor& tensor, DType wanted);

}  // namespace vertebra
