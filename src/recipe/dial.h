// The depth dial: what a pretraining run is trained with where its recipe says nothing. The model's shape
// gives a vocabulary and a length; shape and data together give tokens, batch, steps, learning rates and
// weight decay, by published rules that dial.cc quotes. An explicit value of the recipe always wins, and what
// follows from it follows. Called by the stages `tokenizer` and `pretrain`; described for users in
// docs/recipes.md.
#pragma once

#include <cstdint>
#include <optional>

#include "models/model.h"

namespace vertebra {

// A power of two for a model with this many parameters outside of embedding and head, `embedding` wide.
int64_t dial_vocabulary(int64_t inner_parameters, int64_t embedding);
// Of the context, and of the rows in pretraining.
int64_t dial_length(int64_t embedding);
// Parameters outside of embedding and head.
int64_t count_inner_parameters(const Model& model);

// What a recipe sets itself; nothing: the dial decides.
struct PretrainingChoices {
  std::optional<int64_t> rows, accumulation, steps, warmup_steps;
  std::optional<double> epochs, learning_rate, matrix_learning_rate, weight_decay, matrix_weight_decay;
  double tokens_per_parameter = 20;
  double max_epochs = 4;
};

struct PretrainingInputs {
  int64_t parameters = 0, inner_parameters = 0, layers = 0, embedding = 0;
  int64_t length = 0;            // of a row
  int64_t tokens_per_epoch = 0;  // of the training split
  int64_t batch_parts = 1;       // devices that share the rows of a micro-batch
  bool muon = true;              // for the matrices; else AdamW for all
  double beta2 = 0.95;           // of AdamW
};

struct PretrainingPlan {
  int64_t rows = 1, accumulation = 1, steps = 1, warmup_steps = 0;
  double learning_rate = 0, matrix_learning_rate = 0, weight_decay = 0, matrix_weight_decay = 0;
};

PretrainingPlan plan_pretraining(const PretrainingInputs& inputs, const PretrainingChoices& choices);

}  // namespace vertebra
