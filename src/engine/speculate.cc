#include "engine/speculate.h"

#include <algorithm>

namespace vertebra {
namespace {

// Exact for ids below 2^21; a collision of larger ones only makes a draft that is wrong.
uint64_t key_of(const int32_t* last) {
  uint64_t key = 0;
  for (int i = 0; i < 3; ++i) key = key << 21 | (static_cast<uint64_t>(last[i]) & 0x1fffff);
  return key;
}

}  // namespace

void PromptLookup::index(std::span<const int32_t> tokens) {
  // The end itself has no continuation yet.
  for (indexed_ = std::max(indexed_, kContext); indexed_ < static_cast<int64_t>(tokens.size()); ++indexed_)
    places_[key_of(tokens.data() + indexed_ - kContext)] = static_cast<int32_t>(indexed_);
}

std::span<const int32_t> PromptLookup::draft(std::span<const int32_t> tokens) {
  seen_ = static_cast<int64_t>(tokens.size());
  if (length_ == 0 || seen_ < rest_until_ || seen_ <= kContext) return {};
  index(tokens);
  const auto found = places_.find(key_of(tokens.data() + seen_ - kContext));
  if (found == places_.end()) return {};
  return tokens.subspan(static_cast<size_t>(found->second),
                        static_cast<size_t>(std::min(length_, seen_ - found->second)));
}

void PromptLookup::report(int64_t tried, int64_t right) {
  const double share = static_cast<double>(right) / static_cast<double>(tried);
  share_ = 0.7 * share_ + 0.3 * share;
  if (right == tried) {
    length_ = std::min(longest_, 2 * length_);
    rest_ = kFirstRest;
  } else if (2 * right < tried) {
    length_ = std::max<int64_t>(1, length_ / 2);
  }
  if (share_ < 0.3) {
    rest_until_ = seen_ + rest_;
    rest_ = std::min(kLongestRest, 2 * rest_);
    share_ = 0.6;  // two drafts in vain send it to rest again
    length_ = std::min(longest_, kFirst);
  }
}

}  // namespace vertebra
