// BPE: a piece of text to token ids by merging pairs in the order of their rank (Sennrich et al., "Neural
// machine translation of rare words with subword units", ACL 2016), over bytes (GPT-2) or over characters
// (SentencePiece). Owns vocabulary and merges; knows nothing of patterns, added tokens or files. Called by
// the tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "text/token_matcher.h"
#include "text/token_model.h"

namespace vertebra {

class BpeModel final : public TokenModel {
 public:
  // What the merges begin with: the bytes of the piece, spelt as in text/byte_level.h, or its characters.
  enum class Alphabet { kBytes, kCharacters };
  struct Options {
    std::optional<std::string> unk_token;
    bool fuse_unk = false;
    bool ignore_merges = false;    // a piece that is a token is that token, whatever the merges say
    bool merges_as_pairs = false;  // how they are written: ["a", "b"] instead of "a b"
    Alphabet alphabet = Alphabet::kBytes;
    // The rest is for characters. One without a token becomes its bytes' tokens, <0x00> to <0xFF>.
    bool byte_fallback = false;
    std::string continuing_prefix;   // of every character but a piece's first: "##"
    std::string end_of_word_suffix;  // of a piece's last character: "</w>"
    // Found in a piece before all else, the longest first, and never merged.
    std::vector<int32_t> user_defined;
  };
  struct Merge {
    int32_t left, right, result;
  };

  // `tokens[id]` is the token's spelling, empty for an id without a token. `merges` in order of rank; ids
  // must be tokens. `source` names the file in errors. Throws invalid_argument for duplicate tokens, ids
  // out of range, an unknown unk_token.
  BpeModel(std::vector<std::string> tokens, std::vector<Merge> merges, Options options,
           const std::string& source);
  // A SentencePiece BPE vocabulary: two neighbours whose texts join to a token merge, the highest score
  // first, of equal ones the leftmost (Kudo & Richardson, 2018). `may_merge[id]` is 0 for control, unknown,
  // byte and user-defined tokens.
  static std::unique_ptr<const BpeModel> from_scores(std::vector<std::string> tokens,
                                                     const std::vector<float>& scores,
                                                     const std::vector<uint8_t>& may_merge, Options options,
                                                     const std::string& source);

  // Exactly the merges by rank, leftmost first; O(n log n) for a piece of n bytes (n < 2^31).
  void encode_piece(std::string_view piece, const char* buffer_end, Scratch& scratch,
                    std::vector<int32_t>& ids) const override;
  int missing_bytes() const override;
  void write(Json& model) const override;

  const std::vector<Merge>& merges() const { return merges_; }
  const Options& options() const { return options_; }

 private:
  struct Buffers;
  // The bytes of a short piece, its length in the top byte; never all zero.
  struct PieceKey {
    uint64_t low = 0, high = 0;
    bool operator==(const PieceKey&) const = default;
  };
  struct PairSlot {
    uint64_t pair = ~uint64_t{0};
    uint32_t rank = 0;
    int32_t result = 0;
  };
  struct PieceSlot {
    PieceKey key;
    int32_t id = 0;
  };

  // With `ranks` (one per merge) merges may share one; characters that merges need but that are no tokens
  // have ids from tokens().size() on.
  BpeModel(std::vector<std::string> tokens, std::vector<Merge> merges, std::vector<uint32_t> ranks,
           std::vector<std::string> bare_characters, Options options, const std::string& source);

  std::unique_ptr<Scratch> make_scratch() const override;
  static PieceKey piece_key(std::string_view piece, const char* buffer_end);
  static uint64_t hash_key(const PieceKey& key);
  const PairSlot* find_pair(int32_t left, int32_t right) const;
  void build_pairs(const std::string& source);
  void build_characters(const std::string& source);
  void build_word_breaks();
  void build_pieces();
  void insert_piece(std::string_view bytes, int32_t id);
  void initial_symbols(std::string_view piece, std::vector<int32_t>& symbols) const;
  void initial_characters(std::string_view piece, std::vector<int32_t>& symbols) const;
  bool character_symbols(std::string_view character, std::vector<int32_t>& symbols) const;
  void encode_word(std::string_view word, const char* buffer_end, Buffers& buffers,
                   std::vector<int32_t>& ids) const;
  void merge_piece(std::string_view piece, Buffers& buffers, std::vector<int32_t>& ids) const;
  void merge_long(std::vector<int32_t>& symbols, Buffers& buffers, std::vector<int32_t>& ids) const;
  void append_final(const int32_t* symbols, size_t count, std::vector<int32_t>& ids) const;

  std::vector<Merge> merges_;
  std::vector<uint32_t> ranks_;  // empty: a merge's place is its rank
  std::vector<std::string> bare_characters_;
  std::unordered_map<std::string_view, int32_t> id_of_bare_character_;
  Options options_;
  std::array<int32_t, 256> id_of_byte_;
  int32_t unk_id_ = -1;
  std::vector<PairSlot> pairs_;
  uint64_t pair_mask_ = 0;
  // Pieces whose encoding is one token: short ones by key, longer ones by their bytes.
  std::vector<PieceSlot> pieces_;
  uint64_t piece_mask_ = 0;
  std::vector<std::string> long_bytes_;
  std::unordered_map<std::string_view, int32_t> long_pieces_;
  TokenMatcher user_defined_;
  // Where a piece of SentencePiece text may be cut without changing what merges: before a U+2581 whose
  // left neighbour stands before one in no token. Words are then encoded, and remembered, one by one.
  bool breaks_words_ = false;
  std::unordered_set<std::string> joins_space_;  // last characters that some token has before a U+2581
};

}  // namespace vertebra
