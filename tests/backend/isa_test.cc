#include "backend/cpu/kernels/isa.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "backend/cpu/kernels/convert.h"
#include "backend/cpu/kernels/kernels.h"
#include "base/error.h"
#include "tensor/dtype.h"

namespace vertebra {
namespace {

TEST(Isa, NamesRoundTrip) {
  for (const Isa isa : supported_isas()) EXPECT_EQ(isa_from_name(isa_name(isa)), isa);
  EXPECT_FALSE(isa_from_name("avx1024").has_value());
}

TEST(Isa, BestIsTheLastSupported) {
  EXPECT_EQ(supported_isas().back(), best_isa());
  for (const Isa isa : supported_isas()) EXPECT_EQ(kernels_for(isa).isa, isa);
}

TEST(Isa, UnsupportedIsRefusedByName) {
#if defined(__x86_64__)
  const Isa foreign = Isa::kNeon;
#else
  const Isa foreign = Isa::kAvx2;
#endif
  EXPECT_FALSE(isa_supported(foreign));
  try {
    set_isa(foreign);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kFailedPrecondition);
    EXPECT_NE(std::string(error.what()).find(isa_name(foreign)), std::string::npos);
  }
}

TEST(ConvertKernels, Bf16RoundsToNearestEvenOnEveryIsa) {
  std::vector<float> values;
  for (uint32_t high = 0; high < 0x10000; high += 7) {
    for (const uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  values.push_back(std::numeric_limits<float>::quiet_NaN());
  values.push_back(std::numeric_limits<float>::infinity());
  for (const Isa isa : supported_isas()) {
    const ConvertKernels& convert = *kernels_for(isa).convert;
    std::vector<uint16_t> halves(values.size());
    convert.f32_to_bf16(values.data(), halves.data(), static_cast<int64_t>(values.size()));
    std::vector<float> back(values.size());
    convert.bf16_to_f32(halves.data(), back.data(), static_cast<int64_t>(values.size()));
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(halves[i], float_to_bf16(values[i])) << isa_name(isa) << " " << values[i];
      ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), static_cast<uint32_t>(halves[i]) << 16) << isa_name(isa);
    }
  }
}

}  // namespace
}  // namespace vertebra
