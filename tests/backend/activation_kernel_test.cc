// silu, gelu, swiglu against double precision; their gradients against central differences of it.
#include <functional>

#include "graph/op.h"
#include "tests/backend/kernel_run.h"

namespace vertebra::cpu {
std::unique_ptr<Kernel> make_activation(const Node& node);

namespace {

using Function = std::function<double(double)>;

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu_erf(double x) { return 0.5 * x * std::erfc(-x * M_SQRT1_2); }
double gelu_tanh(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double slope(const Function& f, double x) { return (f(x + 1e-4) - f(x - 1e-4)) / 2e-4; }

// The factory reads the op's name, which run_kernel's stand-in lacks.
template <int kName>
std::unique_ptr<Kernel> named(const Node& node) {
  static constexpr std::string_view kNames[] = {"silu",      "gelu",      "swiglu",
                                                "silu_grad", "gelu_grad", "swiglu_grad"};
  OpDef op = *node.op;
  op.name = kNames[kName];
  Node copy = node;
  copy.op = &op;
  return make_activation(copy);
}

TEST(ActivationKernel, MatchesTheReferenceOnEveryIsaAndThreadCount) {
  const Shape shape = {3, 9001};
  const Tensor x = random_tensor(shape, "x", 3), u = random_tensor(shape, "u"),
               dy = random_tensor(shape, "dy");
  const auto wanted = [&](const std::function<double(int64_t)>& f) {
    std::vector<double> out(static_cast<size_t>(x.elements()));
    for (size_t i = 0; i < out.size(); ++i) out[i] = f(static_cast<int64_t>(i));
    return out;
  };
  struct Case {
    Factory forward, gradient;
    Function f;
    bool tanh;
  };
  const Case cases[] = {{named<0>, named<3>, silu, false},
                        {named<1>, named<4>, gelu_erf, false},
                        {named<1>, named<4>, gelu_tanh, true}};
  on_every_isa([&] {
    for (const Case& c : cases) {
      const Attrs attrs = {{"tanh_approximation", c.tanh}};
      const auto y = run_kernel(c.forward, attrs, {x}, {x.type()});
      EXPECT_LT(relative_error(y[0], wanted([&](int64_t i) { return c.f(x.at(i)); })), 1e-6);
      EXPECT_TRUE(run_kernel(c.forward, attrs, {x}, {x.type()}, 3, {0})[0].same_bits(y[0]));
      const auto dx = run_kernel(c.gradient, attrs, {x, dy}, {x.type()});
      EXPECT_LT(relative_error(dx[0], wanted([&](int64_t i) { return dy.at(i) * slope(c.f, x.at(i)); })),
                1e-6);
      EXPECT_TRUE(run_kernel(c.gradient, attrs, {x, dy}, {x.type()}, 2, {1})[0].same_bits(dx[0]));
    }
    const auto y = run_kernel(named<2>, {}, {x, u}, {x.type()});
    EXPECT_LT(relative_error(y[0], wanted([&](int64_t i) { return silu(x.at(i)) * u.at(i); })), 1e-6);
    const auto d = run_kernel(named<5>, {}, {x, u, dy}, {x.type(), x.type()});
    EXPECT_LT(
        relative_error(d[0], wanted([&](int64_t i) { return dy.at(i) * u.at(i) * slope(silu, x.at(i)); })),
        1e-6);
    EXPECT_LT(relative_error(d[1], wanted([&](int64_t i) { return dy.at(i) * silu(x.at(i)); })), 1e-6);
    const auto shared = run_kernel(named<5>, {}, {x, u, dy}, {x.type(), x.type()}, 4, {0, 1});
    EXPECT_TRUE(shared[0].same_bits(d[0]) && shared[1].same_bits(d[1]));
  });
}

}  // namespace
}  // namespace vertebra::cpu
