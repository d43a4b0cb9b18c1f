// Shardings as the vendors' partitioners read them: Shardy's attributes, which name the axes of a mesh that
// the module declares, or GSPMD's, which number devices. Written here, checked by verify_sharding.
#pragma once

#include <string>

#include "backend/pjrt/vendors.h"
#include "graph/sharding.h"

namespace vertebra::pjrt {

// The operation that declares the mesh to Shardy: axes longer than 1, the slowest first.
std::string mesh_operation(const Mesh& mesh);
// `#sdy.sharding<@mesh, [{"data", "fsdp"}, {}]>` or `"{devices=[4,1,2]<=[8] last_tile_dim_replicate}"`, for a
// value of that rank.
std::string sharding_text(const Sharding& sharding, int rank, const Mesh& mesh, Partitioner partitioner);
// "sdy.sharding" or "mhlo.sharding": its name where arguments and results carry it.
std::string_view sharding_name(Partitioner partitioner);
// "NAME = TEXT".
std::string sharding_attribute(const Sharding& sharding, int rank, const Mesh& mesh, Partitioner partitioner);

}  // namespace vertebra::pjrt
