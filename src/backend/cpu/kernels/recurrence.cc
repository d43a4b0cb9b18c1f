#include "backend/cpu/kernels/recurrence.h"

#include "backend/cpu/kernels/rows.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

void delta_step(float* state, const float* q, const float* k, const float* v, float decay, float beta,
                int64_t D, int64_t M, float* out, float* change) {
  const RowVector faded = constant(decay), share = constant(beta), zero = constant(0);
  for_vectors(M, [&](int64_t i, auto access) { access.store(zero, change + i); });
  for (int64_t d = 0; d < D; ++d) {
    float* row = state + d * M;
    const RowVector key = constant(k[d]);
    for_vectors(M, [&](int64_t i, auto access) {
      const RowVector s = hn::Mul(access.load(row + i), faded);
      access.store(s, row + i);
      access.store(hn::MulAdd(s, key, access.load(change + i)), change + i);
    });
  }
  for_vectors(M, [&](int64_t i, auto access) {
    access.store(hn::Mul(hn::Sub(access.load(v + i), access.load(change + i)), share), change + i);
    access.store(zero, out + i);
  });
  for (int64_t d = 0; d < D; ++d) {
    float* row = state + d * M;
    const RowVector key = constant(k[d]), query = constant(q[d]);
    for_vectors(M, [&](int64_t i, auto access) {
      const RowVector s = hn::MulAdd(key, access.load(change + i), access.load(row + i));
      access.store(s, row + i);
      access.store(hn::MulAdd(s, query, access.load(out + i)), out + i);
    });
  }
}

void add_weighted(const float* weight, int64_t stride, const float* x, int64_t size, float* out) {
  for (int64_t c = 0; c < size; ++c) out[c] = out[c] + weight[c * stride] * x[c];
}

}  // namespace

constinit extern const RecurrenceKernels recurrence_kernels = {.delta_step = delta_step,
                                                               .add_weighted = add_weighted};

}  // namespace vertebra::VERTEBRA_ISA
