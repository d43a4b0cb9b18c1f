// A short training run for tests that compare devices: counting tokens, every fifth label left out, segments.
#pragma once

#include "base/rng.h"
#include "tests/train/loss_curve.h"
#include "train/trainer.h"

namespace vertebra {

inline constexpr int kSmallLength = 16, kSmallVocabulary = 32;

inline Batch counting_batch(int64_t index, int rows) {
  Batch batch;
  batch.rows = rows;
  batch.length = kSmallLength;
  const Philox random(3, "counting");
  for (int row = 0; row < rows; ++row) {
    const auto start =
        static_cast<int32_t>(random.below(static_cast<uint64_t>(index * rows + row), kSmallVocabulary));
    for (int t = 0; t < kSmallLength; ++t) {
      const bool masked = (t + row) % 5 == 0;
      batch.tokens.push_back((start + t) % kSmallVocabulary);
      batch.labels.push_back(masked ? -1 : (start + t + 1) % kSmallVocabulary);
      batch.segments.push_back(t / 9);
      batch.positions.push_back(t % 9);
      batch.loss_tokens += masked ? 0 : 1;
    }
  }
  return batch;
}

// Ten steps, every one logged, a checkpoint after the fifth.
inline TrainerOptions small_training(const std::filesystem::path& folder, int rows,
                                     const std::string& optimizer) {
  TrainerOptions out;
  out.graph.rows = rows;
  out.graph.length = kSmallLength;
  out.graph.optimizer.kind = optimizer;
  out.graph.optimizer.learning_rate = 1e-2;
  out.schedule.steps = 10;
  out.schedule.warmup_steps = 4;
  out.checkpoint_every = 5;
  out.log_every = 1;
  out.fingerprint = "test";
  out.folder = folder;
  return out;
}

// Trains to the end, or until step `stop`; the losses of all steps logged in the folder.
inline std::vector<double> train_small(Backend& backend, const Model& model, const TrainerOptions& options,
                                       int64_t stop = -1) {
  TrainerInputs inputs;
  inputs.batch = [&](int64_t index) {
    if (index == stop) throw Error(Code::kCancelled, "stopped by the test");
    return counting_batch(index, static_cast<int>(options.graph.rows));
  };
  inputs.initial = [](const ParameterSpec& spec) { return initial_value(spec, 1); };
  Trainer trainer(backend, model, options, inputs);
  if (stop < 0) {
    trainer.run();
  } else {
    EXPECT_THROW(trainer.run(), Error);
  }
  return logged_losses(options.folder);
}

}  // namespace vertebra
