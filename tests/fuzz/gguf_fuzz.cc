// libFuzzer target for the GGUF header: any bytes either parse or throw Error; what parses can be read whole.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const vertebra::GgufHeader header =
        vertebra::parse_gguf_header({reinterpret_cast<const char*>(data), size}, "fuzz");
    for (const vertebra::GgufEntry& entry : header.entries) {
      if (header.data_begin + entry.begin + entry.type.size_bytes() > size) std::abort();
    }
    for (const auto& [key, value] : header.metadata.entries()) value.to_json();
  } catch (const vertebra::Error&) {
    return 0;
  }
  return 0;
}
