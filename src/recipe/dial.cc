#include "recipe/dial.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace vertebra {
namespace {

double as_double(int64_t value) { return static_cast<double>(value); }

int64_t nearest_power_of_two(double value) {
  return int64_t{1} << std::llround(std::clamp(std::log2(value), 0.0, 40.0));
}

// Rows of a micro-batch on one device, a power of two, so that what a step keeps for the backward pass stays
// near 1 GB: it
// takes about 54 bytes a token, layer and unit of width in fp32 (506 MB for 4,096 tokens, 6 layers, 384
// wide).
int64_t rows_in_memory(const PretrainingInputs& in) {
  const double bytes_per_row = 54.0 * as_double(in.layers * in.embedding * in.length);
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::max(1.0, 1e9 / bytes_per_row))));
}

// Most weight decay, and the share of the run over which the weights average: the timescale 1 / (rate x decay
// x steps) of Wang & Aitchison 2024. The best share is near 0.2 at 20 tokens a parameter (Bergsma et al.
// 2025, "Power Lines": it falls with the power -0.527 of that ratio). Short runs would get more decay than is
// usual by it: no more than the usual 0.1.
constexpr double kMostDecay = 0.1, kTimescale = 0.2;

double decay_for(double learning_rate, int64_t steps) {
  return std::min(kMostDecay, 1 / (std::max(1e-12, learning_rate) * as_double(steps) * kTimescale));
}

}  // namespace

int64_t count_inner_parameters(const Model& model) {
  int64_t out = 0;
  for (const ParameterSpec& spec : model.parameters()) {
    if (spec.role != Role::kEmbedding && spec.role != Role::kHead) out += spec.shape.elements();
  }
  return out;
}

// Tao et al. 2024: the parameters of the vocabulary grow with the power 0.83 of the others; 43 thousand
// tokens are best at 2.87 billion parameters and a width of 3,200.
int64_t dial_vocabulary(int64_t inner_parameters, int64_t embedding) {
  const double vocabulary_parameters = 43e3 * 3200 * std::pow(as_double(inner_parameters) / 2.87e9, 0.83);
  return std::clamp<int64_t>(nearest_power_of_two(vocabulary_parameters / as_double(embedding)), 512,
                             1 << 17);
}

// Twice the width: attention then costs a sixth of what the matrix products of a layer cost (6 E T beside 6 x
// 12 E^2 a token, causal).
int64_t dial_length(int64_t embedding) { return std::clamp<int64_t>(2 * embedding, 256, 2048); }

PretrainingPlan plan_pretraining(const PretrainingInputs& in, const PretrainingChoices& choices) {
  PretrainingPlan plan;
  // Tokens: 20 a parameter (Hoffmann et al. 2022), but no more than 4 passes over the data, up to which a
  // repeated token is nearly as good as a new one (Muennighoff et al. 2023).
  const double per_epoch = as_double(std::max<int64_t>(1, in.tokens_per_epoch));
  const double tokens = choices.epochs ? *choices.epochs * per_epoch
                                       : std::min(choices.tokens_per_parameter * as_double(in.parameters),
                                                  choices.max_epochs * per_epoch);
  // Batch: 0.58 D^0.571 tokens (Li et al. 2025, "Step Law"), to the nearest power of two of rows.
  const int64_t best_rows = nearest_power_of_two(0.58 * std::pow(tokens, 0.571) / as_double(in.length));
  const int64_t rows = choices.accumulation ? std::max<int64_t>(1, best_rows / *choices.accumulation)
                                            : std::min(best_rows, rows_in_memory(in) * in.batch_parts);
  plan.rows = choices.rows.value_or((rows + in.batch_parts - 1) / in.batch_parts * in.batch_parts);
  plan.accumulation =
      choices.accumulation.value_or(choices.rows ? 1 : std::max<int64_t>(1, best_rows / plan.rows));
  const double batch = as_double(plan.rows * plan.accumulation * in.length);
  plan.steps = choices.steps.value_or(std::max<int64_t>(1, std::llround(tokens / batch)));
  // Warm-up: 2 / (1 - beta2) steps, until the second moments are settled (Ma & Yarats 2021); no more than a
  // tenth of the run, no less than a hundredth.
  const auto settled = static_cast<int64_t>(std::llround(2 / (1 - in.beta2)));
  plan.warmup_steps =
      choices.warmup_steps.value_or(std::max(plan.steps / 100, std::min(settled, plan.steps / 10)));

  // Another batch than the dial's: rates by the square root of the ratio (Malladi et al. 2022).
  const double by_batch = std::sqrt(batch / as_double(best_rows * in.length));
  // Muon: 0.02 for the matrices, at any width (Jordan 2024); AdamW for the tied embedding and the norms as
  // nanochat (Karpathy 2025) has it for its head: 0.004 at a width of 768, with the inverse square root of
  // the width. AdamW for all: 1.79 N^-0.713 D^0.307 (Li et al. 2025), no more than the largest rate of their
  // sweep, 2^-7.
  const double step_law =
      1.79 * std::pow(as_double(std::max<int64_t>(1, in.inner_parameters)), -0.713) * std::pow(tokens, 0.307);
  const double rate =
      in.muon ? 0.004 * std::sqrt(768 / as_double(in.embedding)) : std::min(step_law, 1.0 / 128);
  plan.learning_rate = choices.learning_rate.value_or(rate * by_batch);
  plan.matrix_learning_rate = choices.matrix_learning_rate.value_or(0.02 * by_batch);
  plan.weight_decay = choices.weight_decay.value_or(decay_for(plan.learning_rate, plan.steps));
  plan.matrix_weight_decay =
      choices.matrix_weight_decay.value_or(decay_for(plan.matrix_learning_rate, plan.steps));
  return plan;
}

}  // namespace vertebra
