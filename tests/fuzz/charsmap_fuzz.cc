// libFuzzer target: a stranger's precompiled character map and text through it, as SentencePiece reads it and
// as tokenizer.json's readers do. Input: the number of bytes of text (one byte), the text, the map.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "text/charsmap.h"
#include "text/normalizer.h"
#include "text/sentencepiece_normalizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::string_view text = input.substr(0, data[0]);
  input.remove_prefix(text.size());
  try {
    vertebra::SentencePieceSpec spec;
    spec.charsmap = input;
    spec.remove_extra_whitespaces = (size & 1) != 0;
    spec.user_defined = {"ab", "\xE2\x96\x81x"};
    const vertebra::SentencePieceNormalizer normalizer(spec, "fuzz");
    // A byte becomes 256 at most, and a space three.
    if (normalizer.apply(text).size() > 3 * 256 * (text.size() + 1)) std::abort();
    const vertebra::Json section = {{"type", "Precompiled"},
                                    {"precompiled_charsmap", vertebra::encode_base64(input)}};
    vertebra::Normalizer::from_json(section, "fuzz").apply(text);
    if (vertebra::decode_base64(vertebra::encode_base64(input), "fuzz") != input) std::abort();
  } catch (const vertebra::Error&) {
  }
  return 0;
}
