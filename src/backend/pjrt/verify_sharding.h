// The verifier's part for modules on a mesh: plugins ignore a sharding that they cannot read, and then every
// device computes everything.
#pragma once

#include <string>

#include "backend/pjrt/stablehlo_parser.h"
#include "backend/pjrt/vendors.h"
#include "graph/sharding.h"

namespace vertebra::pjrt {

// What is wrong with a sharding of a value of that type, in words; empty when nothing: form, names of axes,
// rank, number of devices, division without remainder.
std::string wrong_sharding(std::string_view text, Partitioner partitioner, const Mesh& mesh,
                           const ParsedType& type);
// The same for the operation that declares the mesh.
std::string wrong_mesh(const ParsedOperation& operation, const Mesh& mesh);

}  // namespace vertebra::pjrt
