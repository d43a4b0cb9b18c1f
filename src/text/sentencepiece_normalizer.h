// How SentencePiece itself normalizes a text: its character map, the space put before it, spaces that are
// merged and then spelt as U+2581 (Kudo & Richardson, "SentencePiece", EMNLP 2018). Called by Normalizer.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/charsmap.h"
#include "text/token_matcher.h"

namespace vertebra {

struct SentencePieceSpec {
  std::string charsmap;  // empty: characters stay
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool treat_whitespace_as_suffix = false;
  std::vector<std::string> user_defined;  // texts that the map leaves alone
};

class SentencePieceNormalizer {
 public:
  SentencePieceNormalizer(const SentencePieceSpec& spec, const std::string& source);
  std::string apply(std::string_view text) const;

 private:
  // What the front of `text` becomes, and the bytes it stood for.
  std::string_view map_front(std::string_view text, size_t* consumed) const;

  SentencePieceSpec spec_;
  std::unique_ptr<const Charsmap> charsmap_;
  TokenMatcher user_defined_;
};

}  // namespace vertebra
