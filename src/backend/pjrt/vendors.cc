#include "backend/pjrt/vendors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

namespace vertebra::pjrt {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

std::vector<Vendor> make_table() {
  std::vector<Vendor> table;
  table.push_back(
      {.name = "cpu",
       .description = "the host's processor through XLA",
       .package_files = {"lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
                         "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so"},
       .system_files = {"/usr/lib/pjrt/pjrt_c_api_cpu_plugin.so", "/usr/local/lib/pjrt_c_api_cpu_plugin.so"},
       .environment_variables = {},
       .environment = {},
       // Four pretended devices otherwise, which share the threads.
       .create_options = {{"cpu_device_count", 1}},
       .device_files = {},
       .banned_operations = {},
       .native_bf16 = false,
       .chips = {}});
  table.push_back({.name = "cuda",
                   .description = "Nvidia GPUs through XLA",
                   .package_files = {"jax_plugins/xla_cuda13/xla_cuda_plugin.so",
                                     "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
                                     "jax_plugins/xla_cuda*/xla_cuda_plugin.so"},
                   .system_files = {"/usr/local/lib/xla_cuda_plugin.so"},
                   .environment_variables = {},
                   .environment = {{"TF_CPP_MIN_LOG_LEVEL", "2"}},
                   .create_options = {},
                   .device_files = {"/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"},
                   .banned_operations = {},
                   .chips = {{"H200", 989e12, 67e12, 141e9, 4.8e12},
                             {"H100", 989e12, 67e12, 80e9, 3.35e12},
                             {"A100", 312e12, 19.5e12, 80e9, 2.0e12},
                             {"L4", 121e12, 30.3e12, 24e9, 0.3e12}}});
  table.push_back(
      {.name = "rocm",
       .description = "AMD GPUs through XLA",
       .package_files = {"jax_plugins/xla_rocm*/xla_rocm_plugin.so"},
       .system_files = {"/opt/rocm/lib/xla_rocm_plugin.so"},
       .environment_variables = {},
       .environment = {{"TF_CPP_MIN_LOG_LEVEL", "2"}},
       .create_options = {},
       .device_files = {"/dev/kfd"},
       .banned_operations = {},
       .chips = {{"MI300X", 1307e12, 163e12, 192e9, 5.3e12}, {"MI250", 383e12, 48e12, 128e9, 3.2e12}}});
  table.push_back({.name = "neuron",
                   .description = "AWS Trainium and Inferentia",
                   .package_files = {"libneuronxla/libneuronpjrt.so"},
                   .system_files = {"/opt/aws/neuron/lib/libneuronpjrt.so"},
                   .environment_variables = {"NEURON_PJRT_LIBRARY_PATH"},
                   // The plugin compares structure sizes for equality: it is told which version we declare.
                   .environment = {{"NEURON_INTERNAL_PJRT_C_API_VERSION", "0.81"},
                                   {"NEURON_CC_FLAGS", "--model-type=transformer"},
                                   {"NEURON_RT_STOCHASTIC_ROUNDING_EN", "0"}},
                   .create_options = {},
                   .device_files = {"/dev/neuron0"},
                   .accepts_longer_structs = false,
                   .partitioner = Partitioner::kGspmd,
                   .banned_operations = {"chlo.erf", "chlo.top_k", "stablehlo.sort", "stablehlo.case"},
                   .drops_indices_outside = false,
                   .layers_as_loop = true,
                   .chips = {{"trn1", 190e12, 47.5e12, 32 * kGiB, 0.82e12},
                             {"trn2", 667e12, 181e12, 96 * kGiB, 2.9e12},
                             {"trn3", 671e12, 183e12, 144 * kGiB, 4.9e12}}});
  table.push_back({.name = "tpu",
                   .description = "Google TPUs",
                   .package_files = {"libtpu/libtpu.so"},
                   .system_files = {"/usr/lib/libtpu.so", "/lib/libtpu.so"},
                   .environment_variables = {"TPU_LIBRARY_PATH"},
                   .environment = {},
                   .create_options = {},
                   // Elsewhere the library polls a metadata server that never answers.
                   .device_files = {"/dev/accel0", "/dev/vfio/0"},
                   .banned_operations = {},
                   .chips = {{"v4", 275e12, 0, 32 * kGiB, 1.2e12},
                             {"v5 lite", 197e12, 0, 16 * kGiB, 0.82e12},
                             {"v5p", 459e12, 0, 95 * kGiB, 2.77e12},
                             {"v6", 918e12, 0, 32 * kGiB, 1.64e12}}});
  table.push_back(
      {.name = "oneapi",
       .description = "Intel GPUs",
       .package_files = {"jax_plugins/*oneapi*/*oneapi*.so", "jax_plugins/intel*/pjrt_plugin_xpu.so"},
       .system_files = {},
       .environment_variables = {},
       .environment = {},
       .create_options = {},
       .device_files = {"/dev/dri/renderD128"},
       .banned_operations = {},
       .chips = {{"Max 1550", 832e12, 52e12, 128e9, 3.28e12}}});
  table.push_back(
      {.name = "tt",
       .description = "Tenstorrent cards",
       .package_files = {"jax_plugins/*tt*/pjrt_plugin_tt.so", "pjrt_plugin_tt/pjrt_plugin_tt.so"},
       .system_files = {"/usr/lib/pjrt_plugin_tt.so"},
       .environment_variables = {},
       .environment = {},
       .create_options = {},
       .device_files = {"/dev/tenstorrent/0"},
       .banned_operations = {},
       .chips = {{"Wormhole", 131e12, 0, 24e9, 0.58e12}, {"Blackhole", 387e12, 0, 32e9, 0.51e12}}});
  return table;
}

const Vendor& unknown_vendor() {
  static const Vendor vendor = {.name = "plugin",
                                .description = "a plugin of no known vendor",
                                .package_files = {},
                                .system_files = {},
                                .environment_variables = {},
                                .environment = {},
                                .create_options = {},
                                .device_files = {},
                                .banned_operations = {},
                                .native_bf16 = false,
                                .chips = {}};
  return vendor;
}

std::string_view file_name(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

}  // namespace

std::span<const Vendor> vendors() {
  static const std::vector<Vendor> table = make_table();
  return table;
}

const Vendor* find_vendor(std::string_view name) {
  for (const Vendor& vendor : vendors()) {
    if (vendor.name == name) return &vendor;
  }
  return nullptr;
}

const Vendor& vendor_of_file(std::string_view path) {
  for (const Vendor& vendor : vendors()) {
    for (const auto* list : {&vendor.package_files, &vendor.system_files}) {
      for (const std::string_view pattern : *list) {
        if (matches(file_name(pattern), file_name(path))) return vendor;
      }
    }
  }
  return unknown_vendor();
}

const Chip* find_chip(const Vendor& vendor, std::string_view device_kind) {
  for (const Chip& chip : vendor.chips) {
    if (device_kind.find(chip.kind) != std::string_view::npos) return &chip;
  }
  return nullptr;
}

std::string missing_device(const Vendor& vendor) {
  std::error_code ignored;
  for (const std::string_view file : vendor.device_files) {
    if (std::filesystem::exists(file, ignored)) return "";
  }
  if (vendor.device_files.empty()) return "";
  return fmt::format("this machine has none of its devices ({} does not exist)",
                     fmt::join(vendor.device_files, ", "));
}

bool matches(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern[0] == '*') {
    for (size_t taken = 0;; ++taken) {
      if (matches(pattern.substr(1), text.substr(taken))) return true;
      if (taken == text.size() || text[taken] == '/') return false;
    }
  }
  return !text.empty() && pattern[0] == text[0] && matches(pattern.substr(1), text.substr(1));
}

}  // namespace vertebra::pjrt
