// Host memory that holds one tensor, as the CPU backend's Buffer: row-major, or as panels where the type is
// block-quantized (block_matrix.h). Made by the backend, bound to inputs and
// outputs by the executable.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/cpu/gemm.h"
#include "base/large_memory.h"

namespace vertebra::cpu {

// Bytes of a value of that type where it lies in memory.
size_t stored_bytes(const TensorType& type);

class CpuBuffer final : public Buffer {
 public:
  // Able to hold the type at its bounds; its own type starts as that. Throws resource_exhausted.
  CpuBuffer(const TensorType& declared, ThreadTeam& team);

  const TensorType& type() const override { return type_; }
  Tensor to_host() const override;
  // Throws invalid_argument unless the tensor has the declared type, bounded dimensions at most their bounds.
  void copy_from(const Tensor& host) override;

  std::byte* data() { return memory_.get(); }
  size_t capacity_bytes() const { return capacity_bytes_; }
  // The buffer is about to be written as an output of that type.
  void begin_write(const TensorType& type) {
    type_ = type;
    ++version_;
  }
  // Its matrix [N, K] of f32 or bf16, rounded to `dtype`, as gemm's packed B; packed when first asked for and
  // after each write.
  const PackedMatrix& packed(DType dtype, ThreadTeam& team);

  // Which input of which run the buffer was last bound to; the executable finds wrongly shared buffers by it.
  struct Binding {
    uint64_t run = 0;
    int input = -1;
  };
  Binding binding;

 private:
  ThreadTeam& team_;
  TensorType declared_, type_;
  size_t capacity_bytes_ = 0;
  uint64_t version_ = 1;  // counts writes
  struct Packed {
    PackedMatrix matrix;
    uint64_t version = 0;  // of what is packed
  };
  Packed packed_[2];  // f32, bf16
  LargeMemory memory_;
};

}  // namespace vertebra::cpu
