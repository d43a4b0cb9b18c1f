// Shapes: up to eight dimensions. A dimension may be *bounded*: its size is then an upper bound and
// it carries a symbol (1..255); every dimension with the same symbol has the same size at run time.
// Static dimensions carry symbol 0. A serving step is compiled once for N = bound tokens and run
// for any n up to it.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace vertebra {

struct Dim {
  int64_t size = 0;
  uint8_t symbol = 0;
  Dim() = default;
  Dim(int64_t size_in, uint8_t symbol_in = 0) : size(size_in), symbol(symbol_in) {}  // NOLINT: implicit
  bool operator==(const Dim&) const = default;
};

class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;
  // Throws invalid_argument for more than kMaxRank dimensions, a negative size, or more than
  // 2^59 elements.
  Shape(std::initializer_list<Dim> dims) : Shape(std::span<const Dim>(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const Dim> dims);
  explicit Shape(std::span<const int64_t> sizes);

  int rank() const { return rank_; }
  // Size (the bound, for a bounded dimension). A negative axis counts from the end.
  int64_t operator[](int axis) const { return dim(axis).size; }
  const Dim& dim(int axis) const { return dims_[static_cast<size_t>(axis < 0 ? axis + rank_ : axis)]; }
  void set_dim(int axis, Dim dim) { dims_[static_cast<size_t>(axis < 0 ? axis + rank_ : axis)] = dim; }
  std::span<const Dim> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  std::vector<int64_t> sizes() const;
  int64_t elements() const;  // product of the sizes; 1 for rank 0
  bool is_static() const;    // no bounded dimension
  void push_back(Dim dim);
  Shape without(int axis) const;

  bool operator==(const Shape& other) const;
  std::string to_string() const;  // "[4, 256]"; a bounded dimension prints as "n1<=512"

 private:
  std::array<Dim, kMaxRank> dims_{};
  int rank_ = 0;
};

// Element type and shape of a value in a graph or of a tensor.
struct TensorType {
  DType dtype = DType::kF32;
  Shape shape;
  bool operator==(const TensorType&) const = default;
  // A block-quantized type counts whole blocks: its last dimension is a multiple of their elements.
  size_t size_bytes() const {
    const BlockSize block = block_size(dtype);
    return static_cast<size_t>(shape.elements() / block.elements) * block.bytes;
  }
  std::string to_string() const;  // "f32[4, 256]"
};

}  // namespace vertebra
