#include "backend/cpu/kernels/ceiling.h"

#include "backend/cpu/kernels/vector_f32.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

// 12 sums hide a latency of 6 at two a cycle, and fit 16 registers.
constexpr int kSums = 12;

HWY_INLINE float total(const VecF (&sums)[kSums]) {
  VecF sum = sums[0];
  for (int i = 1; i < kSums; ++i) sum = sum + sums[i];
  float result = 0;
  for (int i = 0; i < kLanes; ++i) result += sum[i];
  return result;
}

template <bool kBf16>
float multiply_adds(int64_t rounds) {
  VecF sums[kSums];
  VecF x = splat(0.5f);
  VecF y = splat(0.25f);
  unroll<kSums>([&](auto i) VERTEBRA_INLINE_LAMBDA { sums[i] = VecF{}; });
  for (int64_t round = 0; round < rounds; ++round) {
    unroll<4 * kSums>([&](auto index) VERTEBRA_INLINE_LAMBDA {
      constexpr int i = index % kSums;
      pin(x);
#if defined(VERTEBRA_BF16_DOT)
      if constexpr (kBf16) {
        sums[i] = bf16_pair_dot(sums[i], x, y);
      } else {
        sums[i] = multiply_add(x, y, sums[i]);
      }
#else
      sums[i] = multiply_add(x, y, sums[i]);
#endif
      pin(sums[i]);
    });
  }
  return total(sums);
}

float read(const void* from, int64_t size) {
  const auto* p = static_cast<const float*>(from);
  VecF sums[kSums] = {};
  for (int64_t i = 0; i < size / 4; i += 256) {
    for (int64_t j = 0; j < 256; j += 4 * kLanes) {
      unroll<4>([&](auto v) VERTEBRA_INLINE_LAMBDA {
        sums[v] = (VecF)((VecU)sums[v] ^ (VecU)load<VecF>(p + i + j + v * kLanes));
      });
    }
  }
  return total(sums);
}

constexpr int64_t kFlops = 4 * kSums * kLanes * 2;

}  // namespace

constinit extern const CeilingKernels ceiling_kernels = {
    .multiply_add_f32 = multiply_adds<false>,
    .multiply_add_bf16 = multiply_adds<true>,
    .flops_per_round_f32 = kFlops,
#if defined(VERTEBRA_BF16_DOT)
    .flops_per_round_bf16 = 2 * kFlops,
#else
    .flops_per_round_bf16 = kFlops,
#endif
    .read = read,
};

}  // namespace vertebra::VERTEBRA_ISA
