#include "engine/prefill_budget.h"

#include <algorithm>

namespace vertebra {

int64_t PrefillBudget::tokens(int64_t answers, int64_t prompts) const {
  if (answers_s_ == 0 || token_s_ == 0) return mixed_ == 0 ? kUnknown : 0;
  if (mixed_ >= kMeasureEvery) return 0;
  const double crowd = std::max(1.0, static_cast<double>(prompts) / static_cast<double>(answers));
  const double tokens = (stretch_ - 1) * crowd * answers_s_ / token_s_;
  return std::max(kLeast, static_cast<int64_t>(std::min(tokens, 1e6)));
}

void PrefillBudget::record(int64_t prompt_tokens, int64_t answers, double seconds) {
  // What lets fewer tokens in is believed at once, what lets more in slowly: a step that another program
  // slowed down must not be followed by a long one.
  // What lets fewer tokens in is believed at once, what lets more in slowly, and nothing beyond twice what
  // was known: a step that another program slowed down must not be followed by a long one, nor by many short
  // ones.
  const auto learn = [](double& value, double now, bool careful) {
    const double change = std::min(now, 2 * value) - value;
    value = value == 0 ? now : value + (careful ? kQuick : kSlow) * change;
  };
  if (prompt_tokens == 0) {
    if (answers == 0) return;
    mixed_ = 0;
    learn(answers_s_, seconds, seconds < answers_s_);
  } else if (answers == 0) {
    if (token_s_ == 0) token_s_ = seconds / static_cast<double>(prompt_tokens);
  } else {
    ++mixed_;
    if (answers_s_ == 0) return;
    // Noise must not make tokens free.
    const double each =
        std::max(seconds - answers_s_, 0.02 * answers_s_) / static_cast<double>(prompt_tokens);
    learn(token_s_, each, each > token_s_);
  }
}

}  // namespace vertebra
