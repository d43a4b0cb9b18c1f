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
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pretokenizer.h"

namespace vertebra {

struct TokenizerParts {
  // The whole tokenizer.json but for `added_tokens`, `model.vocab` and `model.merges`, which are
  // written from the parts below.
  Json skeleton;
  bool merges_as_pairs = false;  // ["a", "b"] instead of "a b"
  Normalizer normalizer;
  Pretokenizer pretokenizer;
  PostProcessor post_processor;
  std::unique_ptr<const BpeModel> model;
  AddedTokens added;
  // Bytes of every id, one after the other.
  std::string bytes;
  std::vector<uint32_t> byte_offsets;  // vocab_size + 1
  std::vector<uint8_t> is_token, is_special;

  // Reads everything but the model and the added tokens from `skeleton`, takes these two, and fills
  // the tables by id.
  static std::shared_ptr<const TokenizerParts> assemble(Json skeleton, std::unique_ptr<const BpeModel> model,
                                                        std::vector<AddedToken> added, bool merges_as_pairs,
                                                        const std::string& source);
};

// JSON of any size in linear time (objects keep repeated keys): a vocabulary of 150,000 keys takes
// the general parser, which checks each key against all before it, half a minute. Throws as parse_json.
Json parse_tokenizer_json(std::string_view text, std::string_view source);
std::shared_ptr<const TokenizerParts> parts_from_json(const Json& json, const std::string& source);
Json parts_to_json(const TokenizerParts& parts);

}  // namespace vertebra
