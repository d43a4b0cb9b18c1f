// vertebra devices: what this machine and this build can compute on: the CPU, and every device of every PJRT
// plugin found, or why a plugin cannot start.
#include <fmt/format.h>

#include "backend/cpu/kernels/isa.h"
#include "backend/pjrt/find_plugins.h"
#include "backend/pjrt/probe.h"
#include "base/progress.h"
#include "base/thread_team.h"
#include "cli/command.h"

namespace vertebra::cli {
namespace {

constexpr double kTrialSeconds = 30;

std::string memory_text(uint64_t bytes) { return bytes > 0 ? format_bytes(bytes) : "unknown"; }

struct TriedPlugin {
  pjrt::FoundPlugin plugin;
  pjrt::PluginReport report;

  bool preferred = false;  // what pjrt:NAME opens; the others go by their files

  std::string name() const {
    return "pjrt:" + (preferred ? std::string(plugin.vendor->name) : plugin.file.string());
  }
  std::string versions() const {
    return fmt::format("PJRT {}, StableHLO {}", report.api_version, report.stablehlo_version);
  }
  std::string found() const { return fmt::format("{} ({})", plugin.file.string(), plugin.how); }
};

std::vector<TriedPlugin> try_plugins() {
  std::vector<TriedPlugin> out;
  for (pjrt::FoundPlugin& plugin : pjrt::find_all_plugins()) {
    pjrt::PluginReport report = pjrt::probe_plugin(plugin.file, *plugin.vendor, kTrialSeconds);
    const bool first = out.empty() || out.back().plugin.vendor != plugin.vendor;
    out.push_back({std::move(plugin), std::move(report), first});
  }
  return out;
}

class DevicesCommand final : public Command {
 public:
  const char* name() const override { return "devices"; }
  const char* description() const override {
    return "Every device found: kind, memory, instruction sets, PJRT plugins";
  }
  void add_options(CLI::App&) override {}

  int run(const GlobalOptions& global) override {
    GlobalOptions cpu = global;
    if (global.device.starts_with("pjrt:")) cpu.device = "cpu";  // listed in any case
    Backend& backend = open_backend(cpu);
    std::vector<std::string> isas;
    for (const Isa isa : supported_isas()) isas.emplace_back(isa_name(isa));
    const std::vector<TriedPlugin> plugins = try_plugins();
    if (global.json) {
      print_as_json(backend, isas, plugins);
    } else {
      print_for_people(backend, isas, plugins);
    }
    return kDone;
  }

 private:
  static void print_as_json(Backend& backend, const std::vector<std::string>& isas,
                            const std::vector<TriedPlugin>& plugins) {
    const DeviceInfo info = backend.device();
    Json devices = Json::array(), failed = Json::array();
    devices.push_back({{"name", info.name},
                       {"kind", info.kind},
                       {"memory_bytes", info.memory_bytes},
                       {"threads", global_thread_team().size()},
                       {"isa", isa_name(active_isa())},
                       {"isas", isas},
                       {"native_bf16", backend.native_bf16()},
                       {"found", info.note}});
    for (const TriedPlugin& each : plugins) {
      if (!each.report.failure.empty()) {
        failed.push_back({{"name", each.name()},
                          {"plugin", each.plugin.file.string()},
                          {"how", each.plugin.how},
                          {"failure", each.report.failure}});
      }
      for (size_t i = 0; i < each.report.devices.size(); ++i) {
        devices.push_back({{"name", fmt::format("{}:{}", each.name(), i)},
                           {"kind", each.report.devices[i].kind},
                           {"memory_bytes", each.report.devices[i].memory_bytes},
                           {"plugin", each.plugin.file.string()},
                           {"how", each.plugin.how},
                           {"pjrt_version", each.report.api_version},
                           {"stablehlo_version", each.report.stablehlo_version},
                           {"native_bf16", each.plugin.vendor->native_bf16},
                           {"found", each.versions()}});
      }
    }
    print_json({{"devices", devices}, {"plugins_that_cannot_start", failed}});
  }

  static void print_for_people(Backend& backend, const std::vector<std::string>& isas,
                               const std::vector<TriedPlugin>& plugins) {
    const DeviceInfo info = backend.device();
    fmt::print("{}\n", info.name);
    fmt::print("  kind              {}\n", info.kind);
    fmt::print("  memory            {}\n", memory_text(info.memory_bytes));
    fmt::print("  threads           {}\n", global_thread_team().size());
    fmt::print("  instruction set   {} (supported: {})\n", isa_name(active_isa()), fmt::join(isas, ", "));
    fmt::print("  bf16 products     {}\n", backend.native_bf16() ? "native" : "computed as f32");
    fmt::print("  found             {}\n", info.note);
    for (const TriedPlugin& each : plugins) {
      if (!each.report.failure.empty()) {
        fmt::print("{}\n  cannot start      {}\n  found             {}\n", each.name(), each.report.failure,
                   each.found());
      }
      for (size_t i = 0; i < each.report.devices.size(); ++i) {
        const pjrt::DeviceDescription& device = each.report.devices[i];
        fmt::print("{}:{}\n", each.name(), i);
        fmt::print("  kind              {}\n", device.kind);
        fmt::print("  memory            {}\n", memory_text(device.memory_bytes));
        fmt::print("  bf16 products     {}\n",
                   each.plugin.vendor->native_bf16 ? "native" : "computed as f32");
        fmt::print("  versions          {}\n", each.versions());
        fmt::print("  found             {}\n", each.found());
      }
    }
    if (plugins.empty())
      fmt::print(
          "no PJRT plugins found ('tools/get-plugin cpu' fetches one that runs on any x86-64 processor)\n");
  }
};

}  // namespace

std::unique_ptr<Command> make_devices_command() { return std::make_unique<DevicesCommand>(); }

}  // namespace vertebra::cli
