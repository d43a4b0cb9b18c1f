#include "tensor/dtype.h"

#include <array>
#include <cmath>
#include <utility>

namespace vertebra {
namespace {

constexpr auto kNames = std::to_array<std::pair<DType, std::string_view>>(
    {{DType::kF32, "f32"},       {DType::kBF16, "bf16"},  {DType::kF16, "f16"},   {DType::kF64, "f64"},
     {DType::kI64, "i64"},       {DType::kI32, "i32"},    {DType::kU32, "u32"},   {DType::kI8, "i8"},
     {DType::kU8, "u8"},         {DType::kBool, "bool"},  {DType::kQ8_0, "q8_0"}, {DType::kQ4_0, "q4_0"},
     {DType::kQ4_1, "q4_1"},     {DType::kQ5_0, "q5_0"},  {DType::kQ5_1, "q5_1"}, {DType::kQ2_K, "q2_k"},
     {DType::kQ3_K, "q3_k"},     {DType::kQ4_K, "q4_k"},  {DType::kQ5_K, "q5_k"}, {DType::kQ6_K, "q6_k"},
     {DType::kIQ4_NL, "iq4_nl"}, {DType::kMXFP4, "mxfp4"}});

}  // namespace

std::string_view dtype_name(DType dtype) {
  for (const auto& [value, name] : kNames) {
    if (value == dtype) return name;
  }
  return "?";
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const auto& [value, its_name] : kNames) {
    if (its_name == name) return value;
  }
  return std::nullopt;
}

float f16_to_float(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                                               // below 2^-14: subnormal
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

}  // namespace vertebra
