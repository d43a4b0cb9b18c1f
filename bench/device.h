// The --device of benchmarks: "cpu", or a PJRT plugin ("pjrt:cpu", "pjrt:cuda", ...).
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/pjrt/find_plugins.h"
#include "backend/pjrt/pjrt_backend.h"
#include "base/error.h"

namespace vertebra::bench {

inline pjrt::FoundPlugin find_plugin(const std::string& device) {
  require(device.starts_with("pjrt:"), "--device {}: cpu or pjrt:NAME was wanted", device);
  return pjrt::require_plugin(device.substr(5));
}

// `cache`: of compiled programs; absent: the usual one.
inline std::unique_ptr<Backend> open_device(const std::string& device, ThreadTeam& team,
                                            std::optional<std::filesystem::path> cache = {}) {
  if (device == "cpu") return make_cpu_backend({&team, {}});
  return make_pjrt_backend(
      {.plugin = find_plugin(device).file, .device_name = device, .cache = std::move(cache)});
}

}  // namespace vertebra::bench
