#include "tensor/shape.h"

#include "base/error.h"

namespace vertebra {

Shape::Shape(std::span<const Dim> dims) {
  for (const Dim& dim : dims) push_back(dim);
}

Shape::Shape(std::span<const int64_t> sizes) {
  for (const int64_t size : sizes) push_back(Dim(size));
}

void Shape::push_back(Dim dim) {
  require(rank_ < kMaxRank, "a shape has more than {} dimensions", kMaxRank);
  require(dim.size >= 0, "dimension {} of a shape is negative: {}", rank_, dim.size);
  dims_[static_cast<size_t>(rank_++)] = dim;
  int64_t total = 1;
  for (const Dim& each : dims()) {
    require(each.size == 0 || total <= (int64_t{1} << 59) / each.size, "shape {} has more than 2^59 elements",
            to_string());
    total *= each.size;
  }
}

std::vector<int64_t> Shape::sizes() const {
  std::vector<int64_t> out;
  for (const Dim& dim : dims()) out.push_back(dim.size);
  return out;
}

int64_t Shape::elements() const {
  int64_t total = 1;
  for (const Dim& dim : dims()) total *= dim.size;
  return total;
}

bool Shape::is_static() const {
  for (const Dim& dim : dims()) {
    if (dim.symbol != 0) return false;
  }
  return true;
}

Shape Shape::without(int axis) const {
  if (axis < 0) axis += rank_;
  Shape out;
  for (int i = 0; i < rank_; ++i) {
    if (i != axis) out.push_back(dim(i));
  }
  return out;
}

bool Shape::operator==(const Shape& other) const {
  if (rank_ != other.rank_) return false;
  for (int i = 0; i < rank_; ++i) {
    if (!(dim(i) == other.dim(i))) return false;
  }
  return true;
}

std::string Shape::to_string() const {
  std::string out = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) out += ", ";
    out += dim(i).symbol == 0 ? fmt::format("{}", dim(i).size)
                              : fmt::format("n{}<={}", dim(i).symbol, dim(i).size);
  }
  return out + "]";
}

std::string TensorType::to_string() const { return std::string(dtype_name(dtype)) + shape.to_string(); }

}  // namespace vertebra
