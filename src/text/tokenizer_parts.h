// What a Tokenizer is made of, for the files that build one: the tokenizer.json reader and the BPE
// trainer. Others use text/tokenizer.h.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pretokenizer.h"

namespace vertebra {

struct TokenizerParts {
  // The whole tokenizer.json but for `added_tokens`, `model.vocab` and `model.merges`, which are
  // written from the parts below.
  Json skeleton;
  Normalizer normalizer;
  Pretokenizer pretokenizer;
  PostProcessor post_processor;
  Decoder decoder;
  std::unique_ptr<const TokenModel> model;
  // The same model where it is BPE over bytes: the fast path.
  const BpeModel* byte_level = nullptr;
  AddedTokens added;
  // Bytes of every id, one after the other: of a token in the middle of a text.
  std::string bytes;
  std::vector<uint32_t> byte_offsets;  // vocab_size + 1
  // Of a token that begins a text; empty where none differs.
  std::vector<std::string> first_bytes;
  std::vector<uint8_t> is_token, is_special, space_after;

  // Parts whose behaviour a tokenizer.json cannot say exactly; the skeleton then holds what comes nearest.
  struct Exact {
    Normalizer normalizer;
  };
  // Reads everything but the model and the added tokens from `skeleton`, takes these two, and fills
  // the tables by id. `exact` replaces normalizer and pre-tokenizer.
  static std::shared_ptr<const TokenizerParts> assemble(Json skeleton,
                                                        std::unique_ptr<const TokenModel> model,
                                                        std::vector<AddedToken> added,
                                                        const std::string& source,
                                                        const Exact* exact = nullptr);
};

// JSON of any size in linear time (objects keep repeated keys): a vocabulary of 150,000 keys takes
// the general parser, which checks each key against all before it, half a minute. Throws as parse_json.
Json parse_tokenizer_json(std::string_view text, std::string_view source);
// The `model` section of any supported type. `byte_level`: the pre-tokenizer leaves bytes to the model.
std::unique_ptr<const TokenModel> model_from_json(const Json& model, bool byte_level,
                                                  const std::string& source);
// An id of a vocabulary; throws invalid_argument naming the token.
int32_t checked_token_id(const Json& value, const std::string& token, const std::string& source);
std::shared_ptr<const TokenizerParts> parts_from_json(const Json& json, const std::string& source);
Json parts_to_json(const TokenizerParts& parts);

}  // namespace vertebra
