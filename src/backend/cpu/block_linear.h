// Products of f32 rows and block-quantized weights on the CPU: rounding of the rows, blocking and threads
// around kernels/block_product.h. Several weights that read the same rows are one parallel region. Called by
// the linear layers' kernels.
//
// The rows are rounded to 8-bit integers with a scale for each block of the weight's type, as llama.cpp does.
// A row gives the same bits alone or among others, with any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/cpu/kernels/gemm.h"
#include "base/thread_team.h"
#include "tensor/dtype.h"

namespace vertebra {

struct BlockWeight {
  DType dtype;
  int64_t n;                // rows of the weight, columns of the result
  const std::byte* panels;  // of block_matrix.h
  GemmFinish finish;        // out is [m, n]
};

// x [m, k] row-major; k a multiple of every weight's block.
struct BlockLinearArgs {
  int64_t m, k;
  const float* x;
  std::span<const BlockWeight> weights;
};

// Enough for any m up to args.m; pointers are not read.
size_t block_linear_workspace_bytes(const BlockLinearArgs& args, int threads);
// `workspace`: that many bytes, aligned to 64. Allocates nothing.
void block_linear(const BlockLinearArgs& args, std::byte* workspace, ThreadTeam& team);

}  // namespace vertebra
