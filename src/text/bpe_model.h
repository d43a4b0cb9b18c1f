// Byte-level BPE: a piece of text (bytes) to token ids by merging pairs in the order of their rank
// (Sennrich et al., "Neural machine translation of rare words with subword units", ACL 2016). Owns
// vocabulary and merges; knows nothing of patterns, added tokens or files. Called by the tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace vertebra {

// The largest number of ids a vocabulary may have; bounds what a hostile file can make us allocate.
inline constexpr int kMaxVocabSize = 1 << 21;

class BpeModel {
 public:
  struct Options {
    std::optional<std::string> unk_token;
    bool fuse_unk = false;
    bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
  };
  struct Merge {
    int32_t left, right, result;
  };

  // `tokens[id]` is the token's spelling (text/byte_level.h), empty for an id without a token.
  // `merges` in order of rank; ids must be tokens. `source` names the file in errors. Throws
  // invalid_argument for duplicate tokens, ids out of range, an unknown unk_token.
  BpeModel(std::vector<std::string> tokens, std::vector<Merge> merges, Options options,
           const std::string& source);
  ~BpeModel();
  BpeModel(const BpeModel&) = delete;
  BpeModel& operator=(const BpeModel&) = delete;

  // Working memory of one encoding thread: buffers and a cache of pieces already encoded.
  class Scratch;
  // Takes one from the model's pool and gives it back.
  class ScratchLease {
   public:
    explicit ScratchLease(const BpeModel& model);
    ~ScratchLease();
    ScratchLease(const ScratchLease&) = delete;
    ScratchLease& operator=(const ScratchLease&) = delete;
    Scratch& operator*() const { return *scratch_; }

   private:
    const BpeModel& model_;
    std::unique_ptr<Scratch> scratch_;
  };

  // Appends the ids of one piece, which lies in a buffer readable up to `buffer_end`. Exactly the
  // merges by rank, leftmost first; O(n log n) for a piece of n bytes (n < 2^31). A byte without a
  // token becomes the unk token, or vanishes where there is none.
  void encode_piece(std::string_view piece, const char* buffer_end, Scratch& scratch,
                    std::vector<int32_t>& ids) const;

  const std::vector<std::string>& tokens() const { return tokens_; }
  const std::vector<Merge>& merges() const { return merges_; }
  const Options& options() const { return options_; }
  std::optional<int32_t> token_id(std::string_view spelling) const;
  // Number of byte values that have no token of their own.
  int missing_bytes() const;

 private:
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

  static PieceKey piece_key(std::string_view piece, const char* buffer_end);
  static uint64_t hash_key(const PieceKey& key);
  const PairSlot* find_pair(int32_t left, int32_t right) const;
  void build_pairs(const std::string& source);
  void build_pieces();
  void insert_piece(std::string_view bytes, int32_t id);
  void initial_symbols(std::string_view piece, std::vector<int32_t>& symbols) const;
  void merge_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  void merge_long(std::vector<int32_t>& symbols, Scratch& scratch, std::vector<int32_t>& ids) const;

  std::vector<std::string> tokens_;
  std::vector<Merge> merges_;
  Options options_;
  std::unordered_map<std::string_view, int32_t> id_of_token_;
  std::array<int32_t, 256> id_of_byte_;
  int32_t unk_id_ = -1;
  std::vector<PairSlot> pairs_;
  uint64_t pair_mask_ = 0;
  // Pieces whose encoding is one token: short ones by key, longer ones by their bytes.
  std::vector<PieceSlot> pieces_;
  uint64_t piece_mask_ = 0;
  std::vector<std::string> long_bytes_;
  std::unordered_map<std::string_view, int32_t> long_pieces_;
  mutable std::mutex pool_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> pool_;
};

}  // namespace vertebra
