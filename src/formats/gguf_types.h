// The element types of GGUF files and their numbers; for the reader and the writer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "tensor/dtype.h"

namespace vertebra {

std::optional<DType> gguf_dtype(uint32_t number);
std::optional<uint32_t> gguf_number(DType dtype);
// "IQ2_XXS", also of types that are not supported; "type 77" for unknown numbers.
std::string gguf_type_name(uint32_t number);
std::string supported_gguf_types();  // "F32, F16, Q4_0, ..."

}  // namespace vertebra
