#include "data/loader.h"

#include <algorithm>

#include "base/error.h"
#include "data/permutation.h"

namespace vertebra {
namespace {

constexpr int kMaxLength = 1 << 24;

void require_options(const LoaderOptions& options) {
  require(options.rows >= 1 && options.rows <= 1 << 20, "rows of a batch: {}; 1 to {} was wanted",
          options.rows, 1 << 20);
  require(options.length >= 2 && options.length <= kMaxLength, "row length: {}; 2 to {} was wanted",
          options.length, kMaxLength);
  require(int64_t{options.rows} * options.length <= int64_t{1} << 31,
          "a batch of {} rows of {} tokens; at most 2^31 tokens were wanted", options.rows, options.length);
  require(options.window >= 1 && options.window <= 1 << 16, "packing window: {}; 1 to {} was wanted",
          options.window, 1 << 16);
  require(options.replicas >= 1 && options.replica >= 0 && options.replica < options.replicas,
          "replica {} of {}; 0 up to, but not, the number of replicas was wanted", options.replica,
          options.replicas);
}

}  // namespace

Packing packing_from_name(std::string_view name) {
  if (name == "stream") return Packing::kStream;
  if (name == "whole") return Packing::kWhole;
  fail(Code::kInvalidArgument, "packing '{}' is not known; stream or whole was wanted", name);
}

RowOrder row_order_from_name(std::string_view name) {
  if (name == "shuffled") return RowOrder::kShuffled;
  if (name == "as_written") return RowOrder::kAsWritten;
  fail(Code::kInvalidArgument, "order '{}' is not known; shuffled or as_written was wanted", name);
}

TooLong too_long_from_name(std::string_view name) {
  if (name == "cut") return TooLong::kCut;
  if (name == "drop") return TooLong::kDrop;
  fail(Code::kInvalidArgument, "too_long = '{}' is not known; cut or drop was wanted", name);
}

LoaderOptions evaluation_options(int rows, int length, Packing packing) {
  LoaderOptions out;
  out.rows = rows;
  out.length = length;
  out.packing = packing;
  out.order = RowOrder::kAsWritten;
  out.repeat = false;
  return out;
}

BatchLoader::BatchLoader(std::shared_ptr<const ShardSet> shards, Split split, LoaderOptions options)
    : shards_(std::move(shards)), split_(shards_->split(split)), options_(options) {
  require_options(options_);
  require(split_.tokens() > 0, Code::kFailedPrecondition,
          "the shards have no {} documents; raise validation_share, or cut large files into documents",
          split_name(split));
  if (options_.packing == Packing::kWhole) {
    pack();
  } else {
    report_.rows = (split_.tokens() + options_.length - 1) / options_.length;
    report_.tokens = split_.tokens();
    report_.documents = split_.documents();
  }
}

// The part of a document that goes into a row; false when it is left out.
bool BatchLoader::plan_document(int64_t document, Piece& out) {
  const int64_t begin = split_.document_begin(document);
  const int64_t tokens = split_.document_begin(document + 1) - begin;
  if (tokens > options_.length) {
    if (options_.too_long == TooLong::kDrop) {
      ++report_.documents_dropped;
      report_.tokens_lost += tokens;
      return false;
    }
    ++report_.documents_cut;
    report_.tokens_lost += tokens - options_.length;
  }
  out = {begin, static_cast<int32_t>(std::min<int64_t>(tokens, options_.length))};
  ++report_.documents;
  report_.tokens += out.tokens;
  return true;
}

void BatchLoader::pack() {
  const int64_t documents = split_.documents();
  const Permutation order(static_cast<uint64_t>(documents), options_.seed, stream_id("packing"));
  int64_t next = 0;
  std::vector<Piece> window;
  const auto refill = [&] {
    Piece piece;
    while (next < documents && window.size() < static_cast<size_t>(options_.window)) {
      const int64_t document = options_.order == RowOrder::kAsWritten
                                   ? next
                                   : static_cast<int64_t>(order(static_cast<uint64_t>(next)));
      ++next;
      if (plan_document(document, piece)) window.push_back(piece);
    }
  };
  row_starts_.push_back(0);
  for (refill(); !window.empty(); refill()) {
    // The document that waits longest opens the row, so that none waits for ever; then the longest
    // that still fits, the earliest of equals.
    int32_t room = options_.length;
    size_t choice = 0;
    while (choice < window.size()) {
      room -= window[choice].tokens;
      pieces_.push_back(window[choice]);
      window.erase(window.begin() + static_cast<std::ptrdiff_t>(choice));
      refill();
      choice = window.size();
      for (size_t i = 0; i < window.size(); ++i) {
        if (window[i].tokens <= room && (choice == window.size() || window[i].tokens > window[choice].tokens))
          choice = i;
      }
    }
    row_starts_.push_back(static_cast<int64_t>(pieces_.size()));
  }
  report_.rows = static_cast<int64_t>(row_starts_.size()) - 1;
  require(report_.rows > 0, Code::kFailedPrecondition,
          "all {} documents are longer than the row length of {} and were dropped; raise it, or cut them",
          documents, options_.length);
}

int64_t BatchLoader::steps_per_epoch() const {
  const int64_t rows = int64_t{options_.rows} * options_.replicas;
  return (report_.rows + rows - 1) / rows;
}

int64_t BatchLoader::epoch_of(int64_t step) const {
  return options_.repeat ? step * options_.rows * options_.replicas / report_.rows : 0;
}

Batch BatchLoader::batch(int64_t step) const {
  require(step >= 0 && step <= int64_t{1} << 40, "step {}; 0 to 2^40 was wanted", step);
  Batch out;
  out.rows = options_.rows;
  out.length = options_.length;
  const size_t size = static_cast<size_t>(options_.rows) * static_cast<size_t>(options_.length);
  out.tokens.assign(size, 0);
  out.labels.assign(size, -1);
  out.segments.assign(size, -1);
  out.positions.assign(size, 0);
  const int64_t first = (step * options_.replicas + options_.replica) * options_.rows;
  for (int r = 0; r < options_.rows; ++r) {
    const int64_t place = first + r;
    if (!options_.repeat && place >= report_.rows) break;
    int64_t row = place % report_.rows;
    if (options_.order == RowOrder::kShuffled) {
      const auto epoch = static_cast<uint64_t>(place / report_.rows);
      const Permutation order(static_cast<uint64_t>(report_.rows), options_.seed, stream_id("rows") + epoch);
      row = static_cast<int64_t>(order(static_cast<uint64_t>(row)));
    }
    fill_row(row, r, out);
  }
  return out;
}

void BatchLoader::fill_row(int64_t row, int index, Batch& out) const {
  size_t at = static_cast<size_t>(index) * static_cast<size_t>(options_.length);
  if (options_.packing == Packing::kWhole) {
    const auto r = static_cast<size_t>(row);
    for (int64_t p = row_starts_[r]; p < row_starts_[r + 1]; ++p) {
      const Piece piece = pieces_[static_cast<size_t>(p)];
      // A document that was cut ends with its last token in the row: no label beyond.
      fill_piece(piece, piece.begin + piece.tokens, static_cast<int32_t>(p - row_starts_[r]), at, out);
      at += static_cast<size_t>(piece.tokens);
    }
    return;
  }
  int64_t begin = row * options_.length;
  const int64_t end = std::min(begin + options_.length, split_.tokens());
  int64_t document = split_.document_of(begin);
  for (int32_t segment = 0; begin < end; ++segment, ++document) {
    const int64_t document_end = split_.document_begin(document + 1);
    const Piece piece = {begin, static_cast<int32_t>(std::min(end, document_end) - begin)};
    fill_piece(piece, document_end, segment, at, out);
    at += static_cast<size_t>(piece.tokens);
    begin += piece.tokens;
  }
}

// Writes a piece at `at`; its last token has a label only if the document goes on behind the piece.
void BatchLoader::fill_piece(Piece piece, int64_t label_end, int32_t segment, size_t at, Batch& out) const {
  const auto count = static_cast<size_t>(piece.tokens);
  split_.read_tokens(piece.begin, std::span(out.tokens).subspan(at, count));
  int32_t following = 0;
  const bool goes_on = piece.begin + piece.tokens < label_end;
  if (goes_on) split_.read_tokens(piece.begin + piece.tokens, std::span(&following, 1));
  const bool masked = shards_->has_loss_mask();
  for (size_t i = 0; i < count; ++i) {
    out.segments[at + i] = segment;
    out.positions[at + i] = static_cast<int32_t>(i);
    const bool last = i + 1 == count;
    if (last && !goes_on) break;
    if (masked && !split_.in_loss(piece.begin + static_cast<int64_t>(i) + 1)) continue;
    out.labels[at + i] = last ? following : out.tokens[at + i + 1];
    ++out.loss_tokens;
  }
}

}  // namespace vertebra
