// softmax and its gradient against double-precision references.
#include "tests/backend/kernel_run.h"

namespace vertebra::cpu {
std::unique_ptr<Kernel> make_softmax(const Node& node);

namespace {

TEST(SoftmaxKernel, MatchesTheReferenceOnEveryIsaAndThreadCount) {
  for (const auto& [rows, size] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {4, 5}, {3, 16}, {300, 131}}) {
    Tensor x = random_tensor({rows, size}, "x", 4);
    for (auto& v : x.data<float>()) v += 200;  // exp overflows without the maximum
    const Tensor dy = random_tensor({rows, size}, "dy");
    std::vector<double> y(static_cast<size_t>(rows * size)), dx(y.size());
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0, dot = 0;
      for (int64_t i = 0; i < size; ++i) sum += std::exp(x.at(r * size + i) - 200);
      for (int64_t i = 0; i < size; ++i) {
        const int64_t at = r * size + i;
        y[static_cast<size_t>(at)] = std::exp(x.at(at) - 200) / sum;
        dot += y[static_cast<size_t>(at)] * dy.at(at);
      }
      for (int64_t at = r * size; at < (r + 1) * size; ++at)
        dx[static_cast<size_t>(at)] = y[static_cast<size_t>(at)] * (dy.at(at) - dot);
    }
    on_every_isa([&] {
      const auto got = run_kernel(make_softmax, {}, {x}, {x.type()});
      EXPECT_LT(relative_error(got[0], y), 2e-6);
      EXPECT_TRUE(run_kernel(make_softmax, {}, {x}, {x.type()}, 3, {0})[0].same_bits(got[0]));
      const auto gradient = run_kernel(make_softmax, {}, {got[0], dy}, {x.type()});
      EXPECT_LT(relative_error(gradient[0], dx, 0.1), 2e-6);
      EXPECT_TRUE(run_kernel(make_softmax, {}, {got[0], dy}, {x.type()}, 2, {1})[0].same_bits(gradient[0]));
    });
  }
}

}  // namespace
}  // namespace vertebra::cpu
