// libFuzzer target: a stranger's tokenizer.model (a protobuf with pieces and a character map), then text
// through it. Input: a 16-bit size of the text, the text, the file. Only Error may come out.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "text/sentencepiece_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  std::string_view text = "Hello  world \xC3\xA9\xE2\x96\x81 New York\n";
  // A file as it lies on disk begins with the tag of its first piece.
  if (input.size() > 2 && input[0] != '\x0A') {
    const size_t length = static_cast<size_t>(data[0]) | static_cast<size_t>(data[1]) << 8;
    text = input.substr(2, length);
    input.remove_prefix(2 + text.size());
  }
  try {
    const vertebra::Tokenizer tokenizer =
        vertebra::tokenizer_from_sentencepiece(input, vertebra::Json(), "fuzz");
    const auto ids = tokenizer.encode(text, true, false);
    vertebra::StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    streamed += stream.finish();
    if (streamed != tokenizer.decode(ids)) std::abort();
  } catch (const vertebra::Error&) {
  }
  return 0;
}
