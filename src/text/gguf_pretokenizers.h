// The names of `tokenizer.ggml.pre` and what they stand for. Called by whatever reads and writes vocabularies of
// GGUF files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace vertebra {

struct GgufPretokenizer {
  std::string_view names;  // with spaces between them
  // The regular expressions that cut the text, one after the other, each over the pieces of the one before.
  std::vector<std::string_view> patterns;
  bool nfc = false;                // text is brought to this normal form first
  bool ignore_merges = false;      // a piece that is a token is that token
  bool add_bos = false;            // where the file does not say
  bool spaces_as_symbols = false;  // SentencePiece's spelling: no byte-level alphabet
};

// Throws unimplemented for a name that is not known, naming those that are, and `source`.
const GgufPretokenizer& find_gguf_pretokenizer(const std::string& pre, const std::string& source);
// The `pre_tokenizer` section of a tokenizer.json.
Json gguf_pretokenizer_section(const GgufPretokenizer& pretokenizer);

}  // namespace vertebra
