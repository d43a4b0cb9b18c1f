#include "backend/reference/array.h"

namespace vertebra::reference {

Array::Array(DType dtype_in, Ints sizes_in) : dtype(dtype_in), sizes(std::move(sizes_in)) {
  const auto count = static_cast<size_t>(elements());
  if (floating()) {
    floats.assign(count, 0);
  } else {
    integers.assign(count, 0);
  }
}

int64_t Array::elements() const {
  int64_t total = 1;
  for (const int64_t size : sizes) total *= size;
  return total;
}

void Array::copy_element(int64_t i, const Array& from, int64_t j) {
  if (floating()) {
    floats[static_cast<size_t>(i)] = from.floats[static_cast<size_t>(j)];
  } else {
    integers[static_cast<size_t>(i)] = from.integers[static_cast<size_t>(j)];
  }
}

Array array_from(const Tensor& tensor, DType dtype) {
  if (is_block_quantized(dtype)) return array_from(tensor.to(DType::kF32), DType::kF32);
  Array out(dtype, tensor.shape().sizes());
  for (int64_t i = 0; i < out.elements(); ++i) {
    const auto at = static_cast<size_t>(i);
    if (out.floating()) {
      out.floats[at] = tensor.at(i);
    } else if (dtype == DType::kI64) {
      out.integers[at] = tensor.data<int64_t>()[at];
    } else {
      out.integers[at] = static_cast<int64_t>(tensor.at(i));
    }
  }
  return out;
}

Tensor tensor_from(const Array& array, DType dtype) {
  Tensor out(dtype, Shape(std::span<const int64_t>(array.sizes)));
  for (int64_t i = 0; i < array.elements(); ++i) {
    const auto at = static_cast<size_t>(i);
    if (array.floating()) {
      out.set(i, array.floats[at]);
    } else if (dtype == DType::kI64) {
      out.data<int64_t>()[at] = array.integers[at];
    } else {
      out.set(i, static_cast<double>(array.integers[at]));
    }
  }
  return out;
}

Ints strides_of(const Ints& sizes) {
  Ints out(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) out[i - 1] = out[i] * sizes[i];
  return out;
}

Ints position_of(int64_t index, const Ints& sizes) {
  Ints out(sizes.size());
  for (size_t i = sizes.size(); i-- > 0;) {
    out[i] = index % sizes[i];
    index /= sizes[i];
  }
  return out;
}

int64_t index_of(const Ints& position, const Ints& sizes) {
  int64_t out = 0;
  for (size_t i = 0; i < sizes.size(); ++i) out = out * sizes[i] + position[i];
  return out;
}

int64_t wrap(DType dtype, int64_t value) {
  switch (dtype) {
    case DType::kI32:
      return static_cast<int32_t>(value);
    case DType::kU32:
      return static_cast<uint32_t>(value);
    case DType::kI8:
      return static_cast<int8_t>(value);
    case DType::kU8:
      return static_cast<uint8_t>(value);
    case DType::kBool:
      return value != 0 ? 1 : 0;
    default:
      return value;
  }
}

double round_to(DType dtype, double value) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<float>(value);
    case DType::kBF16:
      return bf16_to_float(float_to_bf16(static_cast<float>(value)));
    case DType::kF16:
      return f16_to_float(float_to_f16(static_cast<float>(value)));
    default:
      return value;
  }
}

}  // namespace vertebra::reference
