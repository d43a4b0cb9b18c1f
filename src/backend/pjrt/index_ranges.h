// Which values the integers of a StableHLO module can have, from the text alone: by intervals, value by
// value. For the rule that no index lies outside.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "backend/pjrt/stablehlo_parser.h"

namespace vertebra::pjrt {

// Both ends are included.
struct IndexRange {
  int64_t low = INT32_MIN, high = INT32_MAX;
  bool operator==(const IndexRange&) const = default;
};

// Every element of the named value lies within. A name that is not listed may have any value.
std::map<std::string, IndexRange> find_index_ranges(const ParsedRegion& function);

}  // namespace vertebra::pjrt
