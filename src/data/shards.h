// Token shards: folders of token ids on disk with document borders and, for conversations, the
// tokens that count in the loss. Owns the file format, the writer and the memory-mapped reader;
// what the tokens are is decided in data/produce_shards, what a batch is in data/loader.
//
// A shard file, little endian: a header of 64 bytes (magic "VTSHARD1"; u32 version, bytes per token
// (2 below 65,536 ids, else 4), flags (1: has a loss mask), vocabulary size; u64 documents, tokens,
// file size, and a hash of the header before it), then u64 offsets of the documents in tokens
// (documents + 1 of them), the tokens, padded to 8 bytes, and the loss mask, one bit per token (bit
// i % 8 of byte i / 8), padded to 8 bytes.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/manifest.h"

namespace vertebra {

enum class Split { kTrain = 0, kValidation = 1 };
constexpr int kSplits = 2;
constexpr std::string_view split_name(Split split) { return split == Split::kTrain ? "train" : "validation"; }

struct SplitCounts {
  int64_t documents = 0;
  int64_t tokens = 0;
  int64_t loss_tokens = 0;  // tokens that count in the loss; all of them without a mask
  uint64_t text_bytes = 0;  // of the text the tokens stand for: for bits per byte
};

// Fills a folder with train-00000.bin, ..., validation-00000.bin, ... in the order of add(). Holds
// one shard of each split in memory.
class ShardWriter {
 public:
  // A shard is closed before the document that would take it over `shard_tokens` (a longer
  // document is a shard of its own). Throws invalid_argument for sizes out of range.
  ShardWriter(std::filesystem::path folder, int vocab_size, bool has_loss_mask, int64_t shard_tokens);

  // `loss` (0 or 1 per token) is empty without a mask. Throws internal for a token id outside the
  // vocabulary or sizes that differ: the producer is wrong, not the data.
  void add(Split split, std::span<const int32_t> tokens, std::span<const uint8_t> loss, uint64_t text_bytes);
  // Writes what is left. Returns the counts by split.
  std::array<SplitCounts, kSplits> finish();
  int shards(Split split) const { return open_[static_cast<size_t>(split)].shards; }  // written so far

 private:
  struct Open {
    std::vector<uint64_t> offsets{0};
    std::string tokens, mask;  // packed as on disk
    int shards = 0;
  };
  void close(Split split);

  std::filesystem::path folder_;
  int vocab_size_, token_bytes_;
  bool has_loss_mask_;
  int64_t shard_tokens_;
  std::array<Open, kSplits> open_;
  std::array<SplitCounts, kSplits> counts_;
};

// One shard file, memory-mapped and validated: sizes, hash of the header, offsets that rise. Throws
// data_loss naming the file and the remedy.
class Shard {
 public:
  explicit Shard(const std::filesystem::path& path);

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  int vocab_size() const { return vocab_size_; }
  bool has_loss_mask() const { return mask_ != nullptr; }
  // documents() + 1 positions, the first 0 and the last tokens().
  std::span<const uint64_t> offsets() const { return {offsets_, static_cast<size_t>(documents_) + 1}; }
  // Token ids [begin, begin + out.size()). Throws data_loss for an id outside the vocabulary: the
  // tokens themselves are covered by the manifest's hash, which may not have been checked.
  void read_tokens(int64_t begin, std::span<int32_t> out) const;
  bool in_loss(int64_t position) const;

 private:
  std::string name_;
  MappedFile file_;
  int64_t documents_ = 0, tokens_ = 0;
  int vocab_size_ = 0, token_bytes_ = 2;
  const uint64_t* offsets_ = nullptr;
  const std::byte* data_ = nullptr;
  const std::byte* mask_ = nullptr;
};

// The shards of one split as one sequence of documents and tokens, in the order written.
class ShardSplit {
 public:
  ShardSplit() = default;
  explicit ShardSplit(std::vector<Shard> shards);

  int64_t documents() const { return document_starts_.back(); }
  int64_t tokens() const { return token_starts_.back(); }
  int64_t document_begin(int64_t document) const;  // in tokens; document in [0, documents()]
  int64_t document_of(int64_t token) const;        // the document that holds a token
  void read_tokens(int64_t begin, std::span<int32_t> out) const;
  bool in_loss(int64_t token) const;

 private:
  std::vector<Shard> shards_;
  std::vector<int64_t> document_starts_{0}, token_starts_{0};  // by shard, and the totals
};

class ShardSet {
 public:
  // Opens a folder made by the producers and compares it with its manifest: kind, files, sizes and
  // counts always, SHA-256 of every file when `verify_hashes` (reads everything once, about 1 GB/s).
  // Throws not_found without a manifest, data_loss for any difference.
  explicit ShardSet(const std::filesystem::path& folder, bool verify_hashes = true);

  const ShardSplit& split(Split split) const { return splits_[static_cast<size_t>(split)]; }
  const SplitCounts& counts(Split split) const { return counts_[static_cast<size_t>(split)]; }
  const Manifest& manifest() const { return manifest_; }
  int vocab_size() const { return vocab_size_; }
  bool has_loss_mask() const { return has_loss_mask_; }
  const std::string& tokenizer_digest() const { return tokenizer_digest_; }

 private:
  Manifest manifest_;
  int vocab_size_ = 0;
  bool has_loss_mask_ = false;
  std::string tokenizer_digest_;
  std::array<ShardSplit, kSplits> splits_;
  std::array<SplitCounts, kSplits> counts_;
};

}  // namespace vertebra
