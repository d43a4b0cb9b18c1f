#include "backend/cpu/kernels/norm.h"

#include "backend/cpu/kernels/rows.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

HWY_INLINE float inverse_root(float x) { return hn::GetLane(hn::Div(constant(1), hn::Sqrt(constant(x)))); }

float rms_scale(const float* x, int64_t size, float epsilon) {
  const float sum = sum_over_row(size, [&](int64_t i, auto access) {
    const auto v = access.load(x + i);
    return hn::Mul(v, v);
  });
  return inverse_root(sum / static_cast<float>(size) + epsilon);
}

void rms_norm(const float* x, const float* weight, float* y, int64_t rows, int64_t size, float epsilon) {
  for (int64_t r = 0; r < rows; ++r, x += size, y += size) {
    const RowVector scale = constant(rms_scale(x, size, epsilon));
    for_vectors(size, [&](int64_t i, auto access) {
      access.store(hn::Mul(hn::Mul(access.load(x + i), scale), access.load(weight + i)), y + i);
    });
  }
}

// y = n weight, n = x s, s = 1 / sqrt(mean(x^2) + epsilon): with g = dy weight,
// dx = s (g - n mean(g n)), dweight = sum of dy n.
void rms_norm_grad(const float* x, const float* weight, const float* dy, float* dx, float* dweight,
                   int64_t rows, int64_t size, float epsilon) {
  for (int64_t r = 0; r < rows; ++r, x += size, dy += size, dx += size) {
    const float s = rms_scale(x, size, epsilon);
    const float along = sum_over_row(size, [&](int64_t i, auto access) {
      return hn::Mul(hn::Mul(access.load(dy + i), access.load(weight + i)), access.load(x + i));
    });
    const RowVector scale = constant(s), mean = constant(along * s / static_cast<float>(size));
    for_vectors(size, [&](int64_t i, auto access) {
      const RowVector upstream = access.load(dy + i), n = hn::Mul(access.load(x + i), scale);
      const RowVector g = hn::Mul(upstream, access.load(weight + i));
      access.store(hn::MulAdd(upstream, n, access.load(dweight + i)), dweight + i);
      access.store(hn::Mul(scale, hn::NegMulAdd(n, mean, g)), dx + i);
    });
  }
}

struct Moments {
  float mean, scale;
};

Moments moments(const float* x, int64_t size, float epsilon) {
  const float sum = sum_over_row(size, [&](int64_t i, auto access) { return access.load(x + i); });
  const float mean = sum / static_cast<float>(size);
  // Lanes beyond the row read 0 and would add mean^2: the last elements are taken one by one.
  constexpr int64_t lanes = hn::MaxLanes(RowTag());
  const int64_t whole = size / lanes * lanes;
  const RowVector centre = constant(mean);
  float squares = sum_over_row(whole, [&](int64_t i, auto access) {
    const auto d = hn::Sub(access.load(x + i), centre);
    return hn::Mul(d, d);
  });
  for (int64_t i = whole; i < size; ++i) squares += (x[i] - mean) * (x[i] - mean);
  return {mean, inverse_root(squares / static_cast<float>(size) + epsilon)};
}

void layer_norm(const float* x, const float* weight, const float* bias, float* y, int64_t rows, int64_t size,
                float epsilon) {
  for (int64_t r = 0; r < rows; ++r, x += size, y += size) {
    const Moments m = moments(x, size, epsilon);
    const RowVector mean = constant(m.mean), scale = constant(m.scale);
    for_vectors(size, [&](int64_t i, auto access) {
      const RowVector n = hn::Mul(hn::Sub(access.load(x + i), mean), scale);
      access.store(hn::MulAdd(n, access.load(weight + i), access.load(bias + i)), y + i);
    });
  }
}

// y = n weight + bias, n = (x - mean) s: with g = dy weight,
// dx = s (g - mean(g) - n mean(g n)), dweight = sum of dy n, dbias = sum of dy.
void layer_norm_grad(const float* x, const float* weight, const float* dy, float* dx, float* dweight,
                     float* dbias, int64_t rows, int64_t size, float epsilon) {
  for (int64_t r = 0; r < rows; ++r, x += size, dy += size, dx += size) {
    const Moments m = moments(x, size, epsilon);
    const RowVector centre = constant(m.mean), scale = constant(m.scale);
    const float level = sum_over_row(
        size, [&](int64_t i, auto access) { return hn::Mul(access.load(dy + i), access.load(weight + i)); });
    const float along = sum_over_row(size, [&](int64_t i, auto access) {
      const RowVector g = hn::Mul(access.load(dy + i), access.load(weight + i));
      return hn::Mul(g, hn::Mul(hn::Sub(access.load(x + i), centre), scale));
    });
    const RowVector mean_g = constant(level / static_cast<float>(size));
    const RowVector mean_gn = constant(along / static_cast<float>(size));
    for_vectors(size, [&](int64_t i, auto access) {
      const RowVector upstream = access.load(dy + i);
      const RowVector n = hn::Mul(hn::Sub(access.load(x + i), centre), scale);
      const RowVector g = hn::Mul(upstream, access.load(weight + i));
      access.store(hn::MulAdd(upstream, n, access.load(dweight + i)), dweight + i);
      access.store(hn::Add(upstream, access.load(dbias + i)), dbias + i);
      access.store(hn::Mul(scale, hn::NegMulAdd(n, mean_gn, hn::Sub(g, mean_g))), dx + i);
    });
  }
}

void add_partials(const float* from, int64_t stride, int64_t count, int64_t size, float* to) {
  for_vectors(size, [&](int64_t i, auto access) {
    RowVector sum = constant(0);
    for (int64_t p = 0; p < count; ++p) sum = hn::Add(sum, access.load(from + p * stride + i));
    access.store(sum, to + i);
  });
}

}  // namespace

constinit extern const NormKernels norm_kernels = {.rms_norm = rms_norm,
                                                   .rms_norm_grad = rms_norm_grad,
                                                   .layer_norm = layer_norm,
                                                   .layer_norm_grad = layer_norm_grad,
                                                   .add_partials = add_partials};

}  // namespace vertebra::VERTEBRA_ISA
