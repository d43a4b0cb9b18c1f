// All modules that a graph becomes on the chips of a vendor, without any plugin: for `vertebra lint`.
#pragma once

#include <string>
#include <vector>

#include "backend/pjrt/vendors.h"
#include "graph/graph.h"

namespace vertebra::pjrt {

struct ChipModule {
  std::vector<int64_t> sizes;  // that the graph's bounded dimensions are padded to; empty: it has none
  std::string text;
};

// One for each combination of padded sizes, the largest first. Of two bounded dimensions the second counts
// rows picked from the first: combinations in which it could only be larger are left out.
std::vector<ChipModule> chip_modules(const Graph& graph, const Vendor& vendor);

}  // namespace vertebra::pjrt
