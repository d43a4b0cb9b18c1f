// Which element type each tensor of a GGUF file gets when a model is quantized. Called by `vertebra convert`.
#pragma once

#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace vertebra {

// A type for all matrices, or one of llama.cpp's mixes of K types, which give more bits to what errs most.
struct Quantization {
  DType dtype = DType::kF32;
  bool mixed = false;  // q4_k_m, q5_k_m

  // "q4_k_m", "q8_0", "bf16", ...; throws invalid_argument with the list of names.
  static Quantization from_name(std::string_view name);
  // general.file_type.
  int64_t file_type() const;
};

// The type of the tensor with this GGUF name and shape. Vectors stay f32; matrices whose rows are no whole
// blocks of the wanted type get the next wider one of 32 elements, else f16. `has_head`: the file has
// output.weight.
DType quantized_type(const Quantization& wanted, std::string_view gguf_name, const Shape& shape, int layers,
                     bool has_head);

}  // namespace vertebra
