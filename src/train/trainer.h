// The training loop: batches in, steps on a backend, checkpoints, metrics, validation, samples; stops
// and resumes at any step with the same bits. What a step computes is train_graph.h; where batches come
// from is the caller's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "backend/buffer_set.h"
#include "data/loader.h"
#include "formats/safetensors.h"
#include "models/model.h"
#include "train/evaluate.h"
#include "train/schedule.h"
#include "train/train_graph.h"

namespace vertebra {

struct TrainerOptions {
  TrainGraphOptions graph;
  Schedule schedule;         // its `steps` is the number of optimizer steps
  int64_t accumulation = 1;  // micro-batches a step
  uint64_t seed = 0;
  int64_t checkpoint_every = 200;  // steps; 0: only at the end and when interrupted
  int keep_checkpoints = 2;
  int64_t evaluate_every = 0;  // steps; 0: only at the end
  int64_t sample_every = 0;    // steps; 0: never
  int64_t log_every = 10;      // steps a line of metrics.jsonl
  // An update whose gradient norm is not finite, or above `spike_factor` times the median of the last 64
  // norms, is skipped (parameters stay as they are). After `max_skips` skipped steps in a row, or at once
  // with 0, training stops with an error; the last checkpoint is from before.
  double spike_factor = 50;
  int max_skips = 5;
  // What the run depends on (recipe, inputs). A checkpoint of another fingerprint is not continued.
  std::string fingerprint;
  std::filesystem::path folder;  // metrics.jsonl, checkpoints/
};

struct TrainerInputs {
  // Micro-batch number `index` (step * accumulation + i); the same index gives the same batch, always.
  std::function<Batch(int64_t index)> batch;
  BatchSequence validation;              // may be empty
  std::span<const int32_t> token_bytes;  // for bits per byte
  // Parameters at step 0, by declaration.
  std::function<Tensor(const ParameterSpec&)> initial;
  // Called every sample_every steps with the parameters as they are; returns a text for the report.
  std::function<Json(const BufferSet& parameters)> sample;
};

struct TrainResult {
  int64_t steps = 0, tokens = 0, skipped = 0;  // tokens: positions processed, padding included
  double loss = 0;                             // mean of the last tenth of the steps
  LossSummary validation;
  double wall_seconds = 0, core_seconds = 0;  // of this process, this call
  uint64_t peak_memory_bytes = 0;
  bool resumed = false;
};

class Trainer {
 public:
  Trainer(Backend& backend, const Model& model, TrainerOptions options, TrainerInputs inputs);
  ~Trainer();

  // Runs from the newest whole checkpoint, or from the start, to the last step. Throws Interrupted after
  // saving a checkpoint when asked to stop; data_loss on a loss that stays unsound.
  TrainResult run();

  // Current parameters, on the device and as host tensors.
  const BufferSet& parameters() const;
  std::vector<NamedTensor> parameters_to_host() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace vertebra
