#include "backend/cpu/kernels/softmax.h"

#include "backend/cpu/kernels/rows.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

constexpr RowTag tag;

// The sum of exp(x - largest); with `keep`, the exponentials go to y. Lanes beyond the row must not count, so
// the last elements are summed from a buffer of zeros.
template <bool keep>
HWY_INLINE float sum_of_exponentials(const float* x, float largest, float* y, int64_t size) {
  const RowVector reference = constant(largest);
  const hn::RebindToSigned<RowTag> di;
  return sum_over_row(size, [&](int64_t i, auto access) {
    RowVector e = exp_of(tag, hn::Sub(access.load(x + i), reference));
    if constexpr (decltype(access)::kPart) {
      const auto left = hn::Lt(hn::Iota(di, 0), hn::Set(di, static_cast<int32_t>(size - i)));
      e = hn::IfThenElseZero(hn::RebindMask(tag, left), e);
    }
    if constexpr (keep) access.store(e, y + i);
    return e;
  });
}

HWY_INLINE void scale_row(float* y, float factor, int64_t size) {
  const RowVector f = constant(factor);
  for_vectors(size, [&](int64_t i, auto access) { access.store(hn::Mul(access.load(y + i), f), y + i); });
}

void softmax(const float* x, float* y, int64_t rows, int64_t size) {
  for (int64_t r = 0; r < rows; ++r, x += size, y += size) {
    const float sum = sum_of_exponentials<true>(x, largest_of_row(x, size), y, size);
    scale_row(y, 1.0f / sum, size);
  }
}

void softmax_grad(const float* y, const float* dy, float* dx, int64_t rows, int64_t size) {
  for (int64_t r = 0; r < rows; ++r, y += size, dy += size, dx += size) {
    const RowVector sum = constant(sum_over_row(
        size, [&](int64_t i, auto access) { return hn::Mul(access.load(dy + i), access.load(y + i)); }));
    for_vectors(size, [&](int64_t i, auto access) {
      access.store(hn::Mul(access.load(y + i), hn::Sub(access.load(dy + i), sum)), dx + i);
    });
  }
}

HWY_INLINE float log_of_sum(float sum) { return hn::GetLane(log_of(tag, constant(sum))); }

float loss(const float* logits, int64_t size, int64_t label) {
  const float largest = largest_of_row(logits, size);
  const float sum = sum_of_exponentials<false>(logits, largest, nullptr, size);
  return log_of_sum(sum) - (logits[label] - largest);
}

float loss_grad(float* logits, int64_t size, int64_t label, float weight) {
  const float largest = largest_of_row(logits, size);
  const float shifted = logits[label] - largest;
  const float sum = sum_of_exponentials<true>(logits, largest, logits, size);
  scale_row(logits, weight / sum, size);
  logits[label] -= weight;
  return log_of_sum(sum) - shifted;
}

}  // namespace

constinit extern const SoftmaxKernels softmax_kernels = {
    .softmax = softmax, .softmax_grad = softmax_grad, .loss = loss, .loss_grad = loss_grad};

}  // namespace vertebra::VERTEBRA_ISA
