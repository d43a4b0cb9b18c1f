// Whether two answers of the engine are the same to the last bit.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "engine/engine.h"

namespace vertebra {

inline std::vector<int32_t> ids_of(const GenerationResult& result) {
  std::vector<int32_t> out;
  for (const GeneratedToken& token : result.tokens) out.push_back(token.id);
  return out;
}

// The same tokens with the same probabilities, alternatives included.
inline void expect_same_bits(const GenerationResult& found, const GenerationResult& wanted) {
  ASSERT_EQ(ids_of(found), ids_of(wanted));
  for (size_t i = 0; i < wanted.tokens.size(); ++i) {
    const GeneratedToken &a = found.tokens[i], &b = wanted.tokens[i];
    ASSERT_EQ(a.log_probability, b.log_probability) << "token " << i;
    ASSERT_EQ(a.top.size(), b.top.size());
    for (size_t j = 0; j < a.top.size(); ++j) {
      ASSERT_EQ(a.top[j].id, b.top[j].id) << "token " << i << ", place " << j;
      ASSERT_EQ(a.top[j].log_probability, b.top[j].log_probability) << "token " << i << ", place " << j;
    }
  }
  EXPECT_EQ(found.log_probability, wanted.log_probability);
  EXPECT_EQ(found.stop_reason, wanted.stop_reason);
}

}  // namespace vertebra
