// Matrix multiplication on the CPU: blocking, packing, threads and workspace around the register tiles of
// kernels/gemm.h. Called by the matmul ops' kernels, attention, and the fused head of the loss.
//
// The sum of an output element is taken in an order that K, the element types and the instruction set decide:
// blocks of K of a fixed length, inside a block one fused multiply-add after another in ascending k (pairs of
// k for bf16 dot instructions), blocks added in order. So a row gives the same bits alone or among others,
// with any number of threads, and from a packed or an unpacked B: cached decoding equals the full forward
// pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include "backend/cpu/kernels/gemm.h"
#include "backend/cpu/kernels/kernels.h"
#include "base/thread_team.h"
#include "tensor/dtype.h"

namespace vertebra {

// B[K,N] in the layout the kernels of one instruction set read: done once for weights. Owns its memory.
class PackedMatrix {
 public:
  int64_t k() const { return k_; }
  int64_t n() const { return n_; }
  DType dtype() const { return dtype_; }
  Isa isa() const { return isa_; }
  size_t size_bytes() const { return size_bytes_; }
  const void* data() const { return data_.get(); }

 private:
  friend void pack_b(PackedMatrix&, const void*, DType, int64_t, int64_t, int64_t, bool, ThreadTeam&,
                     const KernelTable&);
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  int64_t k_ = 0, n_ = 0;
  DType dtype_ = DType::kF32;
  Isa isa_ = Isa::kBaseline;
  size_t size_bytes_ = 0, capacity_bytes_ = 0;
  std::unique_ptr<void, Free> data_;
};

// Packs B: [k, n] row-major with ldb >= n, or [n, k] with ldb >= k when transposed (a torch Linear weight).
// dtype f32 or bf16. `packed` keeps its memory when it is large enough, so that repeated packing of changing
// weights allocates nothing. Throws invalid_argument, resource_exhausted.
void pack_b(PackedMatrix& packed, const void* b, DType dtype, int64_t k, int64_t n, int64_t ldb,
            bool transposed, ThreadTeam& team, const KernelTable& table = kernels());

// C = act(alpha op(A) op(B) [+ C] + bias) + residual, for each of `batch` problems.
// op(A) is [m, k], op(B) [k, n], C and residual [m, n], bias [n]; all row-major, leading dimensions (ld*, in
// elements) at least the row length. f32 or bf16 each, in any combination; sums are fp32. With an fp32 A or B
// the products are fp32 products; with both bf16 they are exact bf16 products where the instruction set has
// bf16 dot products, fp32 ones of the same values elsewhere. C may be the same memory as residual; otherwise
// C overlaps no operand.
struct GemmArgs {
  int64_t m = 0, n = 0, k = 0, batch = 1;

  const void* a = nullptr;
  DType a_dtype = DType::kF32;
  int64_t lda = 0;
  bool a_transposed = false;  // stored [k, m]
  int64_t a_batch_stride = 0;

  const void* b = nullptr;
  DType b_dtype = DType::kF32;
  int64_t ldb = 0;
  bool b_transposed = false;  // stored [n, k]
  int64_t b_batch_stride = 0;
  const PackedMatrix* b_packed = nullptr;  // instead of b, ldb and b_transposed; one for the whole batch

  void* c = nullptr;
  DType c_dtype = DType::kF32;
  int64_t ldc = 0;
  int64_t c_batch_stride = 0;

  float alpha = 1;
  bool accumulate = false;  // add to what C holds
  const void* bias = nullptr;
  DType bias_dtype = DType::kF32;
  const void* residual = nullptr;
  DType residual_dtype = DType::kF32;
  int64_t ldr = 0;
  int64_t residual_batch_stride = 0;
  GemmActivation activation = GemmActivation::kNone;
};

// Enough for these arguments with any m up to args.m. Pointers are not read, but b_packed's presence counts.
size_t gemm_workspace_bytes(const GemmArgs& args, int threads, const KernelTable& table = kernels());

// `workspace`: at least gemm_workspace_bytes, any alignment; contents are lost. Allocates nothing. Throws
// invalid_argument when the arguments contradict each other, unimplemented for other element types.
void gemm(const GemmArgs& args, std::span<std::byte> workspace, ThreadTeam& team,
          const KernelTable& table = kernels());

}  // namespace vertebra
