// libFuzzer target for the safetensors header: any bytes either parse or throw Error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "formats/safetensors_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    vertebra::parse_safetensors_header({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const vertebra::Error&) {
    return 0;
  }
  return 0;
}
