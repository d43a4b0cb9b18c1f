// Speculative decoding by prompt lookup (Saxena 2023; Yang et al., "Inference with reference", 2023): what
// followed the last tokens where they stood before is tried as their continuation, several tokens in one
// forward pass. The engine keeps what the model itself would have chosen, so the text is the same, bit for
// bit; only its speed changes. One of these per request.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

namespace vertebra {

class PromptLookup {
 public:
  // `longest`: most tokens tried at once; 0 never tries.
  explicit PromptLookup(int64_t longest) : longest_(longest), length_(longest < kFirst ? longest : kFirst) {}

  // The tokens to try after `tokens` (the whole text so far, which only grows): part of `tokens`; often none.
  std::span<const int32_t> draft(std::span<const int32_t> tokens);
  // How many of the last draft's tokens were right. Trying becomes longer where it succeeds, and rests for a
  // while where most of it was in vain: 16 tokens, twice as many each time, 1,024 at most.
  void report(int64_t tried, int64_t right);

 private:
  static constexpr int64_t kFirst = 3;    // tokens of the first draft
  static constexpr int64_t kContext = 3;  // tokens that must stand there as well
  static constexpr int64_t kFirstRest = 16, kLongestRest = 1024;

  void index(std::span<const int32_t> tokens);

  int64_t longest_, length_;
  double share_ = 1;  // of tried tokens that were right, the last ones counting most
  int64_t rest_ = kFirstRest, rest_until_ = 0, seen_ = 0;
  // kContext tokens -> where the latest text after them begins.
  std::unordered_map<uint64_t, int32_t> places_;
  int64_t indexed_ = 0;
};

}  // namespace vertebra
