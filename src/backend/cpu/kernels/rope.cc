#include "backend/cpu/kernels/rope.h"

#include "backend/cpu/kernels/rows.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

void rotate(const float* x, float* y, int64_t heads, int64_t dim, int32_t position, const float* frequencies,
            float* table) {
  const int64_t half = dim / 2;
  float* cosines = table;
  float* sines = table + half;
  const RowVector at = constant(static_cast<float>(position));
  for_vectors(half, [&](int64_t i, auto access) {
    RowVector sine, cosine;
    sine_cosine_of(RowTag(), hn::Mul(at, access.load(frequencies + i)), sine, cosine);
    access.store(cosine, cosines + i);
    access.store(sine, sines + i);
  });
  for (int64_t h = 0; h < heads; ++h, x += dim, y += dim) {
    for_vectors(half, [&](int64_t i, auto access) {
      const RowVector x1 = access.load(x + i), x2 = access.load(x + half + i);
      const RowVector c = access.load(cosines + i), s = access.load(sines + i);
      access.store(hn::Sub(hn::Mul(x1, c), hn::Mul(x2, s)), y + i);
      access.store(hn::Add(hn::Mul(x2, c), hn::Mul(x1, s)), y + half + i);
    });
  }
}

}  // namespace

constinit extern const RopeKernels rope_kernels = {.rotate = rotate};

}  // namespace vertebra::VERTEBRA_ISA
