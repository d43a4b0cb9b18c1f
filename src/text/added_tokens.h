// Tokens added on top of a model's vocabulary (control tokens such as <|endoftext|>, and others):
// finding them in text before the model sees it. Called by the tokenizer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/function_ref.h"
#include "text/normalizer.h"
#include "text/token_matcher.h"

namespace vertebra {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // a control token: skipped by decode on request
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
  bool normalized = true;    // is looked for in normalized text
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // Throws invalid_argument for empty or repeated contents and repeated ids, naming `source`.
  AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer, const std::string& source);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  const AddedToken* find_id(int32_t id) const;
  // What the token is in text that was normalized, or its content where it is looked for as it is.
  std::string_view normalized_content(const AddedToken& token) const;
  const AddedToken* find_content(std::string_view content) const;

  // Calls part(token, text) for every stretch of `text`, left to right: token is null for ordinary
  // text. `normalized` chooses the tokens looked for in normalized text, or the others; without
  // `parse_special` control tokens stay text.
  void split(std::string_view text, bool normalized, bool parse_special,
             FunctionRef<void(const AddedToken* token, std::string_view text)> part) const;

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> index_of_id_;
  std::unordered_map<std::string, size_t> index_of_content_;
  std::unordered_map<int32_t, std::string> normalized_content_;  // where it differs
  TokenMatcher raw_, normalized_;
};

}  // namespace vertebra
