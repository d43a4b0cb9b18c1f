#include "formats/gguf_types.h"

#include <fmt/format.h>

#include "formats/gguf.h"

namespace vertebra {
namespace {

struct TypeRow {
  uint32_t number;
  const char* name;
  std::optional<DType> dtype;
  int64_t file_type = -1;  // general.file_type of a file mostly of this type
};
constexpr TypeRow kTypes[] = {
    {0, "F32", DType::kF32, 0},         {1, "F16", DType::kF16, 1},       {2, "Q4_0", DType::kQ4_0, 2},
    {3, "Q4_1", DType::kQ4_1, 3},       {6, "Q5_0", DType::kQ5_0, 8},     {7, "Q5_1", DType::kQ5_1, 9},
    {8, "Q8_0", DType::kQ8_0, 7},       {9, "Q8_1", std::nullopt},        {10, "Q2_K", DType::kQ2_K, 10},
    {11, "Q3_K", DType::kQ3_K, 12},     {12, "Q4_K", DType::kQ4_K, 15},   {13, "Q5_K", DType::kQ5_K, 17},
    {14, "Q6_K", DType::kQ6_K, 18},     {15, "Q8_K", std::nullopt},       {16, "IQ2_XXS", std::nullopt},
    {17, "IQ2_XS", std::nullopt},       {18, "IQ3_XXS", std::nullopt},    {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", DType::kIQ4_NL, 25}, {21, "IQ3_S", std::nullopt},      {22, "IQ2_S", std::nullopt},
    {23, "IQ4_XS", std::nullopt},       {24, "I8", DType::kI8},           {25, "I16", std::nullopt},
    {26, "I32", DType::kI32},           {27, "I64", DType::kI64},         {28, "F64", DType::kF64},
    {29, "IQ1_M", std::nullopt},        {30, "BF16", DType::kBF16, 32},   {34, "TQ1_0", std::nullopt},
    {35, "TQ2_0", std::nullopt},        {39, "MXFP4", DType::kMXFP4, 38}, {40, "NVFP4", std::nullopt},
    {41, "Q1_0", std::nullopt},         {42, "Q2_0", std::nullopt},
};

}  // namespace

std::optional<DType> gguf_dtype(uint32_t number) {
  for (const TypeRow& row : kTypes) {
    if (row.number == number) return row.dtype;
  }
  return std::nullopt;
}

std::optional<uint32_t> gguf_number(DType dtype) {
  for (const TypeRow& row : kTypes) {
    if (row.dtype == dtype) return row.number;
  }
  return std::nullopt;
}

std::string gguf_type_name(uint32_t number) {
  for (const TypeRow& row : kTypes) {
    if (row.number == number) return row.name;
  }
  return fmt::format("type {}", number);
}

std::string supported_gguf_types() {
  std::string out;
  for (const TypeRow& row : kTypes) {
    if (row.dtype.has_value()) out += fmt::format("{}{}", out.empty() ? "" : ", ", row.name);
  }
  return out;
}

int64_t gguf_file_type(DType dtype) {
  for (const TypeRow& row : kTypes) {
    if (row.dtype == dtype && row.file_type >= 0) return row.file_type;
  }
  return 0;
}

}  // namespace vertebra
