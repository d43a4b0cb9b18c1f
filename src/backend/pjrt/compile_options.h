// The compile options that every PJRT plugin takes as a serialized protocol buffer, written by hand: one
// replica, one partition, on one device.
#pragma once

#include <string>

namespace vertebra::pjrt {

std::string compile_options(int device_id);

}  // namespace vertebra::pjrt
