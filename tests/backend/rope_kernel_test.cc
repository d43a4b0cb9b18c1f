// rope against a double-precision reference.
#include "tests/backend/kernel_run.h"

namespace vertebra::cpu {
std::unique_ptr<Kernel> make_rope(const Node& node);

namespace {

TEST(RopeKernel, MatchesTheReferenceAndNegatedFrequenciesTurnItBack) {
  for (const int64_t dim : {2, 6, 20, 64, 128}) {
    const int64_t tokens = 70, heads = 3, half = dim / 2;
    const Tensor x = random_tensor({tokens, heads, dim}, "x");
    Tensor frequencies(DType::kF32, {half}), negated(DType::kF32, {half}), positions(DType::kI32, {tokens});
    for (int64_t i = 0; i < half; ++i) {
      frequencies.set(i, std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half)));
      negated.set(i, -frequencies.at(i));
    }
    for (int64_t n = 0; n < tokens; ++n) positions.set(n, static_cast<double>(n * 57));
    std::vector<double> want(static_cast<size_t>(x.elements()));
    for (int64_t n = 0; n < tokens; ++n) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < half; ++i) {
          // The op defines the angle as the f32 product.
          const double angle = static_cast<float>(positions.at(n)) * static_cast<float>(frequencies.at(i));
          const int64_t at = (n * heads + h) * dim + i;
          want[static_cast<size_t>(at)] = x.at(at) * std::cos(angle) - x.at(at + half) * std::sin(angle);
          want[static_cast<size_t>(at + half)] =
              x.at(at + half) * std::cos(angle) + x.at(at) * std::sin(angle);
        }
      }
    }
    on_every_isa([&] {
      const auto y = run_kernel(make_rope, {}, {x, positions, frequencies}, {x.type()});
      EXPECT_LT(relative_error(y[0], want), 5e-7) << dim;
      EXPECT_TRUE(
          run_kernel(make_rope, {}, {x, positions, frequencies}, {x.type()}, 3, {0})[0].same_bits(y[0]));
      const auto back = run_kernel(make_rope, {}, {y[0], positions, negated}, {x.type()});
      for (int64_t i = 0; i < x.elements(); ++i) ASSERT_NEAR(back[0].at(i), x.at(i), 2e-6);
    });
  }
}

}  // namespace
}  // namespace vertebra::cpu
