// A tensor in host memory: dense, row-major, 64-byte aligned, shared between copies of the handle.
// Not a value in a graph (graph/graph.h) and not a buffer on a device (backend/backend.h).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "tensor/shape.h"

namespace vertebra {

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kF64;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<uint32_t> {
  static constexpr DType value = DType::kU32;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::kI8;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::kBool;
};

class Tensor {
 public:
  Tensor() = default;  // empty handle: no storage
  // Uninitialised elements. Throws resource_exhausted when memory runs out.
  explicit Tensor(TensorType type);
  Tensor(DType dtype, Shape shape) : Tensor(TensorType{dtype, shape}) {}

  static Tensor zeros(TensorType type);
  template <class T>
  static Tensor from(Shape shape, std::span<const T> values) {
    Tensor out(DTypeOf<T>::value, shape);
    require(static_cast<int64_t>(values.size()) == shape.elements(),
            "{} values given for a tensor of shape {}", values.size(), shape.to_string());
    std::copy(values.begin(), values.end(), out.data<T>().begin());
    return out;
  }
  template <class T>
  static Tensor from(Shape shape, std::initializer_list<T> values) {
    return from<T>(shape, std::span<const T>(values.begin(), values.size()));
  }
  template <class T>
  static Tensor scalar(T value) {
    return from<T>(Shape{}, {value});
  }
  // A view of memory that `owner` keeps alive (a mapped file). Must not be written to.
  static Tensor view(TensorType type, const void* data, std::shared_ptr<const void> owner);

  bool defined() const { return storage_ != nullptr; }
  const TensorType& type() const { return type_; }
  const Shape& shape() const { return type_.shape; }
  DType dtype() const { return type_.dtype; }
  int64_t elements() const { return type_.shape.elements(); }
  size_t size_bytes() const { return type_.size_bytes(); }
  void* raw() { return const_cast<void*>(storage_.get()); }
  const void* raw() const { return storage_.get(); }

  template <class T>
  std::span<T> data() {
    check_type(DTypeOf<std::remove_const_t<T>>::value);
    return {static_cast<T*>(raw()), static_cast<size_t>(elements())};
  }
  template <class T>
  std::span<const T> data() const {
    check_type(DTypeOf<std::remove_const_t<T>>::value);
    return {static_cast<const T*>(raw()), static_cast<size_t>(elements())};
  }
  // The bits of bf16 or f16 elements.
  std::span<uint16_t> bits16();
  std::span<const uint16_t> bits16() const;

  // Element i in row-major order, whatever the type.
  double at(int64_t i) const;
  void set(int64_t i, double value);  // rounds to the type
  Tensor clone() const;
  Tensor to(DType dtype) const;        // converted copy (this very handle when the type is the same)
  Tensor reshaped(Shape shape) const;  // same storage, same number of elements
  bool same_bits(const Tensor& other) const;

 private:
  void check_type(DType wanted) const;
  TensorType type_;
  std::shared_ptr<const void> storage_;
};

}  // namespace vertebra
