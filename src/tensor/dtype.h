// Element types, their sizes, names and conversions of single values.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace vertebra {

// The last are block-quantized, laid out as in GGUF files (tensor/block_quant.h):
// weights only, whose rows are whole blocks.
enum class DType : uint8_t {
  kF32,
  kBF16,
  kF16,
  kF64,
  kI64,
  kI32,
  kU32,
  kI8,
  kU8,
  kBool,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kMXFP4
};

// Bytes of one element; 0 for the block-quantized types, whose elements have no bytes of their own.
constexpr size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kBool:
      return 1;
    default:
      return 0;
  }
}

// How many elements share a block, and its bytes: 1 and dtype_size for the types that are not quantized.
struct BlockSize {
  int64_t elements;
  size_t bytes;
};
constexpr BlockSize block_size(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return {32, 34};
    case DType::kQ4_0:
    case DType::kIQ4_NL:
      return {32, 18};
    case DType::kQ4_1:
      return {32, 20};
    case DType::kQ5_0:
      return {32, 22};
    case DType::kQ5_1:
      return {32, 24};
    case DType::kQ2_K:
      return {256, 84};
    case DType::kQ3_K:
      return {256, 110};
    case DType::kQ4_K:
      return {256, 144};
    case DType::kQ5_K:
      return {256, 176};
    case DType::kQ6_K:
      return {256, 210};
    case DType::kMXFP4:
      return {32, 17};
    default:
      return {1, dtype_size(dtype)};
  }
}
constexpr bool is_block_quantized(DType dtype) { return block_size(dtype).elements > 1; }

constexpr bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF64;
}
constexpr bool is_integer(DType dtype) {
  return dtype == DType::kI64 || dtype == DType::kI32 || dtype == DType::kU32 || dtype == DType::kI8 ||
         dtype == DType::kU8;
}

// "f32", "bf16", "i32", "bool", "q4_k", ... as in graphs, recipes and reports.
std::string_view dtype_name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
// Round to nearest even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);

}  // namespace vertebra
