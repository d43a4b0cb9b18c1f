// Prompt lookup: finds what followed the same tokens before, tries more where that is right and rests where
// not.
#include "engine/speculate.h"

#include <gtest/gtest.h>

#include <vector>

namespace vertebra {
namespace {

using Tokens = std::vector<int32_t>;

Tokens draft(PromptLookup& lookup, const Tokens& tokens) {
  const auto found = lookup.draft(tokens);
  return {found.begin(), found.end()};
}

TEST(PromptLookup, TriesWhatFollowedTheLatestPlace) {
  PromptLookup lookup(8);
  EXPECT_EQ(draft(lookup, {1, 2, 3}), Tokens{});
  EXPECT_EQ(draft(lookup, {1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3}), (Tokens{4, 5, 6}));
  EXPECT_EQ(draft(lookup, {1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3, 8, 8, 1, 2, 3}), (Tokens{8, 8, 1}));
  EXPECT_EQ(draft(lookup, {1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3, 8, 8, 1, 2, 3, 70}), Tokens{});
}

TEST(PromptLookup, NeverTriesBeyondTheTextOrItsLimit) {
  PromptLookup two(2), none(0);
  EXPECT_EQ(draft(two, {1, 2, 3, 4, 5, 1, 2, 3}), (Tokens{4, 5}));
  EXPECT_EQ(draft(none, {1, 2, 3, 4, 5, 1, 2, 3}), Tokens{});
  PromptLookup many(64);
  for (int i = 0; i < 10; ++i) many.report(3, 3);
  EXPECT_EQ(draft(many, {7, 7, 7, 7, 7}), (Tokens{7}));  // the place after 7, 7, 7 is near the end
}

TEST(PromptLookup, TriesMoreWhereItIsRight) {
  PromptLookup lookup(8);
  Tokens tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(i);
  tokens.insert(tokens.end(), {0, 1, 2});
  EXPECT_EQ(draft(lookup, tokens).size(), 3u);
  lookup.report(3, 3);
  EXPECT_EQ(draft(lookup, tokens).size(), 6u);
  lookup.report(6, 6);
  EXPECT_EQ(draft(lookup, tokens).size(), 8u);
  lookup.report(8, 2);
  EXPECT_EQ(draft(lookup, tokens).size(), 4u);
}

TEST(PromptLookup, RestsWhereMostIsInVain) {
  PromptLookup lookup(8);
  Tokens tokens = {1, 2, 3, 4};
  int64_t tried = 0;
  for (int i = 0; i < 4000; ++i) {
    const int32_t next[] = {1, 2, 3, 100 + i};  // the same three tokens, and never the same after them
    tokens.push_back(next[i % 4]);
    const Tokens found = draft(lookup, tokens);
    tried += static_cast<int64_t>(found.size());
    if (!found.empty()) lookup.report(static_cast<int64_t>(found.size()), 0);
  }
  EXPECT_GT(tried, 10);
  EXPECT_LT(tried, 100);
}

}  // namespace
}  // namespace vertebra
