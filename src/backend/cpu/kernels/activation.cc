#include "backend/cpu/kernels/activation.h"

#include "backend/cpu/kernels/rows.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

constexpr float kRootTwoOverPi = 0x1.988454p-1f;  // sqrt(2 / pi)
constexpr float kRootHalf = 0x1.6a09e6p-1f;       // sqrt(1 / 2)
constexpr float kCubic = 0.044715f;
constexpr RowTag tag;

HWY_INLINE RowVector silu_of(RowVector x) { return hn::Mul(x, logistic_of(tag, x)); }

// y = x s, s = logistic(x): y' = s (1 + x (1 - s))
HWY_INLINE RowVector silu_slope(RowVector x, RowVector s) {
  const RowVector one = constant(1);
  return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
}

// tanh(sqrt(2 / pi) (x + 0.044715 x^3))
HWY_INLINE RowVector gelu_inside(RowVector x) {
  const RowVector cubed = hn::Mul(x, hn::Mul(x, x));
  return tanh_of(tag, hn::Mul(constant(kRootTwoOverPi), hn::MulAdd(cubed, constant(kCubic), x)));
}

HWY_INLINE RowVector gelu_of(RowVector x, RowVector inside) {
  return hn::Mul(hn::Mul(constant(0.5f), x), hn::Add(inside, constant(1)));
}

// y = x/2 (1 + t), t = tanh(u): y' = (1 + t)/2 + x/2 (1 - t^2) u'
HWY_INLINE RowVector gelu_tanh_slope(RowVector x) {
  const RowVector half = constant(0.5f), one = constant(1), t = gelu_inside(x);
  const RowVector du =
      hn::Mul(constant(kRootTwoOverPi), hn::MulAdd(hn::Mul(x, x), constant(3 * kCubic), one));
  const RowVector second = hn::Mul(hn::Mul(hn::Mul(x, half), hn::NegMulAdd(t, t, one)), du);
  return hn::MulAdd(hn::Add(t, one), half, second);
}

// y = x/2 (1 + erf(x / sqrt 2)): y' = (1 + erf)/2 + x exp(-x^2/2) / sqrt(2 pi)
HWY_INLINE RowVector gelu_erf_slope(RowVector x) {
  const RowVector half = constant(0.5f);
  const RowVector inside = erf_of(tag, hn::Mul(x, constant(kRootHalf)));
  const RowVector density = exp_of(tag, hn::Mul(hn::Mul(x, x), constant(-0.5f)));
  const RowVector second = hn::Mul(hn::Mul(x, density), constant(0.5f * kRootTwoOverPi));
  return hn::MulAdd(hn::Add(inside, constant(1)), half, second);
}

template <class F>
HWY_INLINE void map(const float* x, float* y, int64_t size, const F& f) {
  for_vectors(size, [&](int64_t i, auto access) { access.store(f(access.load(x + i)), y + i); });
}

void silu(const float* x, float* y, int64_t size) {
  map(x, y, size, [](RowVector v) { return silu_of(v); });
}
void gelu_tanh(const float* x, float* y, int64_t size) {
  map(x, y, size, [](RowVector v) { return gelu_of(v, gelu_inside(v)); });
}
void gelu_erf(const float* x, float* y, int64_t size) {
  map(x, y, size, [](RowVector v) { return gelu_of(v, erf_of(tag, hn::Mul(v, constant(kRootHalf)))); });
}

template <class F>
HWY_INLINE void map_slope(const float* x, const float* dy, float* dx, int64_t size, const F& slope) {
  for_vectors(size, [&](int64_t i, auto access) {
    access.store(hn::Mul(access.load(dy + i), slope(access.load(x + i))), dx + i);
  });
}

void silu_grad(const float* x, const float* dy, float* dx, int64_t size) {
  map_slope(x, dy, dx, size, [](RowVector v) { return silu_slope(v, logistic_of(tag, v)); });
}
void gelu_tanh_grad(const float* x, const float* dy, float* dx, int64_t size) {
  map_slope(x, dy, dx, size, [](RowVector v) { return gelu_tanh_slope(v); });
}
void gelu_erf_grad(const float* x, const float* dy, float* dx, int64_t size) {
  map_slope(x, dy, dx, size, [](RowVector v) { return gelu_erf_slope(v); });
}

void swiglu(const float* gate, const float* up, float* y, int64_t size) {
  for_vectors(size, [&](int64_t i, auto access) {
    access.store(hn::Mul(silu_of(access.load(gate + i)), access.load(up + i)), y + i);
  });
}

void swiglu_grad(const float* gate, const float* up, const float* dy, float* dgate, float* dup,
                 int64_t size) {
  for_vectors(size, [&](int64_t i, auto access) {
    const RowVector g = access.load(gate + i), u = access.load(up + i), upstream = access.load(dy + i);
    const RowVector s = logistic_of(tag, g);
    access.store(hn::Mul(hn::Mul(upstream, u), silu_slope(g, s)), dgate + i);
    access.store(hn::Mul(upstream, hn::Mul(g, s)), dup + i);
  });
}

}  // namespace

constinit extern const ActivationKernels activation_kernels = {.silu = silu,
                                                               .gelu_tanh = gelu_tanh,
                                                               .gelu_erf = gelu_erf,
                                                               .silu_grad = silu_grad,
                                                               .gelu_tanh_grad = gelu_tanh_grad,
                                                               .gelu_erf_grad = gelu_erf_grad,
                                                               .swiglu = swiglu,
                                                               .swiglu_grad = swiglu_grad};

}  // namespace vertebra::VERTEBRA_ISA
