// The bodies of ElementwiseKernels. Tails run through a padded vector, so that an element's bits do not
// depend on its position.
#include "backend/cpu/kernels/elementwise.h"

#include "backend/cpu/kernels/math.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

using F = hn::ScalableTag<float>;
using V = hn::Vec<F>;

#define VERTEBRA_UNARY(name, expression)                                                \
  void name(const float* x, float* y, int64_t size) {                                   \
    const F d;                                                                          \
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));                              \
    const auto f = [d](V v) HWY_ATTR { return expression; };                            \
    int64_t i = 0;                                                                      \
    for (; i + lanes <= size; i += lanes) hn::StoreU(f(hn::LoadU(d, x + i)), d, y + i); \
    if (i < size) store_part(d, f(load_part(d, x + i, size - i)), y + i, size - i);     \
  }

#define VERTEBRA_BINARY(name, expression)                                                                    \
  void name(const float* a, const float* b, float* y, int64_t size) {                                        \
    const F d;                                                                                               \
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));                                                   \
    const auto f = [d](V u, V v) HWY_ATTR { return expression; };                                            \
    int64_t i = 0;                                                                                           \
    for (; i + lanes <= size; i += lanes) hn::StoreU(f(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, y + i); \
    if (i < size)                                                                                            \
      store_part(d, f(load_part(d, a + i, size - i), load_part(d, b + i, size - i)), y + i, size - i);       \
  }

VERTEBRA_UNARY(negate, ((void)d, hn::Neg(v)))
VERTEBRA_UNARY(exponential, exp_of(d, v))
VERTEBRA_UNARY(logarithm, log_of(d, v))
VERTEBRA_UNARY(square_root, ((void)d, hn::Sqrt(v)))
VERTEBRA_UNARY(reciprocal_square_root, hn::Div(hn::Set(d, 1.0f), hn::Sqrt(v)))
VERTEBRA_UNARY(tanh, tanh_of(d, v))
VERTEBRA_UNARY(logistic, logistic_of(d, v))
VERTEBRA_UNARY(erf, erf_of(d, v))
VERTEBRA_UNARY(absolute, ((void)d, hn::Abs(v)))
VERTEBRA_UNARY(floor, ((void)d, hn::Floor(v)))
VERTEBRA_BINARY(add, ((void)d, hn::Add(u, v)))
VERTEBRA_BINARY(subtract, ((void)d, hn::Sub(u, v)))
VERTEBRA_BINARY(multiply, ((void)d, hn::Mul(u, v)))
VERTEBRA_BINARY(divide, ((void)d, hn::Div(u, v)))
// The sum of a NaN and anything is NaN.
VERTEBRA_BINARY(maximum, ((void)d, hn::IfThenElse(hn::Or(hn::IsNaN(u), hn::IsNaN(v)), hn::Add(u, v),
                                                  hn::IfThenElse(hn::Lt(u, v), v, u))))
VERTEBRA_BINARY(minimum, ((void)d, hn::IfThenElse(hn::Or(hn::IsNaN(u), hn::IsNaN(v)), hn::Add(u, v),
                                                  hn::IfThenElse(hn::Lt(v, u), v, u))))

// Bytes out of float masks are left to the compiler's vectoriser.
#define VERTEBRA_COMPARE(name, operation)                                  \
  void name(const float* a, const float* b, uint8_t* y, int64_t size) {    \
    for (int64_t i = 0; i < size; ++i) y[i] = a[i] operation b[i] ? 1 : 0; \
  }
VERTEBRA_COMPARE(equal, ==)
VERTEBRA_COMPARE(not_equal, !=)
VERTEBRA_COMPARE(less, <)
VERTEBRA_COMPARE(less_equal, <=)
VERTEBRA_COMPARE(greater, >)
VERTEBRA_COMPARE(greater_equal, >=)

void select(const uint8_t* condition, const float* a, const float* b, float* y, int64_t size) {
  for (int64_t i = 0; i < size; ++i) y[i] = condition[i] != 0 ? a[i] : b[i];
}

}  // namespace

constinit extern const ElementwiseKernels elementwise_kernels = {
    .negate = negate,
    .exponential = exponential,
    .logarithm = logarithm,
    .square_root = square_root,
    .reciprocal_square_root = reciprocal_square_root,
    .tanh = tanh,
    .logistic = logistic,
    .erf = erf,
    .absolute = absolute,
    .floor = floor,
    .add = add,
    .subtract = subtract,
    .multiply = multiply,
    .divide = divide,
    .maximum = maximum,
    .minimum = minimum,
    .equal = equal,
    .not_equal = not_equal,
    .less = less,
    .less_equal = less_equal,
    .greater = greater,
    .greater_equal = greater_equal,
    .select = select,
};

}  // namespace vertebra::VERTEBRA_ISA
