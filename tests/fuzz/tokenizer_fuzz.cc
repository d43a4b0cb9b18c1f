// libFuzzer target: a stranger's tokenizer.json, then text through it. Input: the file, a zero byte,
// the text (without a zero byte the whole input is the file and the text). Only Error may come out.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  const std::string_view file = input.substr(0, cut);
  const std::string_view text = cut == input.npos ? input : input.substr(cut + 1);
  try {
    const vertebra::Tokenizer tokenizer = vertebra::Tokenizer::from_text(file, "fuzz");
    const auto ids = tokenizer.encode(text.substr(0, 1 << 16));
    vertebra::StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    if (streamed != tokenizer.decode(ids)) std::abort();
    if (vertebra::Tokenizer::from_json(tokenizer.to_json(), "again").encode(text.substr(0, 1 << 10)) !=
        tokenizer.encode(text.substr(0, 1 << 10))) {
      std::abort();
    }
  } catch (const vertebra::Error&) {
  }
  return 0;
}
