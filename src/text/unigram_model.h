// The Unigram model: of all ways to cut a piece into tokens, the one with the highest sum of scores (Kudo,
// "Subword regularization", ACL 2018), by Viterbi over a trie in time linear in the text. Owns vocabulary
// and scores. Called by the tokenizer.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "text/token_model.h"

namespace vertebra {

class UnigramModel final : public TokenModel {
 public:
  struct Options {
    std::optional<int32_t> unk_id;
    bool byte_fallback = false;  // unknown text becomes the tokens of its bytes, <0x00> to <0xFF>
    // How sums are rounded and user-defined tokens preferred: as SentencePiece 0.2.3 itself does (32-bit
    // sums; a tenth for every byte but the first), or as tokenizer.json's readers do (64-bit; the score of
    // the file).
    bool sentencepiece_sums = false;
    std::vector<int32_t> user_defined;
    // Tokens that text never becomes: control, unknown, byte and unused ones of a SentencePiece file.
    std::vector<int32_t> unreachable;
    // Consecutive unknown characters are one unknown token; every reader of the formats does so.
    bool fuse_unk = true;
  };

  // Throws invalid_argument for duplicate tokens, an unk_id out of range, scores that are not numbers.
  UnigramModel(std::vector<std::string> tokens, std::vector<double> scores, Options options,
               const std::string& source);

  void encode_piece(std::string_view piece, const char* buffer_end, Scratch& scratch,
                    std::vector<int32_t>& ids) const override;
  void write(Json& model) const override;

 private:
  struct Buffers;
  // An edge of the trie: slots of a hash table, so that a step costs one probe.
  struct Edge {
    uint32_t node = 0;
    uint32_t child = 0;  // 0: the slot is empty
    unsigned char byte = 0;
  };

  std::unique_ptr<Scratch> make_scratch() const override;
  void insert(std::string_view text, int32_t id);
  uint32_t child(uint32_t node, unsigned char byte) const;
  template <class Sum>
  void viterbi(std::string_view piece, Buffers& buffers) const;
  void keep_sums_small(Buffers& buffers, size_t begin, size_t end) const;
  void append_unknown(std::string_view text, std::vector<int32_t>& ids) const;

  std::vector<double> scores_;  // as the file has them
  std::vector<uint8_t> is_user_defined_;
  Options options_;
  double unk_score_ = 0;
  std::array<int32_t, 256> id_of_byte_;
  std::vector<Edge> edges_;
  std::vector<int32_t> id_at_;  // by trie node, -1: no token ends here
  uint32_t edge_mask_ = 0;
};

}  // namespace vertebra
