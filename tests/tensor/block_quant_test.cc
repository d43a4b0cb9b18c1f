// Block-quantized types: sizes, and floats equal to those of the gguf package (tools/golden/block_quant.py).
#include "tensor/block_quant.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/file.h"
#include "base/json.h"
#include "tensor/tensor.h"

namespace vertebra {
namespace {

std::vector<std::byte> bytes_of(const std::string& hexadecimal) {
  std::vector<std::byte> out;
  for (size_t i = 0; i < hexadecimal.size(); i += 2)
    out.push_back(static_cast<std::byte>(std::stoi(hexadecimal.substr(i, 2), nullptr, 16)));
  return out;
}

TEST(BlockQuant, DequantizesAsTheReferenceDoes) {
  const Json golden =
      read_json_file(std::filesystem::path(VERTEBRA_SOURCE_DIR) / "tests/golden/block_quant.json");
  ASSERT_EQ(golden.size(), 12u);
  for (const auto& [name, each] : golden.items()) {
    SCOPED_TRACE(name);
    const auto dtype = dtype_from_name(name);
    ASSERT_TRUE(dtype.has_value());
    const auto blocks = bytes_of(each["blocks"].get<std::string>());
    const auto wanted = bytes_of(each["values"].get<std::string>());
    Tensor packed(*dtype, {256});
    ASSERT_EQ(packed.size_bytes(), blocks.size());
    std::memcpy(packed.raw(), blocks.data(), blocks.size());
    const Tensor values = packed.to(DType::kF32);
    ASSERT_EQ(values.size_bytes(), wanted.size());
    const Tensor reference = Tensor::view({DType::kF32, {256}}, wanted.data(), nullptr);
    for (int64_t i = 0; i < 256; ++i) {
      ASSERT_EQ(values.at(i), reference.at(i)) << i;
      ASSERT_EQ(packed.at(i), reference.at(i)) << i;
    }
  }
}

TEST(BlockQuant, CountsWholeBlocks) {
  EXPECT_EQ((TensorType{DType::kQ4_K, {3, 512}}).size_bytes(), 3 * 2 * 144u);
  EXPECT_EQ((TensorType{DType::kQ8_0, {5, 64}}).size_bytes(), 5 * 2 * 34u);
  EXPECT_FALSE(is_block_quantized(DType::kBF16));
  EXPECT_FALSE(is_float(DType::kQ4_K));
}

}  // namespace
}  // namespace vertebra
