#include "backend/cpu/kernels/optimizer.h"

#include "backend/cpu/kernels/rows.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

void adamw(const AdamWStep& step, const float* p, const float* g, const float* m, const float* v,
           float* p_out, float* m_out, float* v_out, int64_t size) {
  const RowVector beta1 = constant(step.beta1), rest1 = constant(1 - step.beta1);
  const RowVector beta2 = constant(step.beta2), rest2 = constant(1 - step.beta2);
  const RowVector epsilon = constant(step.epsilon), kept = constant(step.kept);
  const RowVector scale = constant(step.gradient_scale), zero = constant(0);
  const bool dropped = step.gradient_scale == 0;  // 0 times infinity would be no number
  const RowVector rate = constant(step.rate), correction = constant(step.correction);
  for_vectors(size, [&](int64_t i, auto access) {
    const RowVector gradient = dropped ? zero : hn::Mul(access.load(g + i), scale);
    const RowVector first = hn::MulAdd(rest1, gradient, hn::Mul(beta1, access.load(m + i)));
    const RowVector second =
        hn::MulAdd(hn::Mul(rest2, gradient), gradient, hn::Mul(beta2, access.load(v + i)));
    const RowVector size_of_step = hn::Add(hn::Sqrt(hn::Mul(second, correction)), epsilon);
    const RowVector change = hn::Div(hn::Mul(rate, first), size_of_step);
    access.store(hn::MulSub(access.load(p + i), kept, change), p_out + i);
    access.store(first, m_out + i);
    access.store(second, v_out + i);
  });
}

}  // namespace

constinit extern const OptimizerKernels optimizer_kernels = {.adamw = adamw};

}  // namespace vertebra::VERTEBRA_ISA
