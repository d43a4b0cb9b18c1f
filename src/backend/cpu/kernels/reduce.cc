#include "backend/cpu/kernels/reduce.h"

#include "backend/cpu/kernels/math.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

using F = hn::ScalableTag<float>;
using V = hn::Vec<F>;
constexpr int64_t kChunk = 1024;

// At most kChunk elements, in four interleaved sums; `f` is applied to each element first.
template <class Map>
float sum_chunk(const float* x, int64_t size, Map f) {
  const F d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
    s0 = hn::Add(s0, f(hn::LoadU(d, x + i)));
    s1 = hn::Add(s1, f(hn::LoadU(d, x + i + lanes)));
    s2 = hn::Add(s2, f(hn::LoadU(d, x + i + 2 * lanes)));
    s3 = hn::Add(s3, f(hn::LoadU(d, x + i + 3 * lanes)));
  }
  for (; i + lanes <= size; i += lanes) s0 = hn::Add(s0, f(hn::LoadU(d, x + i)));
  if (i < size) s1 = hn::Add(s1, f(load_part(d, x + i, size - i)));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

// sums[level] holds the sum of 2^level chunks when bit `level` of the count is set.
template <class Map>
float sum_pairwise(const float* x, int64_t size, Map f) {
  constexpr int kLevels = 54;
  float sums[kLevels];
  int64_t count = 0;
  for (int64_t i = 0; i < size; i += kChunk, ++count) {
    float part = sum_chunk(x + i, min_of(kChunk, size - i), f);
    int level = 0;
    for (; (count >> level & 1) != 0; ++level) part = sums[level] + part;
    sums[level] = part;
  }
  float total = 0;
  bool first = true;
  for (int level = 0; count >> level != 0; ++level) {
    if ((count >> level & 1) == 0) continue;
    total = first ? sums[level] : sums[level] + total;
    first = false;
  }
  return total;
}

float sum(const float* x, int64_t size) {
  return sum_pairwise(x, size, [](V v) HWY_ATTR { return v; });
}

float sum_of_squares(const float* x, int64_t size) {
  return sum_pairwise(x, size, [](V v) HWY_ATTR { return hn::Mul(v, v); });
}

float max(const float* x, int64_t size) {
  const F d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const float lowest = -float_of_bits(0x7f800000);
  V m = hn::Set(d, lowest), nan = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const V v = hn::LoadU(d, x + i);
    m = hn::IfThenElse(hn::Lt(m, v), v, m);
    nan = hn::IfThenElse(hn::IsNaN(v), v, nan);
  }
  float out = hn::GetLane(hn::MaxOfLanes(d, m));
  // A NaN survives the sum of what is otherwise zeros.
  const float broken = hn::GetLane(hn::SumOfLanes(d, nan));
  if (broken != 0) return broken;
  for (; i < size; ++i) {
    if (x[i] != x[i]) return x[i];
    out = max_of(out, x[i]);
  }
  return out;
}

}  // namespace

constinit extern const ReduceKernels reduce_kernels = {
    .sum = sum, .sum_of_squares = sum_of_squares, .max = max};

}  // namespace vertebra::VERTEBRA_ISA
