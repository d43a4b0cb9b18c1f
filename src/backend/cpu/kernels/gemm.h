// The inner parts of matrix multiplication: packing into panels, and a block of C from packed panels for one
// block of K. Called by backend/cpu/gemm.cc, which owns blocking, threads and workspace.
//
// Panels hold `width` slots (rows of A or columns of B) side by side for each step of k; a step is one k of
// fp32, or two consecutive k of bf16 in one 32-bit word. Element (slot, step) lies at [step * width + slot];
// unused slots and an odd last k are zero.
#pragma once

#include <cstdint>

namespace vertebra {

// What multiplies what; decides the layout of both panels. Sums are fp32.
enum class GemmForm : uint8_t {
  kF32,        // fp32 panels, fused multiply-add in ascending k
  kF32ByBf16,  // fp32 A (or bf16 widened while packing), bf16 pairs in B, widened in registers; ascending k
  kBf16Pairs,  // bf16 pairs in both, one dot instruction a pair; only where GemmKernels::bf16_dot
};

enum class GemmActivation : uint8_t { kNone, kSilu, kGeluTanh, kGeluErf };

// One panel to pack.
struct GemmPackJob {
  const void* source;  // the first slot's element at the first k
  int64_t stride;      // elements between slots when k is contiguous, else between consecutive k
  bool k_contiguous;   // A[M,K] and B[N,K]; else A[K,M] and B[K,N]
  bool source_is_bf16;
  bool widen;     // bf16 source to fp32 panel
  int64_t slots;  // valid slots, at most width
  int64_t width;
  int64_t depth;  // number of k; fp32 panels get a zero step after an odd depth if pad_even
  bool pad_even;
  int64_t ahead;  // how far ahead of what it reads the next data lie, in elements: fetched meanwhile
  void* panel;    // 64-byte aligned
};

// The last steps of an output element, in this order: act(sum + bias) + residual, then rounding.
struct GemmFinish {
  const void* bias;      // [cols] or null
  const void* residual;  // [rows, cols] or null
  int64_t residual_stride;
  void* out;
  int64_t out_stride;
  GemmActivation activation;
  bool bias_is_bf16;
  bool residual_is_bf16;
  bool out_is_bf16;
};

// How a block finds its part of B. As given only with whole pairs: an even depth of bf16.
enum class GemmB : uint8_t {
  kPanels,       // packed
  kKContiguous,  // as given, B[N,K]: all of K in one call, summed in blocks all the same
  kNContiguous,  // as given, B[K,N]
};

// rows x cols of C over one block of K: partial' = partial + alpha * (A . B), where the product's sum starts
// at zero and runs in ascending k. On the last block `finish` follows.
struct GemmBlock {
  GemmForm form;
  bool a_direct;    // A as given, k contiguous: row i at a + i * a_stride; else packed tiles
  bool rows_outer;  // loop order: keep A's tile, or B's panel, in the first-level cache
  int64_t rows, cols, depth;
  int64_t tile_rows;  // rows of a packed tile, at most GemmKernels::tile_rows
  const void* a;
  int64_t a_stride;  // direct: elements between rows; packed: 32-bit words between tiles
  GemmB b_layout;
  const void* b;
  int64_t b_stride;  // packed: 32-bit words between panels; else elements between columns or consecutive k
  float alpha;
  const float* partial_in;  // null: starts at zero; may equal partial_out
  int64_t partial_in_stride;
  float* partial_out;  // where the sum goes unless finish is given
  int64_t partial_out_stride;
  const GemmFinish* finish;  // null: more blocks of K follow, or nothing but fp32 storing is left to do
};

struct GemmKernels {
  int32_t tile_rows;      // rows of C in registers
  int32_t tile_width;     // slots of an A panel (tile_rows rounded up to a vector)
  int32_t panel_width;    // columns of C in registers, slots of a B panel
  int32_t block_steps;    // steps of k in a block: fixed, because it decides the order of sums
  int32_t direct_rows;    // rows of a block whose B is as given, at most
  int32_t direct_a_rows;  // of them, as many may have a direct A
  int32_t direct_sums;    // its rows x columns rounded up to a panel, at most
  bool bf16_dot;
  void (*pack)(const GemmPackJob& job);
  void (*block)(const GemmBlock& block);
};

}  // namespace vertebra
