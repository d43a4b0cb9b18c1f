// A tokenizer from the vocabulary of a GGUF model file (`tokenizer.ggml.*`), byte-level BPE ones. Reads
// no file: whoever opens the GGUF fills the struct. Called by the model loader and `vertebra convert`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace vertebra {

// Fields carry the keys' names without `tokenizer.ggml.`; absent keys keep the defaults.
struct GgufVocabulary {
  std::string model;                // "gpt2" is byte-level BPE
  std::string pre;                  // which pattern cuts the text: "gpt-2", "llama-bpe", "qwen2", ...
  std::vector<std::string> tokens;  // by id, byte-level spelling; control tokens as they are
  std::vector<int32_t> token_type;  // 1 normal, 3 control, 4 user-defined, 5 unused; may be empty
  std::vector<std::string> merges;  // "left right" by rank
  std::optional<int32_t> bos_token_id;
  std::optional<int32_t> eos_token_id;
  bool add_bos_token = false;
  bool add_eos_token = false;
};

// Throws unimplemented for other models and unknown `pre`, invalid_argument for inconsistent tables;
// `source` names the file.
Tokenizer tokenizer_from_gguf(const GgufVocabulary& vocabulary, const std::string& source);

}  // namespace vertebra
