// How a matrix product is cut into work: what is packed where, parts, items, and the memory for it. Made by
// gemm_plan.cc from shapes alone; gemm.cc carries it out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/gemm.h"

namespace vertebra {

enum class GemmPacking : uint8_t {
  kNone,     // read as given (a few rows of A, or B for a few rows of A), or packed before
  kShared,   // packed by everybody before the multiplication
  kWorker,   // packed whole by every worker for itself: no lines move between the caches of cores
  kPrivate,  // packed by each item for itself: exactly one item reads it
};

// Everything that follows from the shapes; no pointers but the table's.
struct GemmPlan {
  const GemmKernels* kernels;
  GemmForm form;
  bool a_widen;
  int64_t block_depth, blocks;     // K: at least one block, which may be empty
  int64_t tiles, tile_rows;        // of M
  int64_t panels;                  // of N
  size_t tile_bytes, panel_bytes;  // packed over all of K
  GemmPacking a, b;
  bool b_direct;                    // read as given
  bool scratch;                     // partial sums cannot wait in C
  int64_t part_tiles, part_panels;  // packed and multiplied at a time
  int64_t part_batch;
  int64_t item_tiles, item_panels;
  size_t shared_a_bytes, shared_b_bytes, private_a_bytes, private_b_bytes, scratch_bytes;

  size_t worker_bytes() const { return private_a_bytes + private_b_bytes + scratch_bytes; }
  size_t bytes(int threads) const {
    return kAlignment + shared_a_bytes + shared_b_bytes + static_cast<size_t>(threads) * worker_bytes();
  }

  static constexpr size_t kAlignment = 64;
};

GemmPlan make_gemm_plan(const GemmArgs& args, int threads, const KernelTable& table);
// Bytes that serve the plans of these arguments with any m up to args.m.
size_t gemm_plan_bound(const GemmArgs& args, int threads, const KernelTable& table);

inline DType gemm_b_dtype(const GemmArgs& args) {
  return args.b_packed != nullptr ? args.b_packed->dtype() : args.b_dtype;
}

// Bytes of one slot over `depth` steps of k.
constexpr int64_t gemm_a_slot_bytes(GemmForm form, int64_t depth) {
  return (depth + 1) / 2 * (form == GemmForm::kBf16Pairs ? 4 : 8);
}
constexpr int64_t gemm_b_slot_bytes(GemmForm form, int64_t depth) {
  return form == GemmForm::kF32 ? depth * 4 : (depth + 1) / 2 * 4;
}

}  // namespace vertebra
