// Checks a StableHLO module before a plugin sees it. Plugins ignore misspelt optional attributes, take
// attributes of the wrong width for missing, and abort the process on some mistakes; here each is an error
// that names line and operation.
#pragma once

#include <string_view>

#include "backend/pjrt/vendors.h"
#include "graph/sharding.h"

namespace vertebra::pjrt {

// Structure, names (defined once, before use, in scope), operations known, attributes known, all there and of
// the right form, operand and result types right for the operation; on a mesh of several devices one sharding
// for each argument and result, in the words of the vendor's partitioner. Throws unimplemented for what the
// vendor's chips do not take (chip_rules.h), internal for all else.
void verify_stablehlo(std::string_view module, const Vendor& vendor, const Mesh& mesh = {});

}  // namespace vertebra::pjrt
