// Batches for the trainer and for evaluation, from memory-mapped shards: which tokens make a row,
// in which order rows come, what is a label. Every batch is a function of (shards, options, step):
// the step number is the whole state, a checkpoint needs nothing else, and a resumed run continues
// bit for bit without replaying. Reading is a copy from mapped memory, so there is no thread here.
//
// Packing kStream (pretraining): the documents of a split stand one after the other as they were
// written, and row k is tokens [k T, (k + 1) T). A shuffled epoch takes the rows in the order of a
// Feistel permutation of (seed, epoch): every token is an input exactly once per epoch, the label
// of every token but a document's first is learnt exactly once per epoch, and no list of documents is
// ever made. A document longer than T goes on in the next row, with positions from 0 again (its row
// sees nothing before itself). The last row of an epoch is padded.
//
// Packing kWhole (conversations): no document is torn apart. Rows are packed once, best fit
// within a window of documents that moves along (shuffled, or as written), and only the order of the
// rows changes with the epoch; so the number of rows is the same in every epoch and any step can be
// reached directly. Needs 16 bytes of memory per document and a pass over the document borders only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/shards.h"

namespace vertebra {

// B = rows, T = length; all arrays [B, T], row-major.
struct Batch {
  int rows = 0, length = 0;
  std::vector<int32_t> tokens;     // padding: 0
  std::vector<int32_t> labels;     // the next token of the same document; -1 where none is learnt
  std::vector<int32_t> segments;   // number of the document within its row, from 0; -1: padding
  std::vector<int32_t> positions;  // within the document's part in this row, from 0; padding: 0
  int64_t loss_tokens = 0;         // labels that are not -1; may be 0
};

enum class Packing { kStream, kWhole };
enum class RowOrder { kShuffled, kAsWritten };
enum class TooLong { kCut, kDrop };  // kWhole: keep the first T tokens, or leave the document out

Packing packing_from_name(std::string_view name);     // "stream", "whole"
RowOrder row_order_from_name(std::string_view name);  // "shuffled", "as_written"
TooLong too_long_from_name(std::string_view name);    // "cut", "drop"

struct LoaderOptions {
  int rows = 1;    // B of this loader's batches
  int length = 0;  // T
  Packing packing = Packing::kStream;
  RowOrder order = RowOrder::kShuffled;
  TooLong too_long = TooLong::kCut;
  int window = 256;  // kWhole: documents that best fit chooses from
  uint64_t seed = 0;
  // Training starts the next epoch within a batch; evaluation ends after one, the last batch padded.
  bool repeat = true;
  // Data parallelism: of every `replicas` batches, this loader makes the `replica`-th. The rows of
  // all replicas together are those of one loader with rows * replicas rows.
  int replica = 0, replicas = 1;
};

struct LoaderReport {
  int64_t rows = 0;       // per epoch
  int64_t tokens = 0;     // that are inputs, per epoch; rows * T minus these is padding
  int64_t documents = 0;  // per epoch
  int64_t documents_cut = 0, documents_dropped = 0;  // kWhole: longer than T
  int64_t tokens_lost = 0;                           // by the two
};

class BatchLoader {
 public:
  // Throws invalid_argument for options out of range, failed_precondition when the split has no
  // document (or none is left). Keeps the shards.
  BatchLoader(std::shared_ptr<const ShardSet> shards, Split split, LoaderOptions options);

  // Any step >= 0, in any order, at the same price; from several threads. Without `repeat` a step
  // at or past steps_per_epoch() is all padding. Throws data_loss for tokens outside the vocabulary.
  Batch batch(int64_t step) const;
  // ceil(rows per epoch / (rows * replicas)).
  int64_t steps_per_epoch() const;
  int64_t epoch_of(int64_t step) const;  // of the first row of the step
  const LoaderReport& report() const { return report_; }

 private:
  // A piece of a row: `tokens` tokens from `begin` of the split.
  struct Piece {
    int64_t begin;
    int32_t tokens;
  };
  void pack();
  bool plan_document(int64_t document, Piece& out);
  void fill_row(int64_t row, int index, Batch& out) const;
  void fill_piece(Piece piece, int64_t label_end, int32_t segment, size_t at, Batch& out) const;

  std::shared_ptr<const ShardSet> shards_;
  const ShardSplit& split_;
  LoaderOptions options_;
  LoaderReport report_;
  std::vector<Piece> pieces_;        // kWhole: in row order
  std::vector<int64_t> row_starts_;  // kWhole: rows + 1 indices into pieces_
};

// Every token of a split once, in the order written, the last batch padded: the same batches on
// every machine and at every evaluation.
LoaderOptions evaluation_options(int rows, int length, Packing packing = Packing::kStream);

}  // namespace vertebra
