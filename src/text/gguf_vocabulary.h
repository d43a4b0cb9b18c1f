// A tokenizer from the vocabulary of a GGUF model file (`tokenizer.ggml.*`): byte-level BPE, SentencePiece
// BPE and Unigram, WordPiece. Reads no file: whoever opens the GGUF fills the struct. Called by the model
// loader and `vertebra convert`.
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
  std::string model;                // "gpt2", "llama", "bert", "t5", "gemma4"
  std::string pre;                  // which pattern cuts the text: "gpt-2", "llama-bpe", "qwen2", ...
  std::vector<std::string> tokens;  // by id, as the model spells them; control tokens as they are
  // 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; may be empty.
  std::vector<int32_t> token_type;
  std::vector<float> scores;        // by id: "llama", "t5"
  std::vector<std::string> merges;  // "left right" by rank: "gpt2", "gemma4"
  std::optional<int32_t> bos_token_id;
  std::optional<int32_t> eos_token_id;
  std::optional<int32_t> unknown_token_id;
  std::optional<int32_t> seperator_token_id;  // the key's own spelling
  // Absent: what the model's kind does.
  std::optional<bool> add_bos_token, add_eos_token, add_sep_token;
  std::optional<bool> add_space_prefix;
  std::optional<bool> remove_extra_whitespaces;
  std::string precompiled_charsmap;  // the bytes of the array
};

// Throws unimplemented for other models and unknown `pre`, invalid_argument for inconsistent tables;
// `source` names the file.
Tokenizer tokenizer_from_gguf(const GgufVocabulary& vocabulary, const std::string& source);

}  // namespace vertebra
