// A compiled pattern of a tokenizer.json (PCRE2, Unicode properties, compiled to machine code where
// possible) with bounds on what a hostile pattern can cost. Called by the pre-tokenizer and normalizer.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/function_ref.h"

namespace vertebra {

class Regex {
 public:
  // Throws invalid_argument naming `source`, the pattern and the place of the mistake.
  Regex(const std::string& pattern, std::string_view source);

  // Calls found(begin, end) for every non-empty match, left to right, not overlapping. Broken UTF-8
  // is matched by nothing. Throws resource_exhausted when one match costs more than the bounds.
  void for_each_match(std::string_view text, FunctionRef<void(size_t begin, size_t end)> found) const;

  const std::string& pattern() const { return pattern_; }

 private:
  struct Code;
  std::string pattern_;
  std::shared_ptr<const Code> code_;
};

}  // namespace vertebra
