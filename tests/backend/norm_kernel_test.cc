// rms_norm, layer_norm and their gradients against double-precision references.
#include "tests/backend/kernel_run.h"

namespace vertebra::cpu {
std::unique_ptr<Kernel> make_norm(const Node& node);
std::unique_ptr<Kernel> make_norm_grad(const Node& node);

namespace {

constexpr double kEpsilon = 1e-5;

struct Norm {
  int64_t rows, size;
  bool layer;
  Tensor x, weight, bias, dy;
  std::vector<double> y, dx, dweight, dbias;

  Norm(int64_t rows_in, int64_t size_in, bool layer_in)
      : rows(rows_in),
        size(size_in),
        layer(layer_in),
        x(random_tensor({rows, size}, "x", 2)),
        weight(random_tensor({size}, "weight")),
        bias(random_tensor({size}, "bias")),
        dy(random_tensor({rows, size}, "dy")),
        y(static_cast<size_t>(rows * size)),
        dx(y.size()),
        dweight(static_cast<size_t>(size)),
        dbias(static_cast<size_t>(size)) {
    for (auto& v : x.data<float>()) v += 0.5f;
    for (int64_t r = 0; r < rows; ++r) reference_row(r);
  }

  void reference_row(int64_t r) {
    const auto n = static_cast<double>(size);
    double mean = 0, variance = 0, level = 0, along = 0;
    for (int64_t i = 0; i < size && layer; ++i) mean += x.at(r * size + i) / n;
    for (int64_t i = 0; i < size; ++i) variance += std::pow(x.at(r * size + i) - mean, 2) / n;
    const double scale = 1 / std::sqrt(variance + kEpsilon);
    const auto unit = [&](int64_t i) { return (x.at(r * size + i) - mean) * scale; };
    const auto g = [&](int64_t i) { return dy.at(r * size + i) * weight.at(i); };
    for (int64_t i = 0; i < size; ++i) {
      level += layer ? g(i) / n : 0;
      along += g(i) * unit(i) / n;
    }
    for (int64_t i = 0; i < size; ++i) {
      const auto at = static_cast<size_t>(r * size + i);
      y[at] = unit(i) * weight.at(i) + (layer ? bias.at(i) : 0);
      dx[at] = scale * (g(i) - level - unit(i) * along);
      dweight[static_cast<size_t>(i)] += dy.at(r * size + i) * unit(i);
      dbias[static_cast<size_t>(i)] += dy.at(r * size + i);
    }
  }

  std::vector<Tensor> forward(int threads, const std::vector<int>& share = {}) const {
    std::vector<Tensor> operands = {x, weight};
    if (layer) operands.push_back(bias);
    return run_kernel(make_norm, {{"epsilon", kEpsilon}}, operands, {x.type()}, threads, share);
  }
  std::vector<Tensor> backward(int threads, const std::vector<int>& share = {}) const {
    std::vector<TensorType> results = {x.type(), weight.type()};
    if (layer) results.push_back(bias.type());
    return run_kernel(make_norm_grad, {{"epsilon", kEpsilon}}, {x, weight, dy}, results, threads, share);
  }
};

TEST(NormKernel, MatchesTheReferenceOnEveryIsaAndThreadCount) {
  for (const bool layer : {false, true}) {
    for (const auto& [rows, size] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 17}, {200, 131}, {65, 768}}) {
      const Norm norm(rows, size, layer);
      SCOPED_TRACE((layer ? "layer " : "rms ") + std::to_string(rows) + " x " + std::to_string(size));
      on_every_isa([&] {
        const auto y = norm.forward(1);
        EXPECT_LT(relative_error(y[0], norm.y), 1e-6);
        const auto gradients = norm.backward(1);
        EXPECT_LT(relative_error(gradients[0], norm.dx, 1), 2e-6);
        EXPECT_LT(relative_error(gradients[1], norm.dweight, 1), 2e-6);
        if (layer) {
          EXPECT_LT(relative_error(gradients[2], norm.dbias, 1), 2e-6);
        }
        EXPECT_TRUE(norm.forward(3, {0})[0].same_bits(y[0]));
        for (const int shared : {0, 2}) {
          const auto again = norm.backward(3, {shared, -1, -1});
          for (size_t i = 0; i < again.size(); ++i) EXPECT_TRUE(again[i].same_bits(gradients[i]));
        }
      });
    }
  }
}

TEST(NormKernel, ARowDoesNotDependOnTheOthers) {
  const Norm norm(130, 100, false);
  const auto all = norm.forward(2)[0];
  const Tensor last = Tensor::from<float>({1, 100}, norm.x.data<const float>().subspan(129 * 100));
  const auto one =
      run_kernel(make_norm, {{"epsilon", kEpsilon}}, {last, norm.weight}, {{DType::kF32, {1, 100}}})[0];
  for (int64_t i = 0; i < 100; ++i) EXPECT_EQ(one.at(i), all.at(129 * 100 + i));
}

}  // namespace
}  // namespace vertebra::cpu
