// The loss of a model over batches of labelled tokens: validation during training, perplexity and bits
// per byte in `eval`.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "backend/buffer_set.h"
#include "data/loader.h"
#include "models/model.h"

namespace vertebra {

// The batch number `index` of a fixed sequence; nothing when it has ended.
using BatchSequence = std::function<std::optional<Batch>(int64_t index)>;

// The batches of a loader that ends: all of them, or `limit` (more than 0) that lie evenly over it, so that
// few batches still come from all documents. Keeps a reference to the loader.
BatchSequence spread_over(const BatchLoader& loader, int64_t limit);

struct LossSummary {
  double loss_sum = 0;  // nats
  int64_t labels = 0;
  int64_t bytes = 0;  // of the text that the labels stand for

  double loss() const { return labels > 0 ? loss_sum / static_cast<double>(labels) : 0; }
  double bits_per_byte() const {
    return bytes > 0 ? loss_sum / static_cast<double>(bytes) / 0.69314718055994530942 : 0;
  }
  double perplexity() const;
};

// Evaluates with the parameters held in a buffer set (names as declared by the model), as they are at each
// run.
class LossEvaluator {
 public:
  // Batches of `rows` x `length`. `token_bytes[id]` is the length of a token's text in bytes.
  LossEvaluator(Backend& backend, const Model& model, const BufferSet& parameters, int64_t rows,
                int64_t length, DType compute, std::span<const int32_t> token_bytes);
  // Sums over all batches of the sequence, in order, in double precision.
  LossSummary run(const BatchSequence& batches);

 private:
  void add(const Batch& batch, const Tensor& losses, LossSummary& out) const;

  BufferSet buffers_;  // the batch and its losses
  std::span<const int32_t> token_bytes_;
  BoundExecutable executable_;
};

// Copies a batch into the graph inputs of its names; invalid_argument when its size is another.
void upload_batch(const Batch& batch, BufferSet& buffers);

}  // namespace vertebra
