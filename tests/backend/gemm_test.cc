// Matrix multiplication against a double reference with a forward error bound, and bit for bit against
// itself: over rows, threads, packings, transpositions, on every instruction set the machine has.
#include "backend/cpu/gemm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "backend/cpu/gemm_plan.h"
#include "base/error.h"

namespace vertebra {
namespace {

// A matrix of either element type with random values; bf16 values are exact in `f32`.
struct Matrix {
  int64_t rows, cols;
  DType dtype;
  std::vector<float> f32;
  std::vector<uint16_t> bf16;

  Matrix(int64_t rows_in, int64_t cols_in, DType dtype_in, uint64_t seed)
      : rows(rows_in), cols(cols_in), dtype(dtype_in) {
    f32.resize(static_cast<size_t>(rows * cols));
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (float& x : f32) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      x = static_cast<float>(static_cast<int32_t>(state >> 33) % 20001 - 10000) / 7919.0f;
    }
    if (dtype == DType::kBF16) {
      bf16.resize(f32.size());
      for (size_t i = 0; i < f32.size(); ++i) {
        bf16[i] = float_to_bf16(f32[i]);
        f32[i] = bf16_to_float(bf16[i]);
      }
    }
  }
  const void* data() const {
    return dtype == DType::kBF16 ? static_cast<const void*>(bf16.data()) : f32.data();
  }
  void* data() { return dtype == DType::kBF16 ? static_cast<void*>(bf16.data()) : f32.data(); }
  double at(int64_t i, int64_t j) const { return f32[static_cast<size_t>(i * cols + j)]; }
  // After the product wrote data().
  double result(int64_t i, int64_t j) const {
    const auto index = static_cast<size_t>(i * cols + j);
    return dtype == DType::kBF16 ? bf16_to_float(bf16[index]) : f32[index];
  }
  Matrix transposed() const {
    Matrix t(cols, rows, dtype, 0);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) {
        t.f32[static_cast<size_t>(j * rows + i)] = f32[static_cast<size_t>(i * cols + j)];
        if (dtype == DType::kBF16)
          t.bf16[static_cast<size_t>(j * rows + i)] = bf16[static_cast<size_t>(i * cols + j)];
      }
    }
    return t;
  }
};

GemmArgs args_of(const Matrix& a, const Matrix& b, Matrix& c) {
  GemmArgs args;
  args.m = a.rows;
  args.n = b.cols;
  args.k = a.cols;
  args.a = a.data();
  args.a_dtype = a.dtype;
  args.lda = a.cols;
  args.b = b.data();
  args.b_dtype = b.dtype;
  args.ldb = b.cols;
  args.c = c.data();
  args.c_dtype = c.dtype;
  args.ldc = c.cols;
  return args;
}

void run(const GemmArgs& args, int threads, const KernelTable& table) {
  ThreadTeam team(threads);
  std::vector<std::byte> workspace(gemm_workspace_bytes(args, threads, table));
  gemm(args, workspace, team, table);
}

double activation_of(GemmActivation activation, double x) {
  switch (activation) {
    case GemmActivation::kNone:
      return x;
    case GemmActivation::kSilu:
      return x / (1 + std::exp(-x));
    case GemmActivation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case GemmActivation::kGeluErf:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
  }
  return 0;
}

// |computed - exact| <= (K + 8) u sum |a b|, u = 2^-24 (every product and sum rounded once); for a bf16
// result its own rounding on top. No activation has a slope above 1.2.
void expect_close(const GemmArgs& args, const Matrix& a, const Matrix& b, const Matrix& before,
                  const Matrix& c, const Matrix* bias, const Matrix* residual, const std::string& what) {
  for (int64_t i = 0; i < args.m; ++i) {
    for (int64_t j = 0; j < args.n; ++j) {
      double sum = 0;
      double size = 0;
      for (int64_t k = 0; k < args.k; ++k) {
        sum += a.at(i, k) * b.at(k, j);
        size += std::fabs(a.at(i, k) * b.at(k, j));
      }
      sum *= args.alpha;
      size *= std::fabs(args.alpha);
      if (args.accumulate) sum += before.at(i, j);
      if (bias != nullptr) sum += bias->at(0, j);
      double wanted = activation_of(args.activation, sum);
      if (residual != nullptr) wanted += residual->at(i, j);
      double bound = 1.2 * (static_cast<double>(args.k) + 8) * 0x1p-24 * (size + std::fabs(wanted) + 4);
      if (args.c_dtype == DType::kBF16) bound += 0x1p-8 * std::fabs(wanted);
      ASSERT_NEAR(c.result(i, j), wanted, bound) << what << " at " << i << "," << j;
    }
  }
}

const int64_t kOddSizes[] = {1, 3, 17, 31, 33, 127};

struct DTypes {
  DType a, b, c;
};
const DTypes kDTypes[] = {{DType::kF32, DType::kF32, DType::kF32},
                          {DType::kBF16, DType::kBF16, DType::kF32},
                          {DType::kBF16, DType::kBF16, DType::kBF16},
                          {DType::kF32, DType::kBF16, DType::kF32},
                          {DType::kBF16, DType::kF32, DType::kF32}};

std::string describe(const KernelTable& table, const DTypes& dtypes, const GemmArgs& args) {
  return std::string(isa_name(table.isa)) + " " + std::string(dtype_name(dtypes.a)) + "x" +
         std::string(dtype_name(dtypes.b)) + "->" + std::string(dtype_name(dtypes.c)) +
         " m=" + std::to_string(args.m) + " n=" + std::to_string(args.n) + " k=" + std::to_string(args.k) +
         " ta=" + std::to_string(args.a_transposed) + " tb=" + std::to_string(args.b_transposed);
}

class GemmOnIsa : public testing::TestWithParam<Isa> {
 protected:
  const KernelTable& table() const { return kernels_for(GetParam()); }
};

TEST_P(GemmOnIsa, OddSizesAgreeWithDoubleReference) {
  for (const DTypes& dtypes : kDTypes) {
    for (const int64_t m : kOddSizes) {
      for (const int64_t n : {1, 17, 33, 127}) {
        for (const int64_t k : {1, 3, 31, 64, 127}) {
          const Matrix a(m, k, dtypes.a, 1);
          const Matrix b(k, n, dtypes.b, 2);
          Matrix c(m, n, dtypes.c, 3);
          const Matrix before = c;
          const GemmArgs args = args_of(a, b, c);
          run(args, 1, table());
          expect_close(args, a, b, before, c, nullptr, nullptr, describe(table(), dtypes, args));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(GemmOnIsa, DeepProductsAgreeWithDoubleReference) {
  for (const DTypes& dtypes : kDTypes) {
    for (const int64_t k : {511, 512, 513, 1025, 2307}) {
      const Matrix a(19, k, dtypes.a, 1);
      const Matrix b(k, 45, dtypes.b, 2);
      Matrix c(19, 45, dtypes.c, 3);
      const Matrix before = c;
      const GemmArgs args = args_of(a, b, c);
      run(args, 2, table());
      expect_close(args, a, b, before, c, nullptr, nullptr, describe(table(), dtypes, args));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(GemmOnIsa, EpiloguesAgreeWithDoubleReference) {
  const int64_t m = 37, n = 83;
  for (const DTypes& dtypes : kDTypes) {
    for (const int64_t k : {40, 1030}) {
      for (int bits = 0; bits < 8; ++bits) {
        for (const GemmActivation activation : {GemmActivation::kNone, GemmActivation::kSilu,
                                                GemmActivation::kGeluTanh, GemmActivation::kGeluErf}) {
          const Matrix a(m, k, dtypes.a, 1);
          const Matrix b(k, n, dtypes.b, 2);
          const Matrix bias(1, n, dtypes.c, 4);
          const Matrix residual(m, n, dtypes.c, 5);
          Matrix c(m, n, dtypes.c, 3);
          const Matrix before = c;
          GemmArgs args = args_of(a, b, c);
          args.alpha = 0.05f;
          args.accumulate = (bits & 1) != 0;
          args.activation = activation;
          if ((bits & 2) != 0) args.bias = bias.data();
          args.bias_dtype = bias.dtype;
          if ((bits & 4) != 0) args.residual = residual.data();
          args.residual_dtype = residual.dtype;
          args.ldr = n;
          run(args, 2, table());
          expect_close(args, a, b, before, c, (bits & 2) != 0 ? &bias : nullptr,
                       (bits & 4) != 0 ? &residual : nullptr,
                       describe(table(), dtypes, args) + " epilogue " + std::to_string(bits));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(GemmOnIsa, ResidualMayBeTheResult) {
  const int64_t m = 20, n = 70, k = 1300;
  const Matrix a(m, k, DType::kF32, 1);
  const Matrix b(k, n, DType::kF32, 2);
  Matrix c(m, n, DType::kF32, 3);
  Matrix residual = c;
  Matrix apart(m, n, DType::kF32, 6);
  GemmArgs args = args_of(a, b, apart);
  args.residual = residual.data();
  args.ldr = n;
  run(args, 2, table());
  GemmArgs in_place = args_of(a, b, c);
  in_place.residual = c.data();
  in_place.ldr = n;
  run(in_place, 2, table());
  EXPECT_EQ(0, std::memcmp(c.f32.data(), apart.f32.data(), c.f32.size() * 4));
}

TEST_P(GemmOnIsa, EmptyDepthGivesTheEpilogueAlone) {
  Matrix a(5, 0, DType::kF32, 1);
  Matrix b(0, 40, DType::kF32, 2);
  Matrix c(5, 40, DType::kF32, 3);
  const Matrix before = c;
  GemmArgs args = args_of(a, b, c);
  args.accumulate = true;
  run(args, 2, table());
  EXPECT_EQ(c.f32, before.f32);
  args.accumulate = false;
  run(args, 2, table());
  EXPECT_EQ(c.f32, std::vector<float>(c.f32.size(), 0.0f));
  args.m = 0;
  run(args, 2, table());
}

// The promise that cached decoding and batching rest on: one reference result, taken row by row on one
// thread; every other way to compute it must give the same bits.
TEST_P(GemmOnIsa, BitsDependOnlyOnDepth) {
  for (const DTypes& dtypes : kDTypes) {
    // 1030: more than one block of K in every form. Few rows there: emulated bf16 products are slow.
    for (const int64_t k : {7, 130, 1030}) {
      const int64_t m = k > 1000 ? 33 : 300, n = 75;
      const Matrix a(m, k, dtypes.a, 1);
      const Matrix b(k, n, dtypes.b, 2);
      const Matrix at = a.transposed();
      const Matrix bt = b.transposed();
      Matrix wanted(m, n, dtypes.c, 0);
      for (int64_t i = 0; i < m; ++i) {
        GemmArgs row = args_of(a, b, wanted);
        row.m = 1;
        row.a = static_cast<const std::byte*>(row.a) + static_cast<size_t>(i * k) * dtype_size(dtypes.a);
        row.c = static_cast<std::byte*>(row.c) + static_cast<size_t>(i * n) * dtype_size(dtypes.c);
        run(row, 1, table());
      }
      const auto row_bytes = static_cast<size_t>(n) * dtype_size(dtypes.c);
      for (const int threads : {1, 2, 3}) {
        ThreadTeam team(threads);
        PackedMatrix packed;
        for (int layout = 0; layout < 6; ++layout) {
          for (const int64_t rows : {1, 2, 3, 8, 15, 16, 33, 300}) {
            if (rows > m) continue;
            Matrix c(rows, n, dtypes.c, 9);
            GemmArgs args = args_of(a, b, c);
            args.m = rows;
            if (layout % 2 == 1) {
              args.a = at.data();
              args.lda = m;
              args.a_transposed = true;
            }
            if (layout / 2 == 1) {
              args.b = bt.data();
              args.ldb = k;
              args.b_transposed = true;
            }
            if (layout / 2 == 2) {
              pack_b(packed, b.data(), b.dtype, k, n, n, false, team, table());
              args.b = nullptr;
              args.b_packed = &packed;
            }
            std::vector<std::byte> workspace(gemm_workspace_bytes(args, threads, table()));
            gemm(args, workspace, team, table());
            ASSERT_EQ(0, std::memcmp(c.data(), wanted.data(), static_cast<size_t>(rows) * row_bytes))
                << describe(table(), dtypes, args) << " threads " << threads << " layout " << layout;
          }
        }
      }
    }
  }
}

// Shapes that reach every way of packing: wide, tall, both large, with batches.
TEST_P(GemmOnIsa, LargeShapesKeepTheBitsOfSingleRows) {
  struct Shape {
    int64_t m, n, k;
  };
  for (const Shape& s :
       {Shape{40, 3000, 70}, Shape{3000, 40, 70}, Shape{500, 600, 600}, Shape{64, 1500, 1100}}) {
    for (const DTypes& dtypes : kDTypes) {
      const Matrix a(s.m, s.k, dtypes.a, 1);
      const Matrix b(s.k, s.n, dtypes.b, 2);
      Matrix c(s.m, s.n, dtypes.c, 3);
      run(args_of(a, b, c), 3, table());
      for (const int64_t i : {int64_t{0}, s.m / 2, s.m - 1}) {
        Matrix row(1, s.n, dtypes.c, 3);
        GemmArgs args = args_of(a, b, row);
        args.m = 1;
        args.a = static_cast<const std::byte*>(args.a) + static_cast<size_t>(i * s.k) * dtype_size(dtypes.a);
        run(args, 1, table());
        const auto row_bytes = static_cast<size_t>(s.n) * dtype_size(dtypes.c);
        ASSERT_EQ(0, std::memcmp(static_cast<const std::byte*>(c.data()) + static_cast<size_t>(i) * row_bytes,
                                 row.data(), row_bytes))
            << describe(table(), dtypes, args) << " of " << s.m << " row " << i;
      }
    }
  }
}

TEST_P(GemmOnIsa, BatchesEqualSingleProducts) {
  const int64_t batch = 7, m = 50, n = 33, k = 61;
  for (const DTypes& dtypes : kDTypes) {
    const Matrix a(batch * m, k, dtypes.a, 1);
    const Matrix b(batch * k, n, dtypes.b, 2);
    Matrix c(batch * m, n, dtypes.c, 3);
    Matrix wanted(batch * m, n, dtypes.c, 3);
    GemmArgs args = args_of(a, b, c);
    args.m = m;
    for (int64_t i = 0; i < batch; ++i) {
      GemmArgs one = args_of(a, b, wanted);
      one.m = m;
      one.a = static_cast<const std::byte*>(one.a) + static_cast<size_t>(i * m * k) * dtype_size(dtypes.a);
      one.b = static_cast<const std::byte*>(one.b) + static_cast<size_t>(i * k * n) * dtype_size(dtypes.b);
      one.c = static_cast<std::byte*>(one.c) + static_cast<size_t>(i * m * n) * dtype_size(dtypes.c);
      run(one, 1, table());
    }
    args.batch = batch;
    args.a_batch_stride = m * k;
    args.b_batch_stride = k * n;
    args.c_batch_stride = m * n;
    run(args, 2, table());
    ASSERT_EQ(0, std::memcmp(c.data(), wanted.data(), c.f32.size() * dtype_size(dtypes.c)));
  }
}

// A long K is taken in slices; a batch of two is not, nor are a few rows: the bits are the same.
TEST_P(GemmOnIsa, SlicesOfALongDepthKeepTheBits) {
  const int64_t m = 20, n = 40, k = 13003;
  for (const DTypes& dtypes : {kDTypes[0], kDTypes[1], kDTypes[3]}) {
    for (const bool transposed : {false, true}) {
      const Matrix a(2 * m, k, dtypes.a, 1), b(2 * k, n, dtypes.b, 2);
      const Matrix bias(1, n, DType::kF32, 4), residual(2 * m, n, DType::kF32, 5);
      Matrix first(m, k, dtypes.a, 1), second(k, n, dtypes.b, 2);
      const Matrix at = first.transposed(), bt = second.transposed();
      Matrix sliced(m, n, DType::kF32, 3), both(2 * m, n, DType::kF32, 3), row(1, n, DType::kF32, 3);
      const auto finish = [&](GemmArgs args) {
        args.alpha = 0.5f;
        args.accumulate = true;
        args.bias = bias.data();
        args.residual = residual.data();
        args.ldr = n;
        args.activation = GemmActivation::kSilu;
        return args;
      };
      GemmArgs args = finish(args_of(a, b, sliced));
      args.m = m, args.k = k;
      if (transposed) {
        args.a = at.data(), args.lda = m, args.a_transposed = true;
        args.b = bt.data(), args.ldb = k, args.b_transposed = true;
      }
      ThreadTeam team(3);
      std::vector<std::byte> workspace(gemm_workspace_bytes(args, 3, table()));
      EXPECT_LT(workspace.size(), size_t{8} << 20) << "all of K was packed";
      gemm(args, workspace, team, table());

      GemmArgs batch = finish(args_of(a, b, both));
      batch.m = m, batch.k = k, batch.batch = 2;
      batch.a_batch_stride = m * k, batch.b_batch_stride = k * n, batch.c_batch_stride = m * n;
      batch.residual_batch_stride = m * n;
      run(batch, 2, table());
      EXPECT_EQ(0, std::memcmp(sliced.data(), both.data(), static_cast<size_t>(m * n) * sizeof(float)))
          << describe(table(), dtypes, args);

      GemmArgs single = finish(args_of(a, b, row));
      single.m = 1, single.k = k;
      run(single, 1, table());
      EXPECT_EQ(0, std::memcmp(sliced.data(), row.data(), static_cast<size_t>(n) * sizeof(float)))
          << describe(table(), dtypes, args);

      for (const int64_t fewer : {1, 16, 17, 19}) {
        args.m = fewer;
        EXPECT_NO_THROW(gemm(args, workspace, team, table())) << fewer;
      }
    }
  }
}

// A step compiled for a bounded number of rows runs with any smaller one in the same workspace.
TEST_P(GemmOnIsa, WorkspaceOfTheBoundServesSmallerRows) {
  for (const DTypes& dtypes : kDTypes) {
    for (const int64_t n : {40, 300}) {
      const int64_t k = 150, bound = 400;
      const Matrix a(bound, k, dtypes.a, 1);
      const Matrix b(k, n, dtypes.b, 2);
      Matrix c(bound, n, dtypes.c, 3);
      ThreadTeam team(3);
      GemmArgs args = args_of(a, b, c);
      std::vector<std::byte> workspace(gemm_workspace_bytes(args, 3, table()));
      for (const int64_t m : {0, 1, 14, 200, 399}) {
        args.m = m;
        EXPECT_NO_THROW(gemm(args, workspace, team, table())) << describe(table(), dtypes, args);
      }
    }
  }
}

// The same of plans alone, which cost nothing to make: over every way of packing, in parts and whole.
TEST_P(GemmOnIsa, PlanOfTheBoundHoldsThePlansOfFewerRows) {
  for (const DTypes& dtypes : kDTypes) {
    for (int bits = 0; bits < 32; ++bits) {
      for (const int64_t n : {1, 40, 512, 4096}) {
        for (const int64_t k : {1, 97, 512, 1100, 20000}) {
          GemmArgs args;
          args.n = n;
          args.k = k;
          args.batch = (bits & 1) != 0 ? 9 : 1;
          args.a_transposed = (bits & 2) != 0;
          args.b_transposed = (bits & 4) != 0;
          args.accumulate = (bits & 8) != 0;
          args.a_dtype = dtypes.a;
          args.b_dtype = dtypes.b;
          args.c_dtype = dtypes.c;
          float c = 0;
          args.c = &c;
          if ((bits & 16) != 0) args.residual = &c;
          const int64_t bound = 5000;
          args.lda = std::max(k, bound);
          args.ldb = std::max(k, n);
          args.ldc = args.ldr = n;
          for (const int threads : {1, 2, 16}) {
            args.m = bound;
            const size_t bytes = gemm_plan_bound(args, threads, table());
            for (const int64_t m : {1, 13, 17, 130, 300, 1024, 2047, 4999}) {
              args.m = m;
              ASSERT_LE(make_gemm_plan(args, threads, table()).bytes(threads), bytes)
                  << describe(table(), dtypes, args) << " of " << bound << " on " << threads << " bits "
                  << bits;
            }
          }
        }
      }
    }
  }
}

TEST_P(GemmOnIsa, LeadingDimensionsLeaveTheRestAlone) {
  const int64_t m = 21, n = 39, k = 35, ld = 64;
  const Matrix a(m, ld, DType::kF32, 1);
  const Matrix b(k, ld, DType::kF32, 2);
  Matrix c(m, ld, DType::kF32, 3);
  const Matrix before = c;
  GemmArgs args = args_of(a, b, c);
  args.n = n;
  args.k = k;
  run(args, 2, table());
  expect_close(args, a, b, before, c, nullptr, nullptr, "strided");
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = n; j < ld; ++j) ASSERT_EQ(c.at(i, j), before.at(i, j));
  }
}

INSTANTIATE_TEST_SUITE_P(Every, GemmOnIsa, testing::ValuesIn(supported_isas()),
                         [](const auto& param) { return std::string(isa_name(param.param)); });

TEST(Gemm, RefusesWhatContradictsItself) {
  ThreadTeam team(1);
  Matrix a(4, 8, DType::kF32, 1);
  Matrix b(8, 4, DType::kF32, 2);
  Matrix c(4, 4, DType::kF32, 3);
  std::vector<std::byte> workspace(1 << 20);
  GemmArgs args = args_of(a, b, c);
  args.lda = 7;
  EXPECT_THROW(gemm(args, workspace, team), Error);
  args = args_of(a, b, c);
  args.a_dtype = DType::kF16;
  EXPECT_THROW(gemm(args, workspace, team), Error);
  args = args_of(a, b, c);
  PackedMatrix packed;
  pack_b(packed, b.data(), DType::kF32, 8, 3, 4, false, team);
  args.b_packed = &packed;
  EXPECT_THROW(gemm(args, workspace, team), Error);
  args = args_of(a, b, c);
  EXPECT_THROW(gemm(args, std::span<std::byte>(), team), Error);
}

}  // namespace
}  // namespace vertebra
