// A trie tried at every byte that begins some token; see token_matcher.h.
#include "text/token_matcher.h"

namespace vertebra {

void TokenMatcher::add(std::string_view content, size_t index) {
  if (content.empty()) return;
  begins_[static_cast<unsigned char>(content[0])] = true;
  uint32_t node = 0;
  for (const char c : content) {
    const uint64_t edge = uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [it, fresh] = children_.try_emplace(edge, static_cast<uint32_t>(index_at_.size()));
    if (fresh) index_at_.push_back(kNone);
    node = it->second;
  }
  if (index_at_[node] == kNone) index_at_[node] = index;
}

std::optional<TokenMatcher::Match> TokenMatcher::match_at(std::string_view text, size_t begin) const {
  if (children_.empty() || !begins_[static_cast<unsigned char>(text[begin])]) return std::nullopt;
  std::optional<Match> longest;
  uint32_t node = 0;
  for (size_t at = begin; at < text.size(); ++at) {
    const auto it = children_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[at]));
    if (it == children_.end()) break;
    node = it->second;
    if (index_at_[node] != kNone) longest = Match{begin, at + 1, index_at_[node]};
  }
  return longest;
}

std::optional<TokenMatcher::Match> TokenMatcher::find(std::string_view text, size_t from) const {
  if (children_.empty()) return std::nullopt;
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (auto match = match_at(text, begin)) return match;
  }
  return std::nullopt;
}

}  // namespace vertebra
