// For tests on a real plugin: one test per plugin of the table's CPU row, skipped loudly where it is not
// installed.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "backend/pjrt/find_plugins.h"
#include "backend/pjrt/pjrt_backend.h"

namespace vertebra {

// The parameter is the file name of a CPU plugin.
class WithPlugin : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "NOT TESTED under sanitizers: plugins are not instrumented, and ten times slower";
#endif
    if (file().empty())
      GTEST_SKIP() << "NOT TESTED: the plugin " << GetParam()
                   << " is not installed; 'tools/get-plugin cpu' fetches it";
  }

  static std::filesystem::path file() {
    for (const pjrt::FoundPlugin& plugin : pjrt::find_plugins(*pjrt::find_vendor("cpu"))) {
      if (plugin.file.filename() == GetParam()) return plugin.file;
    }
    return {};
  }

  // One per plugin and process; no cache on disk.
  static Backend& backend() {
    static std::map<std::string, std::unique_ptr<Backend>> backends;
    auto& found = backends[GetParam()];
    if (found == nullptr)
      found =
          make_pjrt_backend({.plugin = file(), .device_name = "pjrt:cpu", .cache = std::filesystem::path()});
    return *found;
  }
};

inline std::string plugin_name(const testing::TestParamInfo<std::string>& info) {
  return info.param.substr(0, info.param.find('.'));
}

#define VERTEBRA_WITH_CPU_PLUGINS(suite)                                                                \
  INSTANTIATE_TEST_SUITE_P(Pjrt, suite, testing::Values("pjrt_c_api_cpu_plugin.so", "xla_cpu_pjrt.so"), \
                           plugin_name)

}  // namespace vertebra
