// Vendors' own plugins, as far as a machine without their chip allows: found by the table, loaded in a child
// process, a clear error within seconds. Plugins are looked for in the folders that VERTEBRA_TEST_PLUGINS
// names (each holds packages, or folders of packages) and where vertebra itself looks; those that are not
// there are skipped loudly.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "backend/pjrt/find_plugins.h"
#include "backend/pjrt/probe.h"

namespace vertebra::pjrt {
namespace {

namespace fs = std::filesystem;

// Packages that hold a plugin, and the plugin's place in them, as looked up in November 2026.
struct Package {
  const char *vendor, *name, *version, *file;
};
void PrintTo(const Package& package, std::ostream* out) { *out << package.name << " " << package.version; }

constexpr Package kPackages[] = {
    {"cpu", "lammps-jax-pjrt-cpu", "0.11.2", "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so"},
    {"cpu", "xla-cpu-pjrt", "0.0.1", "xla_plugins/xla_cpu_pjrt/xla_cpu_pjrt.so"},
    {"cuda", "jax-cuda13-pjrt", "0.12.0.1", "jax_plugins/xla_cuda13/xla_cuda_plugin.so"},
    {"cuda", "jax-cuda12-pjrt", "0.12.0.1", "jax_plugins/xla_cuda12/xla_cuda_plugin.so"},
    {"rocm", "jax-rocm7-pjrt", "0.12.0", "jax_plugins/xla_rocm7/xla_rocm_plugin.so"},
    {"tpu", "libtpu", "0.0.52", "libtpu/libtpu.so"},
    {"oneapi", "jax-oneapi-pjrt", "0.11.2", "jax_plugins/xla_oneapi/xla_oneapi_plugin.so"},
    {"oneapi", "intel-extension-for-openxla", "0.7.0",
     "jax_plugins/intel_extension_for_openxla/pjrt_plugin_xpu.so"},
    {"tt", "jax-tt-plugin", "0.1.3", "jax_plugins/libtt/libtt.so"},
};

TEST(VendorPackages, HoldWhatTheTableLooksFor) {
  for (const Package& package : kPackages) {
    SCOPED_TRACE(package.name);
    const Vendor& vendor = *find_vendor(package.vendor);
    EXPECT_TRUE(std::any_of(vendor.package_files.begin(), vendor.package_files.end(),
                            [&](std::string_view pattern) { return matches(pattern, package.file); }));
    EXPECT_EQ(&vendor_of_file(std::string("/somewhere/") + package.file), &vendor);
  }
}

// The folders of VERTEBRA_TEST_PLUGINS and those below them, in front of PYTHONPATH.
void add_test_folders() {
  const char* named = std::getenv("VERTEBRA_TEST_PLUGINS");
  if (named == nullptr) return;
  std::string path;
  std::istringstream stream(named);
  for (std::string folder; std::getline(stream, folder, ':');) {
    path += folder + ":";
    std::error_code failed;
    for (fs::directory_iterator it(folder, failed), end; !failed && it != end; it.increment(failed)) {
      if (it->is_directory()) path += it->path().string() + ":";
    }
  }
  const char* before = std::getenv("PYTHONPATH");
  setenv("PYTHONPATH", (path + (before == nullptr ? "" : before)).c_str(), 1);
}

class VendorPlugin : public testing::TestWithParam<Package> {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "NOT TESTED under sanitizers: plugins are not instrumented";
#endif
    add_test_folders();
    for (const FoundPlugin& plugin : find_plugins(vendor())) {
      if (plugin.file.string().ends_with(std::string("/") + GetParam().file)) file_ = plugin.file;
    }
    if (file_.empty())
      GTEST_SKIP() << "NOT TESTED: the package " << GetParam().name
                   << " is not there. Get it: pip download --no-deps " << GetParam().name
                   << ", unpack the wheel and name its folder in VERTEBRA_TEST_PLUGINS";
  }

  static const Vendor& vendor() { return *find_vendor(GetParam().vendor); }
  fs::path file_;
};

TEST_P(VendorPlugin, WithoutItsDeviceFileIsNotEvenLoaded) {
  if (missing_device(vendor()).empty()) GTEST_SKIP() << "NOT TESTED: this machine has the device";
  const auto start = std::chrono::steady_clock::now();
  const PluginReport report = probe_plugin(file_, vendor());
  EXPECT_EQ(report.code, Code::kUnavailable);
  EXPECT_NE(report.failure.find(vendor().device_files[0]), std::string::npos) << report.failure;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
}

// Loaded all the same: it starts, or says in seconds why not; what it does to its process does no harm.
TEST_P(VendorPlugin, LoadedAllTheSameSaysWhyItCannotStart) {
  Vendor row = vendor();
  row.device_files = {};
  if (row.name == "tpu")
    row.environment.push_back({"TPU_SKIP_MDS_QUERY", "1"});  // else it waits for a server
  const auto start = std::chrono::steady_clock::now();
  const PluginReport report = probe_plugin(file_, row, 30);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  RecordProperty("report", report.failure);
  std::printf("%s: %.1f s, PJRT %s, StableHLO %s, %zu devices. %s\n", GetParam().name, seconds.count(),
              report.api_version.c_str(), report.stablehlo_version.c_str(), report.devices.size(),
              report.failure.c_str());
  EXPECT_LT(seconds.count(), 30);
  EXPECT_TRUE(report.finished) << report.failure;
  EXPECT_NE(report.failure.empty(), report.devices.empty());
  EXPECT_LT(report.failure.size(), 700u);
  if (report.failure.find("cannot be loaded") != std::string::npos) {
    EXPECT_NE(report.failure.find("LD_LIBRARY_PATH"), std::string::npos) << report.failure;
  } else {
    EXPECT_TRUE(report.api_version.starts_with("0.")) << report.failure;
    EXPECT_FALSE(report.stablehlo_version.empty());
  }
}

std::string package_name(const testing::TestParamInfo<Package>& info) {
  std::string out = info.param.name;
  std::replace(out.begin(), out.end(), '-', '_');
  return out;
}

INSTANTIATE_TEST_SUITE_P(Vendors, VendorPlugin, testing::ValuesIn(kPackages + 2, std::end(kPackages)),
                         package_name);

}  // namespace
}  // namespace vertebra::pjrt
