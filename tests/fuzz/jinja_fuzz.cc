// libFuzzer target for the Jinja interpreter: any template either renders or throws Error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "text/jinja.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const vertebra::Json kVariables = {
      {"messages",
       {{{"role", "user"}, {"content", "h\xc3\xa9llo"}}, {{"role", "assistant"}, {"content", nullptr}}}},
      {"tools", {{{"name", "f"}, {"parameters", {{"a", 1.5}}}}}},
      {"add_generation_prompt", true}};
  vertebra::jinja::Limits limits;
  limits.steps = 100'000;
  limits.memory_bytes = 4 << 20;
  try {
    const std::string_view source(reinterpret_cast<const char*>(data), size);
    vertebra::jinja::Template::parse(source, "fuzz").render(kVariables, 0, limits);
  } catch (const vertebra::Error&) {
    return 0;
  }
  return 0;
}
