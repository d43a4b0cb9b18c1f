#include "backend/cpu/kernels/attention.h"

#include "backend/cpu/kernels/key_panels.h"
#include "backend/cpu/kernels/math.h"
#include "backend/cpu/kernels/simd.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

// At most 512 bits: rows are padded to 16 floats.
const hn::CappedTag<float, 16> df;
using DF = decltype(df);
using VF = hn::Vec<DF>;
constexpr int64_t kFloats = hn::MaxLanes(DF());
// The register tile: kRows x kVectors accumulators leave room for the operands.
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int kRows = 6, kVectors = 4;
#else
constexpr int kRows = 6, kVectors = 2;
#endif

// c[r, v] = (add ? c[r, v] * scale[r] (1 without scale) : 0) + sum over s of a[r * a_row + s * a_step] * b[s,
// v], added in the order of s.
struct Product {
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_step;
  float* c;
  int64_t c_row;
  int64_t steps;
  bool add;
  const float* scale;
};

template <int R, int V>
HWY_INLINE void product_tile(const Product& p, int64_t column) {
  VF acc[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      if (!p.add) {
        acc[r][v] = hn::Zero(df);
      } else {
        acc[r][v] = hn::LoadU(df, p.c + r * p.c_row + column + v * kFloats);
        if (p.scale != nullptr) acc[r][v] = hn::Mul(acc[r][v], hn::Set(df, p.scale[r]));
      }
    }
  }
  const float* a = p.a;
  const float* b = p.b + column;
  const int64_t a_row = p.a_row, a_step = p.a_step, b_step = p.b_step;
  for (int64_t s = 0; s < p.steps; ++s, a += a_step, b += b_step) {
    VF right[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) right[v] = hn::LoadU(df, b + v * kFloats);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const VF left = hn::Set(df, a[r * a_row]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) acc[r][v] = hn::MulAdd(left, right[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) hn::StoreU(acc[r][v], df, p.c + r * p.c_row + column + v * kFloats);
  }
}

template <int R>
void product_rows(const Product& p, int64_t first, int64_t last) {
  int64_t v = first;
  for (; v + kVectors <= last; v += kVectors) product_tile<R, kVectors>(p, v * kFloats);
  if constexpr (kVectors > 2) {
    if (v + 2 <= last) {
      product_tile<R, 2>(p, v * kFloats);
      v += 2;
    }
  }
  if (v < last) product_tile<R, 1>(p, v * kFloats);
}

// Vectors [first, last) of at most kRows rows of c.
HWY_INLINE void product(const Product& p, int64_t rows, int64_t first, int64_t last) {
  switch (rows) {
    case 1:
      return product_rows<1>(p, first, last);
    case 2:
      return product_rows<2>(p, first, last);
    case 3:
      return product_rows<3>(p, first, last);
    case 4:
      return product_rows<4>(p, first, last);
    case 5:
      return product_rows<5>(p, first, last);
    default:
      return product_rows<6>(p, first, last);
  }
}

// exp(x) for x <= 88: 0 below -87, where the result would be subnormal (slow on some processors), and exactly
// 1 at 0. Error below 2 ulp. Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the
// sum.
HWY_INLINE VF exp_below_88(VF x) {
  const hn::RebindToSigned<DF> di;
  const VF magic = hn::Set(df, 0x1.8p23f);
  const VF shifted = hn::MulAdd(x, hn::Set(df, 0x1.715476p0f), magic);
  const VF n = hn::Sub(shifted, magic);
  VF r = hn::NegMulAdd(n, hn::Set(df, kLn2High), x);
  r = hn::NegMulAdd(n, hn::Set(df, kLn2Low), r);
  const VF p = polynomial(df, r, 0x1p-1f, 0x1.555554p-3f, 0x1.55548cp-5f, 0x1.111272p-7f, 0x1.6d8ddcp-10f,
                          0x1.9f07eep-13f);
  const VF y = hn::Add(hn::MulAdd(hn::Mul(r, r), p, r), hn::Set(df, 1.0f));
  const auto bias = hn::Set(di, 127 << 23);
  const VF power = hn::BitCast(df, hn::Add(hn::ShiftLeft<23>(hn::BitCast(di, shifted)), bias));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(df, -87.0f)), hn::Mul(y, power));
}

float exp_below_88(float x) { return hn::GetLane(exp_below_88(hn::Set(df, x))); }

HWY_INLINE float minus_infinity() { return float_of_bits(0xff800000u); }

HWY_INLINE float sum_lanes(VF v) { return hn::GetLane(hn::SumOfLanes(df, v)); }

struct Range {
  int64_t first, last;
};

// The keys of the block that row r sees.
HWY_INLINE Range seen(const AttentionTile& tile, const AttentionBlock& block, int64_t r) {
  const int64_t at = tile.positions[r] - block.start;
  const int64_t last = min_of<int64_t>(at + 1, block.width);
  const int64_t first = tile.window > 0 ? max_of<int64_t>(at + 1 - tile.window, 0) : 0;
  return {first, max_of(last, int64_t{0})};
}

// Positions do not decrease, so the first and last row of a group bound what the group sees.
HWY_INLINE Range seen_by_group(const AttentionTile& tile, const AttentionBlock& block, int64_t r,
                               int64_t rows) {
  return {seen(tile, block, r).first, seen(tile, block, r + rows - 1).last};
}

// Lanes [first, last) of the block's row that lie in vector v.
HWY_INLINE hn::Mask<DF> seen_lanes(Range keys, int64_t v) {
  const hn::RebindToSigned<DF> di;
  const auto index = hn::Add(hn::Iota(di, 0), hn::Set(di, static_cast<int32_t>(v * kFloats)));
  const auto below = hn::Lt(index, hn::Set(di, static_cast<int32_t>(keys.last)));
  const auto from = hn::Gt(index, hn::Set(di, static_cast<int32_t>(keys.first - 1)));
  return hn::RebindMask(df, hn::And(below, from));
}

template <class T>
void pack(const T* from, int64_t from_stride, int64_t rows, int64_t dim, float* to, int64_t to_stride) {
  const hn::Rebind<uint16_t, DF> dh;
  const int64_t padded = attention_padded(dim);
  for (int64_t i = 0; i < rows; ++i, from += from_stride, to += to_stride) {
    int64_t d = 0;
    for (; d + kFloats <= dim; d += kFloats) {
      if constexpr (sizeof(T) == 4) {
        hn::StoreU(hn::LoadU(df, from + d), df, to + d);
      } else {
        __builtin_prefetch(from + d + kKeys * from_stride);  // the same row of the next block
        hn::StoreU(widen_bf16(df, hn::LoadU(dh, from + d)), df, to + d);
      }
    }
    for (; d < dim; ++d) {
      if constexpr (sizeof(T) == 4) {
        to[d] = from[d];
      } else {
        to[d] = widen_bf16(from[d]);
      }
    }
    for (; d < padded; ++d) to[d] = 0;
  }
}

void pack_f16(const uint16_t* from, int64_t from_stride, int64_t rows, int64_t dim, float* to,
              int64_t to_stride) {
  const hn::Rebind<hwy::float16_t, DF> dh;
  const int64_t padded = attention_padded(dim);
  for (int64_t i = 0; i < rows; ++i, from += from_stride, to += to_stride) {
    int64_t d = 0;
    for (; d + kFloats <= dim; d += kFloats)
      hn::StoreU(hn::PromoteTo(df, hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(from + d))), df,
                 to + d);
    for (; d < dim; ++d) to[d] = widen_f16(from[d]);
    for (; d < padded; ++d) to[d] = 0;
  }
}

// A block of 32 is whole vectors, and `dim` whole blocks.
void pack_i8(const int8_t* from, int64_t from_stride, const float* scales, int64_t scale_stride, int64_t rows,
             int64_t dim, float* to, int64_t to_stride) {
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<int8_t, DF> d8;
  for (int64_t i = 0; i < rows; ++i, from += from_stride, scales += scale_stride, to += to_stride) {
    __builtin_prefetch(from + kKeys * from_stride);  // the same row of the next block
    for (int64_t block = 0; block < dim / 32; ++block) {
      const VF scale = hn::Set(df, scales[block]);
      for (int64_t d = block * 32; d < block * 32 + 32; d += kFloats) {
        const auto codes = hn::PromoteTo(di, hn::LoadU(d8, from + d));
        hn::StoreU(hn::Mul(hn::ConvertTo(df, codes), scale), df, to + d);
      }
    }
  }
}

float dot(const float* a, const float* b, int64_t dim) {
  VF sum = hn::Zero(df);
  int64_t d = 0;
  for (; d + kFloats <= dim; d += kFloats) sum = hn::MulAdd(hn::LoadU(df, a + d), hn::LoadU(df, b + d), sum);
  if (d < dim) sum = hn::MulAdd(load_part(df, a + d, dim - d), load_part(df, b + d, dim - d), sum);
  return sum_lanes(sum);
}

void begin(const AttentionTile& tile) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    tile.max[r] = minus_infinity();
    tile.sum[r] = 0;
  }
  for (int64_t i = 0; i < tile.rows * tile.padded; i += kFloats) hn::StoreU(hn::Zero(df), df, tile.acc + i);
}

// Scales a row's scores, with -inf where the row does not look, and returns the largest.
HWY_INLINE float scale_row(const AttentionTile& tile, int64_t r, Range keys, int64_t v_first,
                           int64_t v_last) {
  float* scores = tile.scores + r * kKeys;
  const VF scale = hn::Set(df, tile.scale), minus_inf = hn::Set(df, minus_infinity());
  VF largest = minus_inf;
  const bool whole = keys.first <= v_first * kFloats && keys.last >= v_last * kFloats;
  for (int64_t v = v_first; v < v_last; ++v) {
    VF score = hn::Mul(hn::LoadU(df, scores + v * kFloats), scale);
    if (!whole) score = hn::IfThenElse(seen_lanes(keys, v), score, minus_inf);
    hn::StoreU(score, df, scores + v * kFloats);
    largest = hn::Max(largest, score);
  }
  return hn::GetLane(hn::MaxOfLanes(df, largest));
}

// Turns scaled scores into exp(score - reference) and returns their sum.
HWY_INLINE float exponentiate_row(float* scores, float reference, int64_t v_first, int64_t v_last) {
  const VF offset = hn::Set(df, reference);
  VF sum = hn::Zero(df);
  for (int64_t v = v_first; v < v_last; ++v) {
    const VF p = exp_below_88(hn::Sub(hn::LoadU(df, scores + v * kFloats), offset));
    hn::StoreU(p, df, scores + v * kFloats);
    sum = hn::Add(sum, p);
  }
  return sum_lanes(sum);
}

// The online softmax of a group of rows: scores become weights, maxima and sums move on, and `corrections`
// says what the weighted values so far must be multiplied by.
HWY_INLINE void softmax_rows(const AttentionTile& tile, const AttentionBlock& block, int64_t first,
                             int64_t rows, int64_t v_first, int64_t v_last, float* corrections) {
  float references[kRows];
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t r = first + i;
    const float before = tile.max[r];
    const float now = max_of(before, scale_row(tile, r, seen(tile, block, r), v_first, v_last));
    // A row that has seen nothing yet has maximum -inf: any finite reference gives it zeros.
    references[i] = now == minus_infinity() ? 0.0f : now;
    corrections[i] = before - references[i];
    tile.max[r] = now;
  }
  for (int64_t i = 0; i < rows; ++i) corrections[i] = exp_below_88(corrections[i]);
  for (int64_t i = 0; i < rows; ++i) {
    const float sum = exponentiate_row(tile.scores + (first + i) * kKeys, references[i], v_first, v_last);
    tile.sum[first + i] = tile.sum[first + i] * corrections[i] + sum;
  }
}

void forward(const AttentionTile& tile, const AttentionBlock& block) {
  for (int64_t r = 0; r < tile.rows; r += kRows) {
    const int64_t rows = min_of<int64_t>(kRows, tile.rows - r);
    const Range keys = seen_by_group(tile, block, r, rows);
    if (keys.first >= keys.last) continue;
    const int64_t v_first = keys.first / kFloats, v_last = (keys.last + kFloats - 1) / kFloats;
    product({.a = tile.q + r * tile.padded,
             .a_row = tile.padded,
             .a_step = 1,
             .b = block.keys_transposed,
             .b_step = kKeys,
             .c = tile.scores + r * kKeys,
             .c_row = kKeys,
             .steps = tile.dim,
             .add = false,
             .scale = nullptr},
            rows, v_first, v_last);
    float corrections[kRows];
    softmax_rows(tile, block, r, rows, v_first, v_last, corrections);
    product({.a = tile.scores + r * kKeys + keys.first,
             .a_row = kKeys,
             .a_step = 1,
             .b = block.values + keys.first * block.value_stride,
             .b_step = block.value_stride,
             .c = tile.acc + r * tile.padded,
             .c_row = tile.padded,
             .steps = keys.last - keys.first,
             .add = true,
             .scale = corrections},
            rows, 0, tile.padded / kFloats);
  }
}

void merge(const AttentionTile& tile, const AttentionTile& other) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float now = max_of(tile.max[r], other.max[r]);
    if (now == minus_infinity()) continue;
    const float left = exp_below_88(tile.max[r] - now), right = exp_below_88(other.max[r] - now);
    tile.max[r] = now;
    tile.sum[r] = tile.sum[r] * left + other.sum[r] * right;
    float* to = tile.acc + r * tile.padded;
    const float* from = other.acc + r * tile.padded;
    for (int64_t d = 0; d < tile.padded; d += kFloats) {
      const VF scaled = hn::Mul(hn::LoadU(df, to + d), hn::Set(df, left));
      hn::StoreU(hn::MulAdd(hn::LoadU(df, from + d), hn::Set(df, right), scaled), df, to + d);
    }
  }
}

void finish(const AttentionTile& tile, float* const* out, float* lse) {
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float sum = tile.sum[r];
    const VF inverse = hn::Set(df, sum > 0 || sum != sum ? 1.0f / sum : 0.0f);
    const float* acc = tile.acc + r * tile.padded;
    int64_t d = 0;
    // Adding 0 turns -0 into 0, the one trace that keys of weight 0 can leave.
    for (; d + kFloats <= tile.dim; d += kFloats)
      hn::StoreU(hn::MulAdd(hn::LoadU(df, acc + d), inverse, hn::Zero(df)), df, out[r] + d);
    if (d < tile.dim) {
      store_part(df, hn::MulAdd(hn::LoadU(df, acc + d), inverse, hn::Zero(df)), out[r] + d, tile.dim - d);
    }
    if (lse != nullptr) lse[r] = tile.max[r] + hn::GetLane(log_of(df, hn::Set(df, sum)));
  }
}

// p = exp(scale * score - lse), ds = p * (dp - delta) * scale for one row; zeros where the row does not look.
HWY_INLINE void backward_row(const AttentionTile& tile, int64_t r, Range keys, int64_t vectors) {
  float* scores = tile.scores + r * kKeys;
  float* gradients = tile.gradients + r * kKeys;
  const VF scale = hn::Set(df, tile.scale);
  const VF lse = hn::Set(df, tile.lse[r]), delta = hn::Set(df, tile.delta[r]);
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t i = v * kFloats;
    if (keys.last <= i || keys.first >= i + kFloats) {
      hn::StoreU(hn::Zero(df), df, scores + i);
      hn::StoreU(hn::Zero(df), df, gradients + i);
      continue;
    }
    const VF exponent = hn::MulSub(hn::LoadU(df, scores + i), scale, lse);
    // Above 0 only by rounding, unless lse is not the log-sum-exp of these scores.
    VF p = exp_below_88(hn::Min(exponent, hn::Set(df, 88.0f)));
    if (keys.first > i || keys.last < i + kFloats) p = hn::IfThenElseZero(seen_lanes(keys, v), p);
    VF ds = hn::Mul(hn::Mul(p, hn::Sub(hn::LoadU(df, gradients + i), delta)), scale);
    if (keys.first > i || keys.last < i + kFloats) ds = hn::IfThenElseZero(seen_lanes(keys, v), ds);
    hn::StoreU(p, df, scores + i);
    hn::StoreU(ds, df, gradients + i);
  }
}

// dv[j] += sum over rows of p[r, j] dout[r], dk[j] += sum over rows of ds[r, j] q[r], rows in order.
HWY_INLINE void backward_keys(const AttentionTile& tile, const AttentionBlock& block) {
  const int64_t vectors = tile.padded / kFloats;
  int64_t first = 0;
  for (int64_t j = 0; j < block.width; j += kRows) {
    const int64_t keys = min_of<int64_t>(kRows, block.width - j);
    while (first < tile.rows && seen(tile, block, first).last <= j) ++first;
    int64_t last = tile.rows;
    while (last > first && seen(tile, block, last - 1).first >= j + keys) --last;
    if (first >= last) continue;
    Product p{.a = tile.scores + first * kKeys + j,
              .a_row = 1,
              .a_step = kKeys,
              .b = tile.dout + first * tile.padded,
              .b_step = tile.padded,
              .c = tile.dv + j * tile.padded,
              .c_row = tile.padded,
              .steps = last - first,
              .add = true,
              .scale = nullptr};
    product(p, keys, 0, vectors);
    p.a = tile.gradients + first * kKeys + j;
    p.b = tile.q + first * tile.padded;
    p.c = tile.dk + j * tile.padded;
    product(p, keys, 0, vectors);
  }
}

void backward(const AttentionTile& tile, const AttentionBlock& block) {
  const int64_t vectors = (block.width + kFloats - 1) / kFloats;
  for (int64_t r = 0; r < tile.rows; r += kRows) {
    const int64_t rows = min_of<int64_t>(kRows, tile.rows - r);
    const Range keys = seen_by_group(tile, block, r, rows);
    if (keys.first >= keys.last) {
      for (int64_t i = r; i < r + rows; ++i) backward_row(tile, i, {0, 0}, vectors);
      continue;
    }
    const int64_t v_first = keys.first / kFloats, v_last = (keys.last + kFloats - 1) / kFloats;
    Product p{.a = tile.q + r * tile.padded,
              .a_row = tile.padded,
              .a_step = 1,
              .b = block.keys_transposed,
              .b_step = kKeys,
              .c = tile.scores + r * kKeys,
              .c_row = kKeys,
              .steps = tile.dim,
              .add = false,
              .scale = nullptr};
    product(p, rows, v_first, v_last);
    p.a = tile.dout + r * tile.padded;
    p.b = block.values_transposed;
    p.c = tile.gradients + r * kKeys;
    product(p, rows, v_first, v_last);
    for (int64_t i = r; i < r + rows; ++i) backward_row(tile, i, seen(tile, block, i), vectors);
    if (tile.dq == nullptr) continue;
    product({.a = tile.gradients + r * kKeys + keys.first,
             .a_row = kKeys,
             .a_step = 1,
             .b = block.keys + keys.first * tile.padded,
             .b_step = tile.padded,
             .c = tile.dq + r * tile.padded,
             .c_row = tile.padded,
             .steps = keys.last - keys.first,
             .add = true,
             .scale = nullptr},
            rows, 0, tile.padded / kFloats);
  }
  if (tile.dk != nullptr) backward_keys(tile, block);
}

}  // namespace

constinit extern const AttentionKernels attention_kernels = {.pack_f32 = pack<float>,
                                                             .pack_bf16 = pack<uint16_t>,
                                                             .pack_f16 = pack_f16,
                                                             .pack_i8 = pack_i8,
                                                             .transpose_bf16 = transpose_bf16,
                                                             .transpose_i8 = transpose_i8,
                                                             .dot = dot,
                                                             .begin = begin,
                                                             .forward = forward,
                                                             .merge = merge,
                                                             .finish = finish,
                                                             .backward = backward};

}  // namespace vertebra::VERTEBRA_ISA
