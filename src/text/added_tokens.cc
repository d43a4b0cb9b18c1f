// The rules of the tokenizer.json flags.
#include "text/added_tokens.h"

#include "base/error.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

Utf8Char char_at(std::string_view text, size_t at) {
  return decode_utf8(text.data() + at, text.data() + text.size());
}

bool is_space(const Utf8Char& c) { return c.valid && char_class(c.code_point) == CharClass::kSpace; }
bool is_word(const Utf8Char& c) { return c.valid && is_word_char(c.code_point); }

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    const std::string_view before = text.substr(0, begin);
    if (is_word(char_at(before, last_utf8_char(before)))) return false;
  }
  return end == text.size() || !is_word(char_at(text, end));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, const Normalizer& normalizer,
                         const std::string& source)
    : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    require(!token.content.empty(), "{}: the added token with id {} has no content", source, token.id);
    require(index_of_id_.try_emplace(token.id, i).second, "{}: two added tokens have the id {}", source,
            token.id);
    require(index_of_content_.try_emplace(token.content, i).second, "{}: the added token '{}' appears twice",
            source, token.content);
    if (token.normalized) {
      std::string content = normalizer.apply(token.content);
      normalized_.add(content, i);
      if (content != token.content) normalized_content_.emplace(token.id, std::move(content));
    } else {
      raw_.add(token.content, i);
    }
  }
}

const AddedToken* AddedTokens::find_id(int32_t id) const {
  const auto it = index_of_id_.find(id);
  return it == index_of_id_.end() ? nullptr : &tokens_[it->second];
}

std::string_view AddedTokens::normalized_content(const AddedToken& token) const {
  const auto it = normalized_content_.find(token.id);
  return it == normalized_content_.end() ? token.content : it->second;
}

const AddedToken* AddedTokens::find_content(std::string_view content) const {
  const auto it = index_of_content_.find(std::string(content));
  return it == index_of_content_.end() ? nullptr : &tokens_[it->second];
}

void AddedTokens::split(std::string_view text, bool normalized, bool parse_special,
                        FunctionRef<void(const AddedToken*, std::string_view)> part) const {
  const TokenMatcher& matcher = normalized ? normalized_ : raw_;
  size_t done = 0;
  for (auto match = matcher.find(text, 0); match; match = matcher.find(text, match->end)) {
    const AddedToken& token = tokens_[match->index];
    if (token.special && !parse_special) continue;
    if (token.single_word && !stands_alone(text, match->begin, match->end)) continue;
    size_t begin = match->begin, end = match->end;
    while (token.lstrip && begin > done) {
      const size_t before = last_utf8_char(text.substr(0, begin));
      if (before < done || !is_space(char_at(text, before))) break;
      begin = before;
    }
    while (token.rstrip && end < text.size() && is_space(char_at(text, end)))
      end += char_at(text, end).length;
    // A token may begin inside white space that the one before it took along.
    begin = std::max(begin, done);
    if (begin > done) part(nullptr, text.substr(done, begin - done));
    part(&token, text.substr(begin, std::max(end, begin) - begin));
    done = std::max(end, done);
  }
  if (done < text.size()) part(nullptr, text.substr(done));
}

}  // namespace vertebra
