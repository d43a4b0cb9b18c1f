// What this machine can do at most, measured: multiply-adds from registers and reads from memory, on all
// threads of a team. Benchmarks and training progress report their speed as a share of these.
#pragma once

#include "backend/cpu/kernels/kernels.h"
#include "base/thread_team.h"
#include "tensor/dtype.h"

namespace vertebra {

// Floating-point operations per second (a multiply-add is two) with f32 or bf16 operands and fp32 sums: the
// best of several runs, about 20 ms. bf16 without dot instructions runs at the f32 rate. Throws unimplemented
// for other element types.
double measure_fma_ceiling(DType dtype, ThreadTeam& team = global_thread_team(),
                           const KernelTable& table = kernels());

// Multiply-adds per second of unsigned by signed bytes into 32-bit sums, as the products of block-quantized
// weights do them.
double measure_int8_ceiling(ThreadTeam& team = global_thread_team(), const KernelTable& table = kernels());

// Bytes per second that reading a buffer again and again gives: the best of several passes, about 0.2 s for
// the 256 MiB that no cache holds. Throws resource_exhausted when the buffer cannot be had.
double measure_read_bandwidth(ThreadTeam& team = global_thread_team(), const KernelTable& table = kernels(),
                              int64_t size_bytes = int64_t{256} << 20);

}  // namespace vertebra
