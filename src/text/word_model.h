// Models that look whole words up: WordPiece (the longest token at each place of a word; Schuster &
// Nakajima, ICASSP 2012, as BERT uses it) and WordLevel (the word is a token or unknown). Called by the
// tokenizer.
#pragma once

#include <string>
#include <vector>

#include "text/token_matcher.h"
#include "text/token_model.h"

namespace vertebra {

class WordPieceModel final : public TokenModel {
 public:
  struct Options {
    std::string unk_token = "[UNK]";
    std::string continuing_prefix = "##";
    size_t max_characters = 100;  // a longer word is unknown
  };
  WordPieceModel(std::vector<std::string> tokens, Options options, const std::string& source);

  void encode_piece(std::string_view piece, const char* buffer_end, Scratch& scratch,
                    std::vector<int32_t>& ids) const override;
  void write(Json& model) const override { model["vocab"] = vocabulary_object(); }

 private:
  std::unique_ptr<Scratch> make_scratch() const override { return std::make_unique<Scratch>(); }

  Options options_;
  int32_t unk_id_;
  TokenMatcher beginning_, continuing_;
};

class WordLevelModel final : public TokenModel {
 public:
  WordLevelModel(std::vector<std::string> tokens, const std::string& unk_token, const std::string& source);

  void encode_piece(std::string_view piece, const char* buffer_end, Scratch& scratch,
                    std::vector<int32_t>& ids) const override;
  void write(Json& model) const override { model["vocab"] = vocabulary_object(); }

 private:
  std::unique_ptr<Scratch> make_scratch() const override { return std::make_unique<Scratch>(); }

  int32_t unk_id_;
};

}  // namespace vertebra
