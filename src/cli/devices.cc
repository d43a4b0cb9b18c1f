// vertebra devices: what this machine and this build can compute on.
#include <fmt/format.h>

#include "backend/cpu/kernels/isa.h"
#include "base/progress.h"
#include "base/thread_team.h"
#include "cli/command.h"

namespace vertebra::cli {
namespace {

class DevicesCommand final : public Command {
 public:
  const char* name() const override { return "devices"; }
  const char* description() const override { return "Every device found: kind, memory, instruction sets"; }
  void add_options(CLI::App&) override {}

  int run(const GlobalOptions& global) override {
    Backend& backend = open_backend(global);
    const DeviceInfo info = backend.device();
    std::vector<std::string> isas;
    for (const Isa isa : supported_isas()) isas.emplace_back(isa_name(isa));
    if (global.json) {
      print_json({{"devices",
                   {{{"name", info.name},
                     {"kind", info.kind},
                     {"memory_bytes", info.memory_bytes},
                     {"threads", global_thread_team().size()},
                     {"isa", isa_name(active_isa())},
                     {"isas", isas},
                     {"native_bf16", backend.native_bf16()},
                     {"found", info.note}}}}});
      return kDone;
    }
    fmt::print("{}\n", info.name);
    fmt::print("  kind              {}\n", info.kind);
    fmt::print("  memory            {}\n",
               info.memory_bytes > 0 ? format_bytes(info.memory_bytes) : "unknown");
    fmt::print("  threads           {}\n", global_thread_team().size());
    fmt::print("  instruction set   {} (supported: {})\n", isa_name(active_isa()), fmt::join(isas, ", "));
    fmt::print("  bf16 products     {}\n", backend.native_bf16() ? "native" : "computed as f32");
    fmt::print("  found             {}\n", info.note);
    return kDone;
  }
};

}  // namespace

std::unique_ptr<Command> make_devices_command() { return std::make_unique<DevicesCommand>(); }

}  // namespace vertebra::cli
