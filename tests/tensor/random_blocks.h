// Block-quantized tensors with random codes and sub-scales, and scales that make values of about 1. For tests
// and benchmarks that need no model.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/rng.h"
#include "tensor/tensor.h"

namespace vertebra {

// Where a block has its scales in f16, and the value of a typical one.
struct ScalePlace {
  size_t offset;
  float value;
};

inline std::vector<ScalePlace> scale_places(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return {{0, 0.02f}};
    case DType::kQ4_0:
      return {{0, 0.3f}};
    case DType::kQ4_1:
      return {{0, 0.25f}, {2, -1.8f}};
    case DType::kQ5_0:
      return {{0, 0.15f}};
    case DType::kQ5_1:
      return {{0, 0.12f}, {2, -1.8f}};
    case DType::kQ2_K:
      return {{80, 0.1f}, {82, 0.1f}};
    case DType::kQ3_K:
      return {{108, 0.03f}};
    case DType::kQ4_K:
      return {{0, 0.008f}, {2, 0.05f}};
    case DType::kQ5_K:
      return {{0, 0.004f}, {2, 0.05f}};
    case DType::kQ6_K:
      return {{208, 0.0008f}};
    case DType::kIQ4_NL:
      return {{0, 0.015f}};
    default:
      return {};
  }
}

inline Tensor random_blocks(const TensorType& type, const Philox& random) {
  Tensor out(type);
  auto* bytes = static_cast<uint8_t*>(out.raw());
  const size_t size = type.size_bytes(), block = block_size(type.dtype).bytes;
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(random.below(i, 256));
  const std::vector<ScalePlace> places = scale_places(type.dtype);
  for (size_t at = 0; at < size; at += block) {
    if (type.dtype == DType::kMXFP4) bytes[at] = static_cast<uint8_t>(124 + bytes[at] % 4);
    for (const ScalePlace& place : places) {
      const double spread = 0.5 + random.uniform(at + place.offset);
      const uint16_t bits = float_to_f16(static_cast<float>(place.value * spread));
      std::memcpy(bytes + at + place.offset, &bits, sizeof bits);
    }
  }
  return out;
}

}  // namespace vertebra
