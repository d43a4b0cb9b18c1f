// What the machine can do at most, for backend/cpu/ceiling.cc to time.
#pragma once

#include <cstdint>

namespace vertebra {

struct CeilingKernels {
  // Runs `rounds` rounds of independent multiply-adds in registers; one round is flops_per_round operations
  // (a multiply-add counts as two). The result only keeps the work alive.
  float (*multiply_add_f32)(int64_t rounds);
  float (*multiply_add_bf16)(int64_t rounds);  // the f32 one where bf16 has no dot instruction
  int64_t flops_per_round_f32, flops_per_round_bf16;
  // The same for products of unsigned and signed bytes, four added to a 32-bit sum; a round is as many
  // multiply-adds as said.
  int32_t (*multiply_add_int8)(int64_t rounds);
  int64_t multiply_adds_per_round_int8;
  // Reads `size` bytes, a multiple of 1024.
  float (*read)(const void* from, int64_t size);
};

}  // namespace vertebra
