// Element types, shapes and host tensors.
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace vertebra {
namespace {

TEST(DType, SixteenBitConversionsRoundToNearestEven) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float as_f16 = f16_to_float(half), as_bf16 = bf16_to_float(half);
    if (!std::isnan(as_f16)) {
      EXPECT_EQ(float_to_f16(as_f16), half) << bits;
    }
    if (!std::isnan(as_bf16)) {
      EXPECT_EQ(float_to_bf16(as_bf16), half) << bits;
    }
  }
  EXPECT_EQ(float_to_bf16(1.00390625f), 0x3f80);    // exactly half way: to even
  EXPECT_EQ(float_to_bf16(1.01171875f), 0x3f82);    // half way the other side
  EXPECT_EQ(float_to_f16(1.00048828125f), 0x3c00);  // half way: to even
  EXPECT_EQ(float_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(Shape, BoundsAreChecked) {
  EXPECT_EQ((Shape{4, 256}).to_string(), "[4, 256]");
  EXPECT_EQ((Shape{Dim(512, 1), 64}).to_string(), "[n1<=512, 64]");
  EXPECT_THROW((Shape{-1}), Error);
  EXPECT_THROW((Shape{int64_t{1} << 40, int64_t{1} << 40}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}), Error);
  EXPECT_EQ((Shape{2, 3, 5}).without(-2), (Shape{2, 5}));
}

TEST(Tensor, ConvertsReshapesAndCompares) {
  const Tensor a = Tensor::from<float>({2, 2}, {1.5f, -2, 3, 0.1f});
  EXPECT_EQ(a.to(DType::kBF16).to(DType::kF32).at(0), 1.5);
  EXPECT_NEAR(a.to(DType::kBF16).at(3), 0.1, 0.001);
  EXPECT_EQ(a.reshaped({4}).at(2), 3);
  EXPECT_THROW(a.reshaped({5}), Error);
  EXPECT_TRUE(a.same_bits(a.clone()));
  Tensor b = a.clone();
  b.set(3, 7);
  EXPECT_FALSE(a.same_bits(b));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(b.raw()) % 64, 0u);
}

}  // namespace
}  // namespace vertebra
