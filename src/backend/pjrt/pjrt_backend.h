// The PJRT backend: hands graphs to a vendor's compiler through the vendor's plugin. Only cli/, tests and
// benchmarks name it; everybody else holds a Backend.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "backend/backend.h"
#include "backend/pjrt/vendors.h"

namespace vertebra {

struct PjrtBackendOptions {
  std::filesystem::path plugin;
  const pjrt::Vendor* vendor = nullptr;  // null: told by the file's name
  std::string device_name = "pjrt";      // what the user called it, for DeviceInfo
  size_t device_index = 0;               // of the mesh's first device; the others follow
  Mesh mesh = {};
  // Where executables are kept; nullopt: the user's cache folder, empty: nowhere.
  std::optional<std::filesystem::path> cache = {};
};

// Loads the plugin into this process and starts it (see probe.h for a trial in another one). An executable
// may return before its work is done; its buffers wait. Beyond the interface: Buffer::copy_from also takes a
// tensor whose bounded dimensions are smaller than their bounds, as on the CPU. Throws out_of_range for a
// device, or a mesh, that is not there; else what Plugin::load throws.
std::unique_ptr<Backend> make_pjrt_backend(const PjrtBackendOptions& options);

}  // namespace vertebra
