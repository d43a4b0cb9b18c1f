// Walking a row of f32 in whole vectors and one partial vector at the end, for kernels/*.cc only. An
// element's place in its vector is decided by its index alone.
#pragma once

#include "backend/cpu/kernels/math.h"
#include "backend/cpu/kernels/simd.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

using RowTag = hn::ScalableTag<float>;
using RowVector = hn::Vec<RowTag>;

// How a body of for_vectors reads and writes its elements: a whole vector, or the `count` that are left (the
// other lanes read as 0).
struct WholeVector {
  static constexpr bool kPart = false;
  HWY_INLINE RowVector load(const float* from) const { return hn::LoadU(RowTag(), from); }
  HWY_INLINE void store(RowVector v, float* to) const { hn::StoreU(v, RowTag(), to); }
};
struct PartOfVector {
  static constexpr bool kPart = true;
  int64_t count;
  HWY_INLINE RowVector load(const float* from) const { return load_part(RowTag(), from, count); }
  HWY_INLINE void store(RowVector v, float* to) const { store_part(RowTag(), v, to, count); }
};

// body(i, access) for i = 0, lanes, 2 lanes, ... below size.
template <class Body>
HWY_INLINE void for_vectors(int64_t size, const Body& body) {
  constexpr int64_t lanes = hn::MaxLanes(RowTag());
  int64_t i = 0;
  for (; i + lanes <= size; i += lanes) body(i, WholeVector());
  if (i < size) body(i, PartOfVector{size - i});
}

HWY_INLINE RowVector constant(float value) { return hn::Set(RowTag(), value); }

// The lanes added pairwise, in an order that their number alone decides.
HWY_INLINE float sum_of_lanes(RowVector v) {
  constexpr int64_t lanes = hn::MaxLanes(RowTag());
  HWY_ALIGN float values[lanes];
  hn::Store(v, RowTag(), values);
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) values[i] += values[i + half];
  return values[0];
}

// The sum of term(i, access) over a row, in four interleaved chains of vectors; lanes beyond the row must
// give 0.
template <class Term>
HWY_INLINE float sum_over_row(int64_t size, const Term& term) {
  constexpr int64_t lanes = hn::MaxLanes(RowTag());
  RowVector s0 = constant(0), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= size; i += 4 * lanes) {
    s0 = hn::Add(s0, term(i, WholeVector()));
    s1 = hn::Add(s1, term(i + lanes, WholeVector()));
    s2 = hn::Add(s2, term(i + 2 * lanes, WholeVector()));
    s3 = hn::Add(s3, term(i + 3 * lanes, WholeVector()));
  }
  for (; i + lanes <= size; i += lanes) s0 = hn::Add(s0, term(i, WholeVector()));
  if (i < size) s0 = hn::Add(s0, term(i, PartOfVector{size - i}));
  return sum_of_lanes(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

HWY_INLINE float largest_of_row(const float* x, int64_t size) {
  constexpr int64_t lanes = hn::MaxLanes(RowTag());
  float largest = float_of_bits(0xff800000u);
  int64_t i = 0;
  if (size >= lanes) {
    RowVector m = hn::LoadU(RowTag(), x);
    for (i = lanes; i + lanes <= size; i += lanes) m = hn::Max(m, hn::LoadU(RowTag(), x + i));
    largest = hn::GetLane(hn::MaxOfLanes(RowTag(), m));
  }
  for (; i < size; ++i) largest = max_of(largest, x[i]);
  return largest;
}

}  // namespace
}  // namespace vertebra::VERTEBRA_ISA
