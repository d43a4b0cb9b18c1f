// Which element type each tensor of a GGUF file gets when a model is quantized: as llama.cpp's llama-quantize
// chooses them, for its names. Called by `vertebra convert`.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gguf.h"
#include "models/model.h"

namespace vertebra {

// A type for all matrices (the head gets Q6_K beside types of fewer bits), or a mix, which gives more bits to
// what errs most.
struct Quantization {
  enum class Mix { kEven, kSmall, kMedium, kLarge, kExperts };
  DType dtype = DType::kF32;
  Mix mix = Mix::kEven;

  // "q8_0", "q4_k_m", "mxfp4_moe", "bf16", ...; throws invalid_argument with the list of names.
  static Quantization from_name(std::string_view name);
  static std::string names();  // "f32, f16, ..."
  // general.file_type.
  int64_t file_type() const;
};

// What the choice depends on beside the tensors.
struct QuantizedModel {
  std::string_view architecture;  // general.architecture
  ModelShape shape;
};

// The types of a file's tensors, whose names, shapes and present types are given, in the file's order.
// Vectors, norms, routers and short kernels stay f32. Matrices whose rows are no whole blocks of the wanted
// type get the next wider one of 32 elements, else f16; a warning says which.
std::vector<DType> quantized_types(const Quantization& wanted, const QuantizedModel& model,
                                   std::span<const GgufEntry> tensors);

// The type without any quantization: what the tensor has, f32 where readers want it.
DType unquantized_type(const GgufEntry& tensor);

}  // namespace vertebra
