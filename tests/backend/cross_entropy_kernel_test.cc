// linear_cross_entropy, its gradient and both at once against a double-precision reference.
#include "tests/backend/kernel_run.h"

namespace vertebra::cpu {
std::unique_ptr<Kernel> make_linear_cross_entropy(const Node& node);
std::unique_ptr<Kernel> make_linear_cross_entropy_grad(const Node& node);
std::unique_ptr<Kernel> make_linear_cross_entropy_both(const Node& node);

namespace {

struct Case {
  int64_t tokens, width, vocabulary;
  std::vector<int32_t> labels;
  Tensor hidden, head, dloss;
  std::vector<double> loss, dhidden, dhead;

  Case(int64_t n, int64_t e, int64_t v, int every)
      : tokens(n),
        width(e),
        vocabulary(v),
        hidden(random_tensor({n, e}, "hidden")),
        head(random_tensor({v, e}, "head", 0.3)),
        dloss(random_tensor({n}, "dloss")),
        loss(static_cast<size_t>(n)),
        dhidden(static_cast<size_t>(n * e)),
        dhead(static_cast<size_t>(v * e)) {
    for (int64_t t = 0; t < n; ++t)
      labels.push_back(t % every == 0 ? static_cast<int32_t>(t * 7 % v)
                       : t % 2 == 0   ? -1
                                      : static_cast<int32_t>(v));
    for (int64_t t = 0; t < n; ++t)
      if (t % every == 0) reference_row(t);
  }

  void reference_row(int64_t t) {
    const int32_t label = labels[static_cast<size_t>(t)];
    std::vector<double> p(static_cast<size_t>(vocabulary));
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) {
      double logit = 0;
      for (int64_t i = 0; i < width; ++i) logit += hidden.at(t * width + i) * head.at(v * width + i);
      sum += p[static_cast<size_t>(v)] = std::exp(logit);
    }
    loss[static_cast<size_t>(t)] = -std::log(p[static_cast<size_t>(label)] / sum);
    for (int64_t v = 0; v < vocabulary; ++v) {
      const double d = (p[static_cast<size_t>(v)] / sum - (v == label ? 1 : 0)) * dloss.at(t);
      for (int64_t i = 0; i < width; ++i) {
        dhidden[static_cast<size_t>(t * width + i)] += d * head.at(v * width + i);
        dhead[static_cast<size_t>(v * width + i)] += d * hidden.at(t * width + i);
      }
    }
  }

  std::vector<Tensor> run(Factory factory, bool with_loss, bool gradient, int threads, DType compute) const {
    std::vector<Tensor> operands = {hidden, head, ints({tokens}, labels)};
    std::vector<TensorType> results;
    if (with_loss) results.push_back(dloss.type());
    if (gradient) {
      operands.push_back(dloss);
      results.push_back(hidden.type());
      results.push_back(head.type());
    }
    return run_kernel(factory, {{"compute", compute}}, operands, results, threads);
  }
};

TEST(CrossEntropyKernel, MatchesTheReferenceOnEveryIsaAndThreadCount) {
  for (const auto& [tokens, width, vocabulary, every] : std::vector<std::array<int64_t, 4>>{
           {1, 16, 3, 1}, {7, 33, 70, 1}, {300, 40, 101, 1}, {600, 24, 67, 3}, {9, 8, 11, 100}}) {
    const Case c(tokens, width, vocabulary, static_cast<int>(every));
    SCOPED_TRACE(std::to_string(tokens) + " tokens");
    on_every_isa([&] {
      for (const DType compute : {DType::kF32, DType::kBF16}) {
        const double tolerance = compute == DType::kF32 ? 3e-6 : 2e-2;
        const auto both = c.run(make_linear_cross_entropy_both, true, true, 1, compute);
        EXPECT_LT(relative_error(both[0], c.loss), tolerance);
        EXPECT_LT(relative_error(both[1], c.dhidden), tolerance);
        EXPECT_LT(relative_error(both[2], c.dhead), tolerance);
        const auto forward = c.run(make_linear_cross_entropy, true, false, 2, compute);
        EXPECT_TRUE(forward[0].same_bits(both[0]));
        const auto gradient = c.run(make_linear_cross_entropy_grad, false, true, 3, compute);
        EXPECT_TRUE(gradient[0].same_bits(both[1]) && gradient[1].same_bits(both[2]));
      }
    });
  }
}

TEST(CrossEntropyKernel, NoLabelMeansNoLossAndNoGradient) {
  Case c(5, 8, 11, 1);
  c.labels.assign(5, -1);
  for (const Tensor& t : c.run(make_linear_cross_entropy_both, true, true, 2, DType::kF32))
    for (int64_t i = 0; i < t.elements(); ++i) ASSERT_EQ(t.at(i), 0);
}

TEST(CrossEntropyKernel, ALossDoesNotDependOnTheOtherRows) {
  const Case c(300, 40, 101, 1);
  const auto all = c.run(make_linear_cross_entropy, true, false, 2, DType::kF32)[0];
  const Tensor row = Tensor::from<float>({1, 40}, c.hidden.data<const float>().subspan(290 * 40, 40));
  const auto one = run_kernel(make_linear_cross_entropy, {{"compute", DType::kF32}},
                              {row, c.head, ints({1}, {c.labels[290]})}, {{DType::kF32, {1}}})[0];
  EXPECT_EQ(one.at(0), all.at(290));
}

}  // namespace
}  // namespace vertebra::cpu
