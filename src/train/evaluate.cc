#include "train/evaluate.h"

#include <algorithm>
#include <cmath>

#include "train/train_graph.h"

namespace vertebra {

double LossSummary::perplexity() const { return std::exp(loss()); }

BatchSequence spread_over(const BatchLoader& loader, int64_t limit) {
  const int64_t all = loader.steps_per_epoch();
  const int64_t taken = limit > 0 ? std::min(limit, all) : all;
  return [&loader, all, taken](int64_t index) -> std::optional<Batch> {
    if (index >= taken) return std::nullopt;
    return loader.batch(index * all / taken);
  };
}

void upload_batch(const Batch& batch, BufferSet& buffers) {
  const Shape shape{batch.rows, batch.length};
  const auto copy = [&](const char* name, const std::vector<int32_t>& values) {
    Buffer& buffer = buffers.at(name);
    require(buffer.type().shape == shape && static_cast<int64_t>(values.size()) == shape.elements(),
            "a batch of {} rows of {} tokens was given where {} was wanted", batch.rows, batch.length,
            buffer.type().shape.to_string());
    buffer.copy_from(Tensor::view({DType::kI32, shape}, values.data(), nullptr));
  };
  copy(inputs::kTokens, batch.tokens);
  copy(inputs::kLabels, batch.labels);
  copy(inputs::kSegments, batch.segments);
  copy(inputs::kPositions, batch.positions);
}

LossEvaluator::LossEvaluator(Backend& backend, const Model& model, const BufferSet& parameters, int64_t rows,
                             int64_t length, DType compute, std::span<const int32_t> token_bytes)
    : token_bytes_(token_bytes),
      executable_(backend, build_evaluation(model, rows, length, compute, backend.mesh()), buffers_,
                  &parameters) {}

LossSummary LossEvaluator::run(const BatchSequence& batches) {
  LossSummary out;
  // A batch behind: the device works on one while the host reads the next and sums the one before.
  std::optional<Batch> running;
  std::unique_ptr<PendingTensor> losses;
  for (int64_t index = 0;; ++index) {
    std::optional<Batch> next = batches(index);
    std::unique_ptr<PendingTensor> next_losses;
    if (next) {
      upload_batch(*next, buffers_);
      executable_.run();
      next_losses = buffers_.at(outputs::kTokenLoss).read();
    }
    if (running) add(*running, losses->wait(), out);
    if (!next) return out;
    running = std::move(next);
    losses = std::move(next_losses);
  }
}

void LossEvaluator::add(const Batch& batch, const Tensor& losses, LossSummary& out) const {
  const auto values = losses.data<float>();
  for (size_t i = 0; i < values.size(); ++i) {
    const int32_t label = batch.labels[i];
    if (label < 0) continue;
    out.loss_sum += values[i];
    ++out.labels;
    if (static_cast<size_t>(label) < token_bytes_.size())
      out.bytes += token_bytes_[static_cast<size_t>(label)];
  }
}

}  // namespace vertebra
