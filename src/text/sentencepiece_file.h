// Reads a SentencePiece model (`tokenizer.model`, a protocol buffer) with bounds, and makes a tokenizer that
// gives SentencePiece's own ids. Called by Tokenizer::load.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/sentencepiece_normalizer.h"
#include "text/tokenizer.h"

namespace vertebra {

struct SentencePieceModel {
  enum class Kind { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  // As in the file and in GGUF's token_type.
  enum class Type : int32_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };
  Kind kind = Kind::kUnigram;
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<Type> types;
  SentencePieceSpec normalizer;
  bool byte_fallback = false;
  int32_t bos_id = 1, eos_id = 2;  // -1: none
};

// Throws invalid_argument with the place for what is no such file.
SentencePieceModel parse_sentencepiece(std::string_view bytes, const std::string& source);

// `config` is the tokenizer_config.json beside the file, null where there is none: its added tokens,
// add_bos_token and add_eos_token are honoured. Control pieces are special tokens.
Tokenizer tokenizer_from_sentencepiece(std::string_view bytes, const Json& config, const std::string& source);

// The tokens of `added_tokens_decoder` in a tokenizer_config.json that `known` (a list in the form of
// tokenizer.json) lacks, appended to it.
void add_configured_tokens(const Json& config, Json& known, const std::string& source);

// A TemplateProcessing section that puts the tokens of these ids around a text; null for none.
struct SurroundingToken {
  int32_t id;
  std::string spelling;
};
Json surrounding_tokens(const std::vector<SurroundingToken>& before,
                        const std::vector<SurroundingToken>& after);
// An entry of `added_tokens` in a tokenizer.json.
Json added_token_entry(int32_t id, const std::string& content, bool special);
// The sections that SentencePiece text has in a tokenizer.json, as nearly as it can say them.
Json sentencepiece_normalizer_section(const SentencePieceSpec& spec, bool spaces_in_normalizer);
Json sentencepiece_decoder_section(const SentencePieceSpec& spec);

}  // namespace vertebra
