// Values of the reference evaluation: double for floating-point types, exact integers for the others.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace vertebra::reference {

using Ints = std::vector<int64_t>;

struct Array {
  DType dtype = DType::kF32;
  Ints sizes;
  std::vector<double> floats;     // for floating-point types
  std::vector<int64_t> integers;  // for integers and bool

  Array() = default;
  Array(DType dtype_in, Ints sizes_in);  // zeros
  bool floating() const { return is_float(dtype); }
  int64_t elements() const;
  int rank() const { return static_cast<int>(sizes.size()); }
  // Element i becomes element j of `from` (of the same kind).
  void copy_element(int64_t i, const Array& from, int64_t j);
};

// A block-quantized tensor becomes its values.
Array array_from(const Tensor& tensor, DType dtype);
Tensor tensor_from(const Array& array, DType dtype);

// Row-major strides, and the position of element `index`.
Ints strides_of(const Ints& sizes);
Ints position_of(int64_t index, const Ints& sizes);
int64_t index_of(const Ints& position, const Ints& sizes);

// The value that integer arithmetic of that type leaves (two's complement).
int64_t wrap(DType dtype, int64_t value);
double round_to(DType dtype, double value);

}  // namespace vertebra::reference
