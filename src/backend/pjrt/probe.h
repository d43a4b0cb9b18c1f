// Starts a plugin in a child process, with a time limit: some hang or abort the process where their chip is
// missing. The child reports devices and versions, or what went wrong.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "backend/pjrt/client.h"
#include "backend/pjrt/vendors.h"

namespace vertebra::pjrt {

struct PluginReport {
  bool finished = false;  // the trial came to an end: with devices or a failure
  std::string failure;    // why it cannot start; empty: it can
  Code code = Code::kUnknown;
  std::string api_version, stablehlo_version, platform;
  std::vector<DeviceDescription> devices;
};

// Never throws for what the plugin does. `seconds` is how long the plugin may take.
PluginReport probe_plugin(const std::filesystem::path& file, const Vendor& vendor, double seconds = 60);

// The same, remembered: a file (by its hash) that has started once on this machine is not tried again. Throws
// what the report says. For opening a plugin in this process.
void require_startable(const std::filesystem::path& file, const Vendor& vendor);

}  // namespace vertebra::pjrt
