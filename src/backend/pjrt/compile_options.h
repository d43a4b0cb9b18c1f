// The compile options that every PJRT plugin takes as a serialized protocol buffer, written by hand: one
// replica, one partition for each device.
#pragma once

#include <span>
#include <string>

#include "backend/pjrt/vendors.h"

namespace vertebra::pjrt {

// `device_ids`: as the plugin numbers them, in the mesh's order. Several: the partitioner cuts the module.
std::string compile_options(std::span<const int> device_ids, Partitioner partitioner);

}  // namespace vertebra::pjrt
