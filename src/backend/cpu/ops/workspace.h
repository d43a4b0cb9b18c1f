// Cuts the workspace of a kernel's run into aligned pieces. The same code with a null base measures it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vertebra::cpu {

// Hands out pieces of a block of memory, each aligned to 64 bytes; with a null base it only counts.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}
  template <class T>
  T* take(int64_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

}  // namespace vertebra::cpu
