// The vector functions of kernels/math.h, through the elementwise kernels, against double precision.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/kernels/elementwise.h"
#include "backend/cpu/kernels/kernels.h"

namespace vertebra {
namespace {

struct Function {
  const char* name;
  UnaryF32 ElementwiseKernels::* kernel;
  double (*exact)(double);
  double ulps;  // allowed error
};

const Function kFunctions[] = {
    {"exponential", &ElementwiseKernels::exponential, [](double x) { return std::exp(x); }, 1.0},
    {"logarithm", &ElementwiseKernels::logarithm, [](double x) { return std::log(x); }, 1.0},
    {"tanh", &ElementwiseKernels::tanh, [](double x) { return std::tanh(x); }, 2.0},
    {"logistic", &ElementwiseKernels::logistic, [](double x) { return 1 / (1 + std::exp(-x)); }, 2.5},
    {"erf", &ElementwiseKernels::erf, [](double x) { return std::erf(x); }, 2.0},
};

// Every 1511th float of both signs, subnormals and infinities included.
std::vector<float> arguments() {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 1511) {
    values.push_back(std::bit_cast<float>(bits));
    values.push_back(std::bit_cast<float>(bits | 0x80000000u));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float special :
       {infinity, -infinity, 0.0f, -0.0f, 1.0f, 88.722839f, 88.72284f, -103.97f, -104.5f})
    values.push_back(special);
  return values;
}

double ulp_of(double exact) {
  const auto rounded = std::fabs(static_cast<float>(exact));
  if (rounded < 0x1p-126f) return 0x1p-149;
  return std::ldexp(1.0, std::ilogb(rounded) - 23);
}

TEST(MathKernels, ErrorsStayWithinTheStatedUlps) {
  const std::vector<float> x = arguments();
  std::vector<float> y(x.size());
  for (const Isa isa : supported_isas()) {
    for (const Function& function : kFunctions) {
      (kernels_for(isa).elementwise->*function.kernel)(x.data(), y.data(), static_cast<int64_t>(x.size()));
      double worst = 0;
      float worst_at = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double exact = function.exact(static_cast<double>(x[i]));
        const auto rounded = static_cast<float>(exact);
        if (std::isnan(rounded) || std::isinf(rounded)) {
          ASSERT_TRUE(std::isnan(rounded) ? std::isnan(y[i]) : y[i] == rounded)
              << isa_name(isa) << " " << function.name << "(" << x[i] << ") = " << y[i];
          continue;
        }
        const double error = std::fabs(static_cast<double>(y[i]) - exact) / ulp_of(exact);
        if (!(error <= worst)) worst = error, worst_at = x[i];
      }
      EXPECT_LE(worst, function.ulps) << isa_name(isa) << " " << function.name << "(" << worst_at << ")";
      RecordProperty(std::string(isa_name(isa)) + "_" + function.name, std::to_string(worst));
    }
  }
}

TEST(MathKernels, AnElementsBitsDoNotDependOnItsPosition) {
  std::vector<float> x(67);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) * 0.37f - 11.0f;
  for (const Isa isa : supported_isas()) {
    for (const Function& function : kFunctions) {
      std::vector<float> whole(x.size());
      (kernels_for(isa).elementwise->*function.kernel)(x.data(), whole.data(),
                                                       static_cast<int64_t>(x.size()));
      for (size_t i = 0; i < x.size(); ++i) {
        float one = 0;
        (kernels_for(isa).elementwise->*function.kernel)(&x[i], &one, 1);
        ASSERT_EQ(std::bit_cast<uint32_t>(one), std::bit_cast<uint32_t>(whole[i])) << function.name << i;
      }
    }
  }
}

TEST(MathKernels, NanStaysNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Isa isa : supported_isas()) {
    for (const Function& function : kFunctions) {
      float y = 0;
      (kernels_for(isa).elementwise->*function.kernel)(&nan, &y, 1);
      EXPECT_TRUE(std::isnan(y)) << isa_name(isa) << " " << function.name;
    }
  }
}

}  // namespace
}  // namespace vertebra
