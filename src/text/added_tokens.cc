// A trie tried at every byte that begins some token; the rules of the tokenizer.json flags.
#include "text/added_tokens.h"

#include "base/error.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

// Begin of the last character of a non-empty text (of the last byte when it is broken).
size_t last_char(std::string_view text) {
  const char* const end = text.data() + text.size();
  for (size_t back = 1; back <= 4 && back <= text.size(); ++back) {
    const Utf8Char c = decode_utf8(end - back, end);
    if (c.valid && c.length == static_cast<int>(back)) return text.size() - back;
  }
  return text.size() - 1;
}

Utf8Char char_at(std::string_view text, size_t at) {
  return decode_utf8(text.data() + at, text.data() + text.size());
}

bool is_space(const Utf8Char& c) { return c.valid && char_class(c.code_point) == CharClass::kSpace; }
bool is_word(const Utf8Char& c) { return c.valid && is_word_char(c.code_point); }

bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0) {
    const std::string_view before = text.substr(0, begin);
    if (is_word(char_at(before, last_char(before)))) return false;
  }
  return end == text.size() || !is_word(char_at(text, end));
}

}  // namespace

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

std::optional<TokenMatcher::Match> TokenMatcher::find(std::string_view text, size_t from) const {
  if (children_.empty()) return std::nullopt;
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!begins_[static_cast<unsigned char>(text[begin])]) continue;
    std::optional<Match> longest;
    uint32_t node = 0;
    for (size_t at = begin; at < text.size(); ++at) {
      const auto it = children_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[at]));
      if (it == children_.end()) break;
      node = it->second;
      if (index_at_[node] != kNone) longest = Match{begin, at + 1, index_at_[node]};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

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
      normalized_.add(normalizer.apply(token.content), i);
    } else {
      raw_.add(token.content, i);
    }
  }
}

const AddedToken* AddedTokens::find_id(int32_t id) const {
  const auto it = index_of_id_.find(id);
  return it == index_of_id_.end() ? nullptr : &tokens_[it->second];
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
      const size_t before = last_char(text.substr(0, begin));
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
