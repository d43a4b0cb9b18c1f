// What the kernels on rows of f32 share: which nodes they take, how rows are cut into tasks (by shape alone),
// and results that are rounded to bf16 as they are stored.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/convert.h"
#include "backend/cpu/kernels/kernels.h"

namespace vertebra::cpu {

// Every floating-point operand and result is f32.
inline bool all_f32(const Node& node) {
  const auto fits = [](DType dtype) { return dtype == DType::kF32 || !is_float(dtype); };
  return std::all_of(node.operands.begin(), node.operands.end(), [&](Value v) { return fits(v.dtype()); }) &&
         std::all_of(node.results.begin(), node.results.end(), [&](const auto& t) { return fits(t.dtype); });
}

struct Rows {
  int64_t count, size;
  explicit Rows(const Shape& shape) : count(1), size(shape.rank() == 0 ? 1 : shape[-1]) {
    for (int axis = 0; axis + 1 < shape.rank(); ++axis) count *= shape[axis];
  }
};

// Calls body(first, count, worker) for pieces of [0, total), each of `piece` or what is left.
template <class Body>
void for_worker_pieces(ThreadTeam& team, int64_t total, int64_t piece, const Body& body) {
  team.parallel_for((total + piece - 1) / piece, [&](int64_t index, int worker) {
    body(index * piece, std::min(piece, total - index * piece), worker);
  });
}
// The same for bodies that do not ask which worker they run on: body(first, count).
template <class Body>
void for_pieces(ThreadTeam& team, int64_t total, int64_t piece, const Body& body) {
  for_worker_pieces(team, total, piece, [&](int64_t first, int64_t count, int) { body(first, count); });
}

// A result that is computed as f32 and lies in memory as f32 or, rounded, as bf16: elements from `at` on are
// computed at target(), then finish() has them where they belong. `buffer` holds `count` floats.
class FloatRow {
 public:
  FloatRow(const TensorRef& result, int64_t at, int64_t count, float* buffer)
      : rounded_(result.type.dtype == DType::kBF16 ? result.as<uint16_t>() + at : nullptr),
        target_(rounded_ == nullptr ? result.as<float>() + at : buffer),
        count_(count) {}
  float* target() const { return target_; }
  void finish() const {
    if (rounded_ != nullptr) kernels().convert->f32_to_bf16(target_, rounded_, count_);
  }

 private:
  uint16_t* rounded_;
  float* target_;
  int64_t count_;
};

// Rows of `size` elements per task, so that a task is worth handing out.
inline int64_t rows_per_piece(int64_t size) {
  constexpr int64_t kElements = 16384;
  return std::max<int64_t>(1, kElements / std::max<int64_t>(size, 1));
}

}  // namespace vertebra::cpu
