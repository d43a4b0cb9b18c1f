// The JSON header of a safetensors file: parsed and checked, without its tensors. Used by
// safetensors.cc and the fuzzer.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/safetensors.h"

namespace vertebra {

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their bytes, which leave no hole
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;  // bytes from the start of the file
};

// `bytes`: the whole file. `source` stands in errors.
SafetensorsHeader parse_safetensors_header(std::string_view bytes, const std::string& source);

// Bytes of one element of "F32", "BF16", ...; nullopt for a type the format does not have.
std::optional<uint64_t> safetensors_dtype_size(std::string_view dtype);

}  // namespace vertebra
