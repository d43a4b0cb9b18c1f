#include "tensor/tensor.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/progress.h"
#include "tensor/block_quant.h"

namespace vertebra {

Tensor::Tensor(TensorType type) : type_(type) {
  const size_t rounded = (std::max<size_t>(type.size_bytes(), 1) + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, rounded);
  require(memory != nullptr, Code::kResourceExhausted, "out of memory: {} for a tensor {}",
          format_bytes(rounded), type.to_string());
  storage_ = std::shared_ptr<const void>(memory, [](const void* p) { std::free(const_cast<void*>(p)); });
}

Tensor Tensor::zeros(TensorType type) {
  Tensor out(type);
  std::memset(out.raw(), 0, out.size_bytes());
  return out;
}

Tensor Tensor::view(TensorType type, const void* data, std::shared_ptr<const void> owner) {
  Tensor out;
  out.type_ = type;
  out.storage_ = std::shared_ptr<const void>(std::move(owner), data);
  return out;
}

void Tensor::check_type(DType wanted) const {
  VERTEBRA_CHECK(defined() && dtype() == wanted, "a tensor was read as another type than its own");
}

std::span<uint16_t> Tensor::bits16() {
  VERTEBRA_CHECK(dtype_size(dtype()) == 2, "bits16 of a tensor that is not 16 bits wide");
  return {static_cast<uint16_t*>(raw()), static_cast<size_t>(elements())};
}

std::span<const uint16_t> Tensor::bits16() const {
  VERTEBRA_CHECK(dtype_size(dtype()) == 2, "bits16 of a tensor that is not 16 bits wide");
  return {static_cast<const uint16_t*>(raw()), static_cast<size_t>(elements())};
}

double Tensor::at(int64_t i) const {
  VERTEBRA_CHECK(i >= 0 && i < elements(), "tensor index out of range");
  const auto at_index = [&]<class T>(T) { return static_cast<double>(static_cast<const T*>(raw())[i]); };
  switch (dtype()) {
    case DType::kF32:
      return at_index(float{});
    case DType::kF64:
      return at_index(double{});
    case DType::kBF16:
      return bf16_to_float(bits16()[static_cast<size_t>(i)]);
    case DType::kF16:
      return f16_to_float(bits16()[static_cast<size_t>(i)]);
    case DType::kI64:
      return at_index(int64_t{});
    case DType::kI32:
      return at_index(int32_t{});
    case DType::kU32:
      return at_index(uint32_t{});
    case DType::kI8:
      return at_index(int8_t{});
    case DType::kU8:
    case DType::kBool:
      return at_index(uint8_t{});
    default: {
      const BlockSize block = block_size(dtype());
      std::array<float, kMaxBlockElements> values;
      dequantize(
          dtype(),
          static_cast<const std::byte*>(raw()) + i / block.elements * static_cast<int64_t>(block.bytes),
          std::span(values).first(static_cast<size_t>(block.elements)));
      return values[static_cast<size_t>(i % block.elements)];
    }
  }
}

void Tensor::set(int64_t i, double value) {
  VERTEBRA_CHECK(i >= 0 && i < elements(), "tensor index out of range");
  const auto store = [&]<class T>(T converted) { static_cast<T*>(raw())[i] = converted; };
  switch (dtype()) {
    case DType::kF32:
      return store(static_cast<float>(value));
    case DType::kF64:
      return store(value);
    case DType::kBF16:
      return store(float_to_bf16(static_cast<float>(value)));
    case DType::kF16:
      return store(float_to_f16(static_cast<float>(value)));
    case DType::kI64:
      return store(static_cast<int64_t>(value));
    case DType::kI32:
      return store(static_cast<int32_t>(value));
    case DType::kU32:
      return store(static_cast<uint32_t>(value));
    case DType::kI8:
      return store(static_cast<int8_t>(value));
    case DType::kU8:
      return store(static_cast<uint8_t>(value));
    case DType::kBool:
      return store(static_cast<uint8_t>(value != 0));
    default:
      VERTEBRA_CHECK(false, "single elements of a block-quantized tensor cannot be set");
  }
}

Tensor Tensor::clone() const {
  Tensor out(type_);
  std::memcpy(out.raw(), raw(), size_bytes());
  return out;
}

Tensor Tensor::to(DType wanted) const {
  if (wanted == dtype()) return *this;
  if (is_block_quantized(dtype())) {
    Tensor values(DType::kF32, shape());
    dequantize(dtype(), raw(), values.data<float>());
    return values.to(wanted);
  }
  Tensor out(wanted, shape());
  for (int64_t i = 0; i < elements(); ++i) out.set(i, at(i));
  return out;
}

Tensor Tensor::reshaped(Shape wanted) const {
  require(wanted.elements() == elements(), "a tensor of shape {} cannot be reshaped to {}",
          shape().to_string(), wanted.to_string());
  Tensor out = *this;
  out.type_.shape = wanted;
  return out;
}

bool Tensor::same_bits(const Tensor& other) const {
  return type() == other.type() && std::memcmp(raw(), other.raw(), size_bytes()) == 0;
}

}  // namespace vertebra
