// The `normalizer` section of a tokenizer.json: what is done to text before it is cut into pieces.
// Broken UTF-8 passes through untouched, so that text which no step changes keeps its bytes. Called
// by the tokenizer and the BPE trainer.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/sentencepiece_normalizer.h"

namespace vertebra {

class Normalizer {
 public:
  Normalizer() = default;  // changes nothing
  // NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Replace, Prepend, Strip, Precompiled, BertNormalizer,
  // Nmt, ByteLevel and Sequence of these; null is the empty normalizer. Throws unimplemented for other types,
  // invalid_argument for malformed ones, naming `source`.
  static Normalizer from_json(const Json& section, std::string_view source);

  static Normalizer sentencepiece(const SentencePieceSpec& spec, const std::string& source);

  bool empty() const { return steps_.empty(); }
  std::string apply(std::string_view text) const;

  struct Step;  // one step; in normalizer.cc

 private:
  std::vector<std::shared_ptr<const Step>> steps_;
};

}  // namespace vertebra
