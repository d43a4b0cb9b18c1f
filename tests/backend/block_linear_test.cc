// Products of block-quantized weights: panels hold the blocks, rounded rows are what they should be, products
// of the rounded values agree with double precision, and bits depend on nothing but the row, on every type
// and instruction set.
#include "backend/cpu/block_linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/block_matrix.h"
#include "backend/cpu/kernels/block_product.h"
#include "backend/cpu/kernels/kernels.h"
#include "tensor/block_quant.h"
#include "tests/tensor/random_blocks.h"

namespace vertebra {
namespace {

constexpr DType kTypes[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ4_1,   DType::kQ5_0,
                            DType::kQ5_1, DType::kQ2_K, DType::kQ3_K,   DType::kQ4_K,
                            DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kMXFP4};

struct Weight {
  Tensor blocks;
  std::vector<uint64_t> memory;  // aligned for the panels' floats
  const std::byte* panels() const { return reinterpret_cast<const std::byte*>(memory.data()); }

  Weight(DType dtype, int64_t n, int64_t k, ThreadTeam& team)
      : blocks(random_blocks({dtype, {n, k}}, Philox(3, dtype_name(dtype)))),
        memory(panels_size_bytes(blocks.type()) / 8 + 8) {
    pack_blocks(blocks.type(), blocks.raw(), reinterpret_cast<std::byte*>(memory.data()), team);
  }
};

std::vector<float> random_rows(int64_t count, const char* stream) {
  const Philox random(5, stream);
  std::vector<float> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(random.normal(i));
  return out;
}

std::vector<float> product(const Weight& weight, const float* x, int64_t m, ThreadTeam& team) {
  const int64_t n = weight.blocks.shape()[0], k = weight.blocks.shape()[1];
  std::vector<float> out(static_cast<size_t>(m * n), -1);
  GemmFinish finish = {};
  finish.out = out.data();
  finish.out_stride = n;
  const BlockWeight one = {weight.blocks.dtype(), n, weight.panels(), finish};
  const BlockLinearArgs args = {m, k, x, {&one, 1}};
  std::vector<std::byte> workspace(block_linear_workspace_bytes(args, team.size()) + 64);
  std::byte* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64) % 64;
  block_linear(args, aligned, team);
  return out;
}

class BlockLinear : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    before_ = active_isa();
    set_isa(GetParam());
  }
  void TearDown() override { set_isa(before_); }

 private:
  Isa before_ = Isa::kBaseline;
};

TEST(BlockMatrix, PanelsHoldTheBlocksOfAnyNumberOfRows) {
  ThreadTeam team(2);
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    for (const int64_t rows : {1, 16, 37}) {
      const int64_t k = 3 * block_size(dtype).elements;
      const Weight weight(dtype, rows, k, team);
      Tensor back(weight.blocks.type());
      unpack_blocks(back.type(), weight.panels(), back.raw());
      EXPECT_TRUE(back.same_bits(weight.blocks)) << rows;
      std::vector<float> found(static_cast<size_t>(k));
      const Tensor wanted = weight.blocks.to(DType::kF32);
      for (int64_t row = 0; row < rows; ++row) {
        dequantize_panel_row(dtype, weight.panels(), row, found);
        EXPECT_EQ(std::memcmp(found.data(), wanted.data<float>().data() + row * k, found.size() * 4), 0)
            << row;
      }
    }
  }
}

TEST_P(BlockLinear, RowsAreRoundedToTheNearestOf255Values) {
  const BlockProductKernels& k = *kernels().block_product;
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const BlockTraits traits = block_traits(block_format(dtype));
    const int64_t size = 2 * traits.elements, rows = 3;
    std::vector<float> x = random_rows(rows * size, "round");
    for (int i = 0; i < traits.elements; ++i) x[static_cast<size_t>(i)] = 0;  // a block of zeros
    std::vector<int8_t> codes(x.size());
    std::vector<float> scales(static_cast<size_t>(2 * rows));
    std::vector<int32_t> sums(static_cast<size_t>(size / traits.group * rows));
    k.quantize(block_format(dtype), x.data(), size, size,
               {codes.data(), scales.data(), sums.data(), static_cast<int32_t>(rows)});
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t b = 0; b < 2; ++b) {
        float largest = 0;
        for (int64_t i = 0; i < traits.elements; ++i)
          largest = std::max(largest, std::fabs(x[static_cast<size_t>(r * size + b * traits.elements + i)]));
        const float scale = scales[static_cast<size_t>(b * rows + r)];
        EXPECT_EQ(scale, largest / 127.0f);
        for (int64_t i = b * traits.elements; i < (b + 1) * traits.elements; ++i) {
          const double code = codes[static_cast<size_t>((i / 4 * rows + r) * 4 + i % 4)];
          const double exact =
              scale == 0 ? 0 : x[static_cast<size_t>(r * size + i)] / static_cast<double>(scale);
          EXPECT_LE(std::fabs(code - exact), 0.5001);
          EXPECT_LE(std::fabs(code), 127);
        }
      }
    }
  }
}

TEST_P(BlockLinear, ProductsOfTheRoundedRowsAgreeWithDoublePrecision) {
  ThreadTeam team(2);
  const BlockProductKernels& kernel = *kernels().block_product;
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const BlockTraits traits = block_traits(block_format(dtype));
    const int64_t n = 37, k = 5 * traits.elements, m = 19;
    const Weight weight(dtype, n, k, team);
    const std::vector<float> x = random_rows(m * k, "x"), y = product(weight, x.data(), m, team);
    const Tensor w = weight.blocks.to(DType::kF32);
    for (int64_t r = 0; r < m; ++r) {
      std::vector<int8_t> codes(static_cast<size_t>(k));
      std::vector<float> scales(5);
      std::vector<int32_t> sums(static_cast<size_t>(k / traits.group));
      kernel.quantize(block_format(dtype), x.data() + r * k, k, k,
                      {codes.data(), scales.data(), sums.data(), 1});
      for (int64_t c = 0; c < n; ++c) {
        double sum = 0, magnitude = 0;
        for (int64_t i = 0; i < k; ++i) {
          const double term = static_cast<double>(scales[static_cast<size_t>(i / traits.elements)]) *
                              codes[static_cast<size_t>(i)] * w.data<float>()[static_cast<size_t>(c * k + i)];
          sum += term;
          magnitude += std::fabs(term);
        }
        // Scales times mins cancel: their parts are larger than the values.
        ASSERT_NEAR(y[static_cast<size_t>(r * n + c)], sum, 2e-6 * magnitude)
            << "row " << r << ", column " << c;
      }
    }
  }
}

TEST_P(BlockLinear, ARowsBitsDependOnNothingElse) {
  ThreadTeam one(1), three(3);
  for (const DType dtype : kTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const int64_t n = 83, k = 1536, m = 27;
    const Weight weight(dtype, n, k, one);
    const std::vector<float> x = random_rows(m * k, "rows"), all = product(weight, x.data(), m, one);
    for (ThreadTeam* team : {&one, &three}) {
      for (const int64_t count : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 27}) {
        for (const int64_t first : {int64_t{0}, (m - count) / 2, m - count}) {
          const std::vector<float> some = product(weight, x.data() + first * k, count, *team);
          EXPECT_EQ(std::memcmp(some.data(), all.data() + first * n, some.size() * 4), 0)
              << count << " rows from " << first << " on " << team->size() << " threads";
        }
      }
    }
  }
}

TEST_P(BlockLinear, WhatIsNotFiniteStaysInItsRow) {
  ThreadTeam team(1);
  const Weight weight(DType::kQ4_K, 20, 512, team);
  std::vector<float> x = random_rows(3 * 512, "finite");
  x[512 + 300] = std::numeric_limits<float>::quiet_NaN();
  x[1024 + 5] = std::numeric_limits<float>::infinity();
  const std::vector<float> y = product(weight, x.data(), 3, team);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isfinite(y[i]), i < 20) << i;
}

INSTANTIATE_TEST_SUITE_P(BlockLinear, BlockLinear, testing::ValuesIn(supported_isas()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

}  // namespace
}  // namespace vertebra
