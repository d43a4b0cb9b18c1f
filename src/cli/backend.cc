// Opens the device that --device names: the one place that knows which backends exist.
#include <cstdlib>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kernels/isa.h"
#include "backend/pjrt/find_plugins.h"
#include "backend/pjrt/pjrt_backend.h"
#include "backend/pjrt/probe.h"
#include "base/error.h"
#include "cli/command.h"

namespace vertebra::cli {
namespace {

std::unique_ptr<Backend> open_cpu(const GlobalOptions& global) {
  CpuBackendOptions options;
  if (!global.isa.empty()) {
    options.isa = isa_from_name(global.isa);
    require(options.isa.has_value(),
            "instruction set '{}' is not known; 'vertebra devices' lists those of this machine", global.isa);
  }
  return make_cpu_backend(options);
}

// "pjrt:NAME", "pjrt:/path/to/plugin.so", either with ":2" for the device of that number.
std::unique_ptr<Backend> open_pjrt(const GlobalOptions& global, const Mesh& mesh) {
  require(global.isa.empty(), "--isa chooses kernels of the device 'cpu'; '{}' has none", global.device);
  PjrtBackendOptions options;
  options.mesh = mesh;
  std::string which = global.device.substr(5);
  const size_t colon = which.rfind(':');
  if (colon != std::string::npos && colon + 1 < which.size() && which.size() - colon <= 6 &&
      which.find_first_not_of("0123456789", colon + 1) == std::string::npos) {
    options.device_index = std::stoul(which.substr(colon + 1));
    which.resize(colon);
  }
  options.device_name = "pjrt:" + which;
  if (which.find('/') != std::string::npos || which.ends_with(".so")) {
    options.plugin = which;
    options.vendor = &pjrt::vendor_of_file(which);
  } else {
    const pjrt::FoundPlugin found = pjrt::require_plugin(which);
    options.plugin = found.file;
    options.vendor = found.vendor;
  }
  if (global.threads > 0 && !options.vendor->threads_variable.empty())
    setenv(std::string(options.vendor->threads_variable).c_str(), std::to_string(global.threads).c_str(), 1);
  pjrt::require_startable(options.plugin, *options.vendor);
  return make_pjrt_backend(options);
}

}  // namespace

Backend& open_backend(const GlobalOptions& global, const Mesh& mesh) {
  static std::unique_ptr<Backend> backend;
  if (backend) return *backend;
  if (global.device == "cpu") {
    require(
        mesh.devices() == 1,
        "the recipe's [mesh] ({}) needs {} devices, and 'cpu' is one (with as many threads as there are): "
        "choose --device pjrt:NAME, or leave [mesh] out",
        mesh.to_string(), mesh.devices());
    backend = open_cpu(global);
  } else if (global.device.starts_with("pjrt:")) {
    backend = open_pjrt(global, mesh);
  } else {
    fail(Code::kInvalidArgument,
         "device '{}' is not known; 'cpu' is, and 'pjrt:NAME' or 'pjrt:/path/to/plugin.so' for a vendor's "
         "plugin "
         "('vertebra devices' lists what is here)",
         global.device);
  }
  return *backend;
}

}  // namespace vertebra::cli
