#include "train/schedule.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace vertebra {

double schedule_factor(const Schedule& s, int64_t step) {
  if (step < s.warmup_steps) return static_cast<double>(step + 1) / static_cast<double>(s.warmup_steps);
  // Progress through what follows the warm-up: 0 at its first step, 1 at the last step of all.
  const auto progress = [&](int64_t first) {
    const int64_t last = s.steps - 1;
    return last > first
               ? std::clamp(static_cast<double>(step - first) / static_cast<double>(last - first), 0.0, 1.0)
               : 1.0;
  };
  switch (s.kind) {
    case Schedule::Kind::kConstant:
      return 1;
    case Schedule::Kind::kCosine: {
      const double cosine = 0.5 * (1 + std::cos(3.14159265358979323846 * progress(s.warmup_steps)));
      return s.final_fraction + (1 - s.final_fraction) * cosine;
    }
    case Schedule::Kind::kWarmupStableDecay: {
      const auto decay_steps =
          static_cast<int64_t>(std::llround(s.decay_share * static_cast<double>(s.steps)));
      const int64_t first = std::max(s.warmup_steps, s.steps - decay_steps);
      return step < first ? 1 : 1 - (1 - s.final_fraction) * progress(first);
    }
  }
  return 1;
}

Schedule::Kind schedule_kind(const std::string& name) {
  if (name == "constant") return Schedule::Kind::kConstant;
  if (name == "cosine") return Schedule::Kind::kCosine;
  if (name == "wsd") return Schedule::Kind::kWarmupStableDecay;
  fail(Code::kInvalidArgument, "schedule '{}' is unknown; constant, cosine and wsd are", name);
}

}  // namespace vertebra
