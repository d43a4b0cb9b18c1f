// WordPiece walks a trie, so a word costs its length; see word_model.h.
#include "text/word_model.h"

#include "base/error.h"
#include "text/unicode.h"

namespace vertebra {

WordPieceModel::WordPieceModel(std::vector<std::string> names, Options options, const std::string& source)
    : TokenModel(std::move(names), source), options_(std::move(options)) {
  unk_id_ = required_id(options_.unk_token, "unk_token", source);
  for (size_t id = 0; id < tokens().size(); ++id) {
    const std::string_view token = tokens()[id];
    beginning_.add(token, id);
    if (token.starts_with(options_.continuing_prefix))
      continuing_.add(token.substr(options_.continuing_prefix.size()), id);
  }
}

void WordPieceModel::encode_piece(std::string_view piece, const char*, Scratch&,
                                  std::vector<int32_t>& ids) const {
  size_t characters = 0;
  for (size_t at = 0; at < piece.size(); ++characters)
    at += decode_utf8(piece.data() + at, piece.data() + piece.size()).length;
  const size_t first = ids.size();
  bool known = characters <= options_.max_characters;
  for (size_t at = 0; known && at < piece.size();) {
    const auto match = (at == 0 ? beginning_ : continuing_).match_at(piece, at);
    known = match.has_value();
    if (known) {
      ids.push_back(static_cast<int32_t>(match->index));
      at = match->end;
    }
  }
  if (known) return;
  ids.resize(first);
  ids.push_back(unk_id_);
}

WordLevelModel::WordLevelModel(std::vector<std::string> names, const std::string& unk_token,
                               const std::string& source)
    : TokenModel(std::move(names), source), unk_id_(token_id(unk_token).value_or(-1)) {}

void WordLevelModel::encode_piece(std::string_view piece, const char*, Scratch&,
                                  std::vector<int32_t>& ids) const {
  const int32_t id = token_id(piece).value_or(unk_id_);
  if (id >= 0) ids.push_back(id);
}

}  // namespace vertebra
