// adamw_update against the formulas in double precision, over several steps.
#include "tests/backend/kernel_run.h"

namespace vertebra::cpu {
std::unique_ptr<Kernel> make_adamw_update(const Node& node);

namespace {

TEST(AdamWKernel, FollowsTheFormulasInPlaceOnEveryIsaAndThreadCount) {
  constexpr double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, decay = 0.1, rate = 3e-3;
  const Attrs attrs = {{"beta1", beta1}, {"beta2", beta2}, {"epsilon", epsilon}, {"weight_decay", decay}};
  const Shape shape = {40, 1001};
  on_every_isa([&] {
    Tensor p = random_tensor(shape, "p"), m = Tensor::zeros(p.type()), v = Tensor::zeros(p.type());
    std::vector<double> want_p, want_m(static_cast<size_t>(p.elements())), want_v(want_m.size());
    for (int64_t i = 0; i < p.elements(); ++i) want_p.push_back(p.at(i));
    for (int step = 1; step <= 4; ++step) {
      Tensor g = random_tensor(shape, "g" + std::to_string(step), 0.1);
      const double scale = step == 3 ? 0 : 1.0 / step;
      if (scale == 0) {
        g.set(5, std::numeric_limits<double>::infinity());
        g.set(6, std::numeric_limits<double>::quiet_NaN());
      }
      const std::vector<Tensor> operands = {p,
                                            g,
                                            m,
                                            v,
                                            Tensor::scalar<float>(static_cast<float>(rate)),
                                            Tensor::scalar<float>(static_cast<float>(step)),
                                            Tensor::scalar<float>(static_cast<float>(scale))};
      const std::vector<TensorType> types = {p.type(), p.type(), p.type()};
      const auto one = run_kernel(make_adamw_update, attrs, operands, types);
      const auto in_place = run_kernel(make_adamw_update, attrs, operands, types, 3, {0, 2, 3});
      for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(one[i].same_bits(in_place[i]));
      p = one[0], m = one[1], v = one[2];
      for (size_t i = 0; i < want_p.size(); ++i) {
        const double gradient = scale == 0 ? 0 : scale * g.at(static_cast<int64_t>(i));
        want_m[i] = beta1 * want_m[i] + (1 - beta1) * gradient;
        want_v[i] = beta2 * want_v[i] + (1 - beta2) * gradient * gradient;
        const double m_hat = want_m[i] / (1 - std::pow(beta1, step)),
                     v_hat = want_v[i] / (1 - std::pow(beta2, step));
        want_p[i] = want_p[i] * (1 - rate * decay) - rate * m_hat / (std::sqrt(v_hat) + epsilon);
      }
    }
    EXPECT_LT(relative_error(p, want_p), 1e-6);
    EXPECT_LT(relative_error(m, want_m), 1e-6);
    EXPECT_LT(relative_error(v, want_v), 1e-6);
  });
}

}  // namespace
}  // namespace vertebra::cpu
