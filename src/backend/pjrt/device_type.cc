#include "backend/pjrt/device_type.h"

namespace vertebra::pjrt {
namespace {

Tensor viewed(const Tensor& tensor, const TensorType& type) {
  return Tensor::view(type, tensor.raw(), std::make_shared<const Tensor>(tensor));
}

}  // namespace

TensorType device_type(const TensorType& type) {
  if (!is_block_quantized(type.dtype)) return type;
  const BlockSize block = block_size(type.dtype);
  Shape shape = type.shape;
  const int last = shape.rank() - 1;
  shape.set_dim(last, type.shape[last] / block.elements * static_cast<int64_t>(block.bytes));
  return {DType::kU8, shape};
}

Tensor as_on_device(const Tensor& tensor) {
  return is_block_quantized(tensor.dtype()) ? viewed(tensor, device_type(tensor.type())) : tensor;
}

Tensor from_device(const Tensor& tensor, const TensorType& type) {
  return is_block_quantized(type.dtype) ? viewed(tensor, type) : tensor;
}

}  // namespace vertebra::pjrt
