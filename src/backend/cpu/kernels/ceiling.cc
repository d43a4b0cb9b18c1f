#include "backend/cpu/kernels/ceiling.h"

#include "backend/cpu/kernels/int8_vectors.h"

namespace vertebra::VERTEBRA_ISA {
namespace {

// Independent sums to hide the latency (12 for 6 cycles at two a cycle; more where 32 registers allow).
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif
constexpr int kUnrolled = 48;

HWY_INLINE float total(const VecF (&sums)[kSums]) {
  VecF sum = sums[0];
  unroll<kSums>([&](auto i) VERTEBRA_INLINE_LAMBDA {
    if constexpr (i > 0) sum = sum + sums[i];
  });
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
  pin(x);
  pin(y);
  for (int64_t round = 0; round < rounds; ++round) {
    unroll<kUnrolled>([&](auto index) VERTEBRA_INLINE_LAMBDA {
      constexpr int i = index % kSums;
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

int32_t multiply_add_bytes(int64_t rounds) {
  Sums sums[kSums];
  unroll<kSums>([&](auto i) VERTEBRA_INLINE_LAMBDA { sums[i] = Sums{}; });
  Bytes codes = splat_byte(3);
  asm("" : "+m"(codes));  // unknown to the compiler
  int32_t x = 0x01020304;
  for (int64_t round = 0; round < rounds; ++round) {
    asm("" : "+r"(x));
    unroll<kUnrolled>([&](auto index) VERTEBRA_INLINE_LAMBDA {
      Sums& sum = sums[index % kSums];
      sum = Dot<4>::add(sum, codes, x);
#if defined(__x86_64__)
      asm("" : "+v"(sum));
#else
      asm("" : "+w"(sum));
#endif
    });
  }
  Sums all = sums[0];
  unroll<kSums>([&](auto i) VERTEBRA_INLINE_LAMBDA {
    if constexpr (i > 0) all = all + sums[i];
  });
  int32_t result = 0;
  for (int i = 0; i < kColumns; ++i) result += all[i];
  return result;
}

float read(const void* from, int64_t size) {
  // Four streams: one alone does not keep enough misses in flight.
  const auto* p = static_cast<const float*>(from);
  const int64_t quarter = size / 16;
  VecF sums[kSums] = {};
  for (int64_t i = 0; i < quarter; i += kLanes) {
    unroll<4>([&](auto v) VERTEBRA_INLINE_LAMBDA {
      sums[v] = (VecF)((VecU)sums[v] ^ (VecU)load<VecF>(p + v * quarter + i));
    });
  }
  return total(sums);
}

constexpr int64_t kFlops = kUnrolled * kLanes * 2;

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
    .multiply_add_int8 = multiply_add_bytes,
    .multiply_adds_per_round_int8 = int64_t{kUnrolled} * kColumns * 4,
    .read = read,
};

}  // namespace vertebra::VERTEBRA_ISA
