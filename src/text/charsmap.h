// The precompiled character map of SentencePiece models: a double array of prefixes (Yata et al., "A compact
// static double-array keeping character codes", 2007) and what replaces them. Called by the normalizer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vertebra {

class Charsmap {
 public:
  // `blob`: the size of the array in bytes (32 bits, little endian), the array, the replacements, each
  // ended by a zero byte. Throws invalid_argument naming `source` for sizes that do not fit.
  Charsmap(std::string_view blob, const std::string& source);

  struct Match {
    size_t length;  // bytes of the prefix
    std::string_view replacement;
  };
  // The longest, or the shortest, prefix of `text` that the map replaces.
  std::optional<Match> longest(std::string_view text) const;
  std::optional<Match> shortest(std::string_view text) const;

 private:
  template <class OnMatch>
  void walk(std::string_view text, OnMatch on_match) const;
  std::optional<Match> match(size_t length, uint32_t at) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

std::string decode_base64(std::string_view text, const std::string& what);
std::string encode_base64(std::string_view bytes);

}  // namespace vertebra
