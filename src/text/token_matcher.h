// Finds tokens in text by a trie over their bytes: the leftmost, then longest (added tokens), the longest
// at a place, or all at a place (the Unigram model). Called by the added tokens and the models.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace vertebra {

class TokenMatcher {
 public:
  // Of two equal contents the first counts; an empty one matches nowhere.
  void add(std::string_view content, size_t index);
  bool empty() const { return children_.empty(); }
  struct Match {
    size_t begin, end, index;
  };
  // The first match that begins at or after `from`.
  std::optional<Match> find(std::string_view text, size_t from) const;
  // The longest match that begins at `at`.
  std::optional<Match> match_at(std::string_view text, size_t at) const;

 private:
  static constexpr size_t kNone = ~size_t{0};
  std::vector<size_t> index_at_{kNone};  // by trie node; node 0 is the root
  std::unordered_map<uint64_t, uint32_t> children_;
  bool begins_[256] = {};
};

}  // namespace vertebra
