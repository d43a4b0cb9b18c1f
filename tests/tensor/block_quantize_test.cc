// Quantizers: how far their blocks are from the values, for each type, beside the plain rounding that the
// format allows; and what must not break them.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/rng.h"
#include "tensor/block_quant.h"
#include "tensor/convert.h"

namespace vertebra {
namespace {

struct Bound {
  DType dtype;
  double most;  // root mean square error over that of the values
};
// Normally distributed values; the figures found, and 2 % on top.
class Quantizer : public ::testing::TestWithParam<Bound> {};

std::vector<float> normal_values(size_t count, uint64_t seed) {
  PhiloxSequence rng(Philox(seed, "quantizer"));
  std::vector<float> out(count);
  for (float& each : out) {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += static_cast<double>(rng.below(1 << 20)) / (1 << 20);
    each = static_cast<float>((sum - 6) * 0.02);
  }
  return out;
}

std::vector<float> round_trip(DType dtype, const std::vector<float>& values) {
  const BlockSize block = block_size(dtype);
  std::vector<std::byte> blocks(values.size() / static_cast<size_t>(block.elements) * block.bytes);
  quantize(dtype, values, blocks.data());
  std::vector<float> out(values.size());
  dequantize(dtype, blocks.data(), out);
  return out;
}

TEST_P(Quantizer, ErrorIsSmall) {
  const std::vector<float> values = normal_values(64 * 256, 7), found = round_trip(GetParam().dtype, values);
  double error = 0, power = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(static_cast<double>(found[i] - values[i]), 2);
    power += std::pow(static_cast<double>(values[i]), 2);
  }
  const double relative = std::sqrt(error / power);
  RecordProperty("relative_error", fmt::format("{:.5f}", relative));
  EXPECT_LT(relative, GetParam().most);
  EXPECT_GT(relative, GetParam().most / 1.2);  // a bound that has gone slack tests nothing
}

TEST_P(Quantizer, HardBlocksStayFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float special : {0.0f, 1e-38f, -1e-7f, 65000.0f, std::nanf(""), infinity, -infinity}) {
    std::vector<float> values(256, special);
    values[3] = 0.5f;
    values[200] = -0.25f;
    for (const float each : round_trip(GetParam().dtype, values)) EXPECT_TRUE(std::isfinite(each)) << special;
  }
  for (const float each : round_trip(GetParam().dtype, std::vector<float>(256, 0.0f))) EXPECT_EQ(each, 0.0f);
}

TEST_P(Quantizer, TensorsHaveTheSameBlocks) {
  const std::vector<float> values = normal_values(40 * 256, 9);
  const Tensor tensor =
      convert(Tensor::from<float>({20, 512}, std::span<const float>(values)), GetParam().dtype);
  const std::vector<float> wanted = round_trip(GetParam().dtype, values);
  const Tensor found = convert(tensor, DType::kF32);
  for (size_t i = 0; i < wanted.size(); ++i) ASSERT_EQ(found.data<float>()[i], wanted[i]);
}

INSTANTIATE_TEST_SUITE_P(Types, Quantizer,
                         ::testing::Values(Bound{DType::kQ8_0, 0.0054}, Bound{DType::kQ4_0, 0.0851},
                                           Bound{DType::kQ4_1, 0.0704}, Bound{DType::kQ5_0, 0.0415},
                                           Bound{DType::kQ5_1, 0.0342}, Bound{DType::kQ2_K, 0.2753},
                                           Bound{DType::kQ3_K, 0.1545}, Bound{DType::kQ4_K, 0.0716},
                                           Bound{DType::kQ5_K, 0.0355}, Bound{DType::kQ6_K, 0.0179},
                                           Bound{DType::kIQ4_NL, 0.0744}, Bound{DType::kMXFP4, 0.1132}));

// What the values of a block are is found again, signs and the order in its bytes too.
TEST(QuantizeMicroscaled, ValuesOfTheFormatStay) {
  std::vector<float> values(32);
  for (size_t j = 0; j < 32; ++j)
    values[j] = std::ldexp(static_cast<float>(kE2M1Twice[(5 * j + 3) % 16]), -11);
  EXPECT_EQ(round_trip(DType::kMXFP4, values), values);
  BlockMXFP4 block{};
  quantize(DType::kMXFP4, values, &block);
  EXPECT_EQ(block.e, 127 - 10);    // 6 is the largest, times 2^-10
  EXPECT_EQ(block.qs[1] & 15, 0);  // -0 is 0
  EXPECT_EQ(block.qs[2] & 15, 13);
  EXPECT_EQ(block.qs[2] >> 4, (5 * 18 + 3) % 16);
}

TEST(Convert, RefusesRowsThatAreNoWholeBlocks) {
  EXPECT_THROW(convert(Tensor::zeros({DType::kF32, {4, 48}}), DType::kQ8_0), Error);
  EXPECT_THROW(convert(Tensor::zeros({DType::kI32, {4, 32}}), DType::kF32), Error);
}

}  // namespace
}  // namespace vertebra
