// Opens the device that --device names: the one place that knows which backends exist.
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kernels/isa.h"
#include "base/error.h"
#include "cli/command.h"

namespace vertebra::cli {

Backend& open_backend(const GlobalOptions& global) {
  static std::unique_ptr<Backend> backend;
  if (backend) return *backend;
  require(global.device == "cpu", Code::kUnimplemented, "device '{}' is not known; this build runs on: cpu",
          global.device);
  CpuBackendOptions options;
  if (!global.isa.empty()) {
    options.isa = isa_from_name(global.isa);
    require(options.isa.has_value(),
            "instruction set '{}' is not known; 'vertebra devices' lists those of this machine", global.isa);
  }
  backend = make_cpu_backend(options);
  return *backend;
}

}  // namespace vertebra::cli
