// The graphs of training: one step (loss, gradients, clipping, update), the two halves of a step with
// gradient accumulation, and evaluation. What the trainer compiles; no loop here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/model.h"
#include "ops/ops.h"

namespace vertebra {

struct OptimizerOptions {
  // "adamw": every parameter. "muon": Muon for the matrices inside the layers, AdamW for the rest.
  std::string kind = "adamw";
  double learning_rate = 3e-4;  // of AdamW
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;  // AdamW: on everything that is not a vector; in "muon" runs on nothing
  double matrix_learning_rate = 0.02, momentum = 0.95, matrix_weight_decay = 0;  // of Muon
};

struct TrainGraphOptions {
  int64_t rows = 1, length = 1;  // of a micro-batch
  DType compute = DType::kF32;   // of matrix products
  bool rematerialize = false;
  double clip_norm = 1;  // 0: no clipping
  OptimizerOptions optimizer;
  Mesh mesh;  // of the backend: inputs and outputs carry their shardings on it
};

// Optimizer state, all f32: names "m/NAME", "v/NAME" (AdamW), "momentum/NAME" (Muon); zero at the start.
struct StateSpec {
  std::string name;
  Shape shape;
  Sharding sharding;
};
std::vector<StateSpec> optimizer_state(const Model& model, const OptimizerOptions& options,
                                       const Mesh& mesh = {});

// Inputs of the training graphs, by name: every parameter and state under its name (donated to the output of
// that name), the batch, and scalars.
namespace inputs {
inline constexpr const char* kTokens = "batch/tokens";         // i32 [B, T]
inline constexpr const char* kLabels = "batch/labels";         // i32 [B, T], < 0: no loss
inline constexpr const char* kSegments = "batch/segments";     // i32 [B, T]
inline constexpr const char* kPositions = "batch/positions";   // i32 [B, T]
inline constexpr const char* kLossScale = "loss_scale";        // f32: 1 / number of labels in the whole step
inline constexpr const char* kLearningRate = "learning_rate";  // f32, of AdamW
inline constexpr const char* kMatrixLearningRate = "matrix_learning_rate";  // f32, of Muon
inline constexpr const char* kStep = "step";                                // f32, counts from 1
inline constexpr const char* kNormLimit =
    "norm_limit";  // f32: a larger (or not finite) norm skips the update
}  // namespace inputs
namespace outputs {
inline constexpr const char* kLoss = "loss";  // f32: sum over the labels of this micro-batch, nats
inline constexpr const char* kGradientNorm = "gradient_norm";  // f32, before clipping
inline constexpr const char* kTokenLoss = "token_loss";        // f32 [B, T] (evaluation)
}  // namespace outputs
// Accumulated gradient of a parameter, in the two halves of an accumulating step.
std::string gradient_name(const std::string& parameter);

// batch -> loss, updated parameters and state.
Graph build_training_step(const Model& model, const TrainGraphOptions& options);
// batch + accumulated gradients -> loss, accumulated gradients (donated).
Graph build_accumulation_step(const Model& model, const TrainGraphOptions& options);
// accumulated gradients -> updated parameters and state; accumulators come back as zeros.
Graph build_update_step(const Model& model, const TrainGraphOptions& options);
// batch -> loss of every token.
Graph build_evaluation(const Model& model, int64_t rows, int64_t length, DType compute,
                       const Mesh& mesh = {});

}  // namespace vertebra
