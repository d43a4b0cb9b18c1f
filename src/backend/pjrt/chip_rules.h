// Checks a StableHLO module against what a vendor's documents forbid (ChipRules, a part of the vendor's row).
// Called by the verifier before a plugin sees a module, and by `vertebra lint`; no plugin is needed.
#pragma once

#include <string>
#include <vector>

#include "backend/pjrt/stablehlo_parser.h"
#include "backend/pjrt/vendors.h"

namespace vertebra::pjrt {

struct RuleBreach {
  int line = 0;           // of the module's text
  std::string operation;  // "stablehlo.sort"
  std::string rule;       // what is forbidden, in words
  std::string remedy;     // what to write instead
};

// Every line that breaks a rule, in order; a line once for each rule. Dynamic shapes are forbidden
// everywhere.
std::vector<RuleBreach> find_breaches(const ParsedOperation& module, const ChipRules& rules);

// The row's entry for an operation; null when it is allowed.
const BannedOperation* find_ban(const ChipRules& rules, std::string_view operation);

}  // namespace vertebra::pjrt
