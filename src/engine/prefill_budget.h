// How many tokens of prompts may go into a step beside answers, so that those who are reading do not wait
// long for their next token: learned from how long steps take. Decides when things are computed, never what.
#pragma once

#include <cstdint>

namespace vertebra {

class PrefillBudget {
 public:
  // A step with prompts may take `stretch` (above 1) times as long as one of answers alone.
  explicit PrefillBudget(double stretch) : stretch_(stretch) {}

  // For a step with that many answers while that many prompts wait; 0: this step is to be measured without
  // any. More prompts than answers may slow these down in proportion.
  int64_t tokens(int64_t answers, int64_t prompts) const;
  void record(int64_t prompt_tokens, int64_t answers, double seconds);

 private:
  static constexpr int64_t kUnknown = 32, kLeast = 8;
  static constexpr int64_t kMeasureEvery = 32;          // steps with both
  static constexpr double kQuick = 0.25, kSlow = 0.05;  // weights of the latest measurement

  double stretch_;
  double answers_s_ = 0, token_s_ = 0;  // a step without prompts; each of their tokens; 0: not known
  int64_t mixed_ = 0;                   // steps with both since the last without prompts
};

}  // namespace vertebra
