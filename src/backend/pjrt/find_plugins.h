// Where plugins lie on this machine: what environment variables name, the user's own folder of plugins,
// Python's packages, vendors' usual folders.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "backend/pjrt/vendors.h"

namespace vertebra::pjrt {

struct FoundPlugin {
  const Vendor* vendor = nullptr;
  std::filesystem::path file;
  std::string how;  // "environment variable VERTEBRA_PJRT_CPU", "Python package", ...
};

// The plugins of one vendor, or of all; the preferred one of a vendor first. A variable of the environment is
// taken at its word: its file may not exist.
std::vector<FoundPlugin> find_plugins(const Vendor& vendor);
std::vector<FoundPlugin> find_all_plugins();

// The plugin that --device pjrt:NAME means. Throws not_found, with what was searched and how to get one.
FoundPlugin require_plugin(std::string_view vendor_name);

// Folders that hold Python packages, tools/get-plugin's among them.
std::vector<std::filesystem::path> package_folders();

}  // namespace vertebra::pjrt
