#include "backend/pjrt/vendors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "base/error.h"

namespace vertebra::pjrt {
namespace {

constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;

// AWS Neuron SDK, "Neuron Compiler Error Codes" (the NCC_ numbers) and "neuronx-cc list-operators".
ChipRules neuron_rules() {
  constexpr std::string_view kOnePath =
      "compute both sides and choose with select (control flow that depends on data is not compiled)";
  ChipRules rules;
  rules.banned_operations = {
      {"stablehlo.sort", "a maximum and its index, taken again and again (NCC_EVRF001)"},
      {"chlo.erf", "the polynomial 7.1.26 of Abramowitz & Stegun"},
      {"chlo.*", "the operations of StableHLO that it stands for (NCC_EVRF001)"},
      {"stablehlo.case", kOnePath},
      {"stablehlo.if", kOnePath},
      // Adds in an order of its own, fails for an index outside (NCC_EVRF031) and for integers (NCC_EVRF060).
      {"stablehlo.scatter", "the product with a one-hot matrix of the indices; for integers a masked sum"},
      {"stablehlo.select_and_scatter", "the product with a one-hot matrix of the indices"},
      {"stablehlo.fft", "products with the matrix of the transform (NCC_EVRF004: no complex numbers)"},
      {"stablehlo.cholesky", "iterations of matrix products (NCC_EVRF001)"},
      {"stablehlo.triangular_solve", "iterations of matrix products (NCC_EVRF001)"},
  };
  // 64-bit integers are computed in 32 bits (NCC_EVRF062, NCC_ESFH002), f64 is not there (NCC_ESPP004).
  rules.element_types = {"f32",  "bf16", "f16",  "f8E4M3", "f8E5M2", "i32",
                         "ui32", "i16",  "ui16", "i8",     "ui8",    "i1"};
  // NCC_EVRF035, NCC_EVRF061, NCC_EVRF063: computed in f32, exact up to 2^24 only.
  rules.float_operations = {"stablehlo.dot_general", "stablehlo.all_reduce", "stablehlo.reduce_scatter"};
  rules.custom_calls = {"AwsNeuron*", "Sharding", "SPMDFullToShardShape",
                        "SPMDShardToFullShape"};  // NCC_EVRF015
  rules.pairs_in_reductions = false;
  rules.dynamic_loops = false;
  rules.named_random_algorithms = false;  // NCC_EVRF006
  rules.indices_outside = false;          // NCC_EVRF031, NCC_EVRF056
  return rules;
}

// tt-mlir, lib/Conversion/StableHLOToTTIR: what has no pattern there is not compiled (dynamic_update_slice
// runs on the host).
ChipRules tenstorrent_rules() {
  constexpr std::string_view kUnrolled = "the loop unrolled (there is no control flow on the device)";
  constexpr std::string_view kOnePath = "both sides computed, chosen with select";
  ChipRules rules;
  rules.banned_operations = {
      {"stablehlo.while", kUnrolled},
      {"stablehlo.case", kOnePath},
      {"stablehlo.if", kOnePath},
      {"stablehlo.dynamic_update_slice", "gather and select"},
      {"chlo.erf", "the polynomial 7.1.26 of Abramowitz & Stegun"},
      {"chlo.*", "the operations of StableHLO that it stands for"},
      {"stablehlo.fft", "products with the matrix of the transform"},
      {"stablehlo.cholesky", "iterations of matrix products"},
      {"stablehlo.triangular_solve", "iterations of matrix products"},
      {"stablehlo.map", "the operation on whole arrays"},
  };
  rules.element_types = {"f32",  "bf16", "f16", "i32",
                         "ui32", "ui16", "ui8", "i1"};  // 64-bit ones become these
  rules.pairs_in_reductions = false;
  rules.indices_outside = false;
  return rules;
}

std::vector<Vendor> make_table() {
  std::vector<Vendor> table;
  table.push_back(
      {.name = "cpu",
       .description = "the host's processor through XLA",
       .package_files = {"lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
                         "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so"},
       .system_files = {"/usr/lib/pjrt/pjrt_c_api_cpu_plugin.so", "/usr/local/lib/pjrt_c_api_cpu_plugin.so"},
       .environment_variables = {},
       .environment = {{"TF_CPP_MIN_LOG_LEVEL", "2"}},
       // Four pretended devices otherwise, which share the threads.
       .create_options = {{"cpu_device_count", 1, true}},
       .device_files = {},
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
                   .chips = {{"B200", 2250e12, 75e12, 180e9, 8.0e12, "", 900e9, 8, 50e9},
                             {"H200", 989e12, 67e12, 141e9, 4.8e12, "", 450e9, 8, 50e9},
                             {"H100", 989e12, 67e12, 80e9, 3.35e12, "", 450e9, 8, 50e9},
                             {"A100", 312e12, 19.5e12, 80e9, 2.0e12, "", 300e9, 8, 25e9},
                             {"L4", 121e12, 30.3e12, 24e9, 0.3e12}}});
  table.push_back({.name = "rocm",
                   .description = "AMD GPUs through XLA",
                   .package_files = {"jax_plugins/xla_rocm*/xla_rocm_plugin.so"},
                   .system_files = {"/opt/rocm/lib/xla_rocm_plugin.so"},
                   .environment_variables = {},
                   .environment = {{"TF_CPP_MIN_LOG_LEVEL", "2"}},
                   .create_options = {},
                   .device_files = {"/dev/kfd"},
                   .chips = {{"MI355X", 2500e12, 157e12, 288e9, 8.0e12, "", 538e9, 8},
                             {"MI325X", 1307e12, 163e12, 256e9, 6.0e12, "", 448e9, 8},
                             {"MI300X", 1307e12, 163e12, 192e9, 5.3e12, "", 448e9, 8},
                             {"MI250", 383e12, 48e12, 128e9, 3.2e12}}});
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
                   .rules = neuron_rules(),
                   .layers_as_loop = true,
                   .chips = {{"trn1", 190e12, 47.5e12, 32 * kGiB, 0.82e12, "", 192e9, 16, 6.25e9},
                             {"trn2", 667e12, 181e12, 96 * kGiB, 2.9e12, "", 640e9, 64, 25e9},
                             {"trn3", 671e12, 183e12, 144 * kGiB, 4.9e12, "", 1280e9, 64},
                             {"inf2", 190e12, 47.5e12, 32 * kGiB, 0.82e12}}});
  table.push_back({.name = "tpu",
                   .description = "Google TPUs",
                   .package_files = {"libtpu/libtpu.so"},
                   .system_files = {"/usr/lib/libtpu.so", "/lib/libtpu.so"},
                   .environment_variables = {"TPU_LIBRARY_PATH"},
                   .environment = {},
                   .create_options = {},
                   // Elsewhere the library polls a metadata server that never answers (longer than a minute);
                   // with TPU_SKIP_MDS_QUERY=1 it says at once that there is no device.
                   .device_files = {"/dev/accel0", "/dev/vfio/0"},
                   .chips = {{"v4", 275e12, 0, 32 * kGiB, 1.2e12, "", 300e9, 4096},
                             {"v5 lite", 197e12, 0, 16 * kGiB, 0.82e12, "v5e", 200e9, 256, 3.125e9},
                             {"v5", 459e12, 0, 95 * kGiB, 2.765e12, "v5p", 600e9, 8960, 6.25e9},
                             {"v6", 918e12, 0, 32 * kGiB, 1.64e12, "v6e", 400e9, 256, 12.5e9},
                             {"7x", 2307e12, 0, 192 * kGiB, 7.37e12, "tpu7x", 600e9, 9216}}});
  table.push_back(
      {.name = "oneapi",
       .description = "Intel GPUs",
       .package_files = {"jax_plugins/*oneapi*/*oneapi*.so", "jax_plugins/intel*/pjrt_plugin_xpu.so"},
       .system_files = {},
       .environment_variables = {},
       .environment = {},
       .create_options = {},
       .device_files = {"/dev/dri/renderD128"},
       .chips = {{"Max 1550", 832e12, 52e12, 128e9, 3.28e12}}});
  table.push_back({.name = "tt",
                   .description = "Tenstorrent cards",
                   // The first two are the vendor's own package, the third is jax-tt-plugin.
                   .package_files = {"jax_plugins/*tt*/pjrt_plugin_tt.so", "pjrt_plugin_tt/pjrt_plugin_tt.so",
                                     "jax_plugins/libtt/libtt.so"},
                   .system_files = {"/usr/lib/pjrt_plugin_tt.so"},
                   .environment_variables = {},
                   .environment = {},
                   .create_options = {},
                   .device_files = {"/dev/tenstorrent/0"},
                   .rules = tenstorrent_rules(),
                   .chips = {{"Wormhole", 131e12, 0, 24e9, 0.58e12},
                             {"Blackhole", 387e12, 0, 32e9, 0.51e12, "", 400e9, 8}}});
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

NamedChip require_chip(std::string_view name) {
  const auto same = [&](std::string_view other) {
    return std::equal(name.begin(), name.end(), other.begin(), other.end(),
                      [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
  };
  std::string known;
  for (const Vendor& vendor : vendors()) {
    if (same(vendor.name)) return {&vendor, nullptr};
    known += fmt::format("{}{}", known.empty() ? "" : ", ", vendor.name);
    for (const Chip& chip : vendor.chips) {
      if (same(chip.called())) return {&vendor, &chip};
      known += fmt::format("{}{}", &chip == &vendor.chips.front() ? " (" : ", ", chip.called());
    }
    if (!vendor.chips.empty()) known += ")";
  }
  fail(Code::kNotFound, "no chip is known as '{}'; known are {}", name, known);
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
