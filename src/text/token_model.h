// What every model of a tokenizer does: a piece of text to token ids. Owns the vocabulary (spellings by
// id) and the pool of working memory; subclasses are BpeModel, UnigramModel, WordPieceModel and
// WordLevelModel. Called by the tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"

namespace vertebra {

// The largest number of ids a vocabulary may have; bounds what a hostile file can make us allocate.
inline constexpr int kMaxVocabSize = 1 << 21;

// U+2581, how SentencePiece vocabularies spell a space.
inline constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";

class TokenModel {
 public:
  virtual ~TokenModel();
  TokenModel(const TokenModel&) = delete;
  TokenModel& operator=(const TokenModel&) = delete;

  // Working memory of one encoding thread.
  class Scratch {
   public:
    virtual ~Scratch() = default;
  };
  // Takes one from the model's pool and gives it back.
  class ScratchLease {
   public:
    explicit ScratchLease(const TokenModel& model);
    ~ScratchLease();
    ScratchLease(const ScratchLease&) = delete;
    ScratchLease& operator=(const ScratchLease&) = delete;
    Scratch& operator*() const { return *scratch_; }

   private:
    const TokenModel& model_;
    std::unique_ptr<Scratch> scratch_;
  };

  // Appends the ids of one piece, which lies in a buffer readable up to `buffer_end`. What has no token
  // becomes the unknown token, or vanishes where there is none.
  virtual void encode_piece(std::string_view piece, const char* buffer_end, Scratch& scratch,
                            std::vector<int32_t>& ids) const = 0;
  // Number of byte values of which text is lost when encoded; 0 where an unknown token stands for them.
  virtual int missing_bytes() const { return 0; }
  // Writes `vocab` (and `merges`) into the `model` section of a tokenizer.json.
  virtual void write(Json& model) const = 0;

  // By id, as the file spells them; empty for an id without a token.
  const std::vector<std::string>& tokens() const { return tokens_; }
  std::optional<int32_t> token_id(std::string_view spelling) const;

 protected:
  // Throws invalid_argument for a spelling with two ids, naming `source`.
  TokenModel(std::vector<std::string> tokens, const std::string& source);
  virtual std::unique_ptr<Scratch> make_scratch() const = 0;
  // Of a token that must be there; throws invalid_argument naming `role` otherwise.
  int32_t required_id(const std::string& spelling, std::string_view role, const std::string& source) const;
  // {"token": id, ...} in the order of the ids.
  Json vocabulary_object() const;

 private:
  std::vector<std::string> tokens_;
  std::unordered_map<std::string_view, int32_t> id_of_token_;
  mutable std::mutex pool_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> pool_;
};

// The spelling "<0x0A>" of a byte token of SentencePiece vocabularies, and back; nullopt for others.
std::string byte_token_spelling(unsigned char byte);
std::optional<unsigned char> byte_of_token(std::string_view spelling);

}  // namespace vertebra
