// The learning rate as a function of the step: a factor in [0, 1] that multiplies every group's rate.
#pragma once

#include <cstdint>
#include <string>

namespace vertebra {

struct Schedule {
  enum class Kind { kConstant, kCosine, kWarmupStableDecay } kind = Kind::kCosine;
  int64_t steps = 0;          // of the whole training
  int64_t warmup_steps = 0;   // linear from 1/warmup to 1
  double final_fraction = 0;  // the factor at the last step
  double decay_share = 0.2;  // warmup-stable-decay: share of the steps that decays, linearly (Hu et al. 2024)
};

// Factor at step 0 .. steps-1.
double schedule_factor(const Schedule& schedule, int64_t step);

// "constant", "cosine", "wsd"; invalid_argument naming them otherwise.
Schedule::Kind schedule_kind(const std::string& name);

}  // namespace vertebra
