// Finding, trying and opening plugins; no plugin is needed: a fake one misbehaves.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "backend/pjrt/compile_options.h"
#include "backend/pjrt/find_plugins.h"
#include "backend/pjrt/pjrt_backend.h"
#include "backend/pjrt/probe.h"
#include "base/error.h"
#include "base/file.h"

namespace vertebra::pjrt {
namespace {

namespace fs = std::filesystem;

const Vendor& no_vendor() { return vendor_of_file("strange.so"); }

PluginReport probe_fake(const char* mode, double seconds = 20) {
  setenv("VERTEBRA_FAKE_PLUGIN", mode, 1);
  PluginReport out = probe_plugin(VERTEBRA_FAKE_PLUGIN, no_vendor(), seconds);
  unsetenv("VERTEBRA_FAKE_PLUGIN");
  return out;
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text;
}

class PluginFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / fmt::format("plugins-{}", getpid());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST(PluginTrial, AnAbortIsAnErrorThatSaysWhatThePluginSaid) {
  const PluginReport report = probe_fake("abort");
  expect_contains(report.failure, "Abort");
  expect_contains(report.failure, "there is no chip");
}

TEST(PluginTrial, AHangEndsAtTheTimeLimit) {
  const auto start = std::chrono::steady_clock::now();
  const PluginReport report = probe_fake("hang", 0.3);
  EXPECT_EQ(report.code, Code::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));
}

TEST(PluginTrial, AHangAfterLoadingSaysWhatWasLoaded) {
  const PluginReport report = probe_fake("hang later", 1);
  EXPECT_EQ(report.code, Code::kDeadlineExceeded);
  EXPECT_EQ(report.api_version, "0.30");
  expect_contains(report.failure, "PJRT 0.30");
}

TEST(PluginTrial, AnExceptionIsAnErrorWithoutItsBacktrace) {
  EXPECT_EQ(probe_fake("throw").failure, "no chips: none");
}

TEST(PluginTrial, AnExitIsAnError) { expect_contains(probe_fake("exit").failure, "exit code 7"); }

TEST(PluginTrial, AnotherMajorVersionIsRefused) {
  const PluginReport report = probe_fake("major");
  EXPECT_EQ(report.code, Code::kUnimplemented);
  expect_contains(report.failure, "1.30");
}

TEST(PluginTrial, ATooOldPluginIsRefused) {
  const PluginReport report = probe_fake("old");
  EXPECT_EQ(report.code, Code::kUnimplemented);
  expect_contains(report.failure, "too old");
}

TEST(PluginTrial, APluginThatMakesNoClientIsAnError) { expect_contains(probe_fake("").failure, "no client"); }

TEST(PluginTrial, AMissingChipIsToldWithoutLoadingAnything) {
  Vendor vendor = no_vendor();
  vendor.device_files = {"/dev/there is no such chip"};
  const PluginReport report = probe_plugin(VERTEBRA_FAKE_PLUGIN, vendor);
  EXPECT_EQ(report.code, Code::kUnavailable);
  expect_contains(report.failure, "there is no such chip");
}

TEST_F(PluginFiles, AFileThatIsNoPluginIsAnError) {
  const fs::path text = folder_ / "text.so";
  write_file_atomic(text, "no library");
  EXPECT_EQ(probe_plugin(text, no_vendor()).code, Code::kInvalidArgument);
  EXPECT_THROW(make_pjrt_backend({.plugin = text}), Error);
  // A library, but without the one function.
  for (const char* library : {"/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6"}) {
    if (!fs::exists(library)) continue;
    expect_contains(probe_plugin(library, no_vendor()).failure, "GetPjrtApi");
  }
  try {
    make_pjrt_backend({.plugin = folder_ / "missing.so"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kNotFound);
  }
}

TEST_F(PluginFiles, AreFoundThroughTheEnvironmentAndInPackages) {
  const fs::path package = folder_ / "packages" / "jax_plugins" / "xla_rocm7";
  fs::create_directories(package);
  write_file_atomic(package / "xla_rocm_plugin.so", "");
  write_file_atomic(folder_ / "own.so", "");
  setenv("VERTEBRA_PJRT_ROCM", (folder_ / "own.so").c_str(), 1);
  const char* before = std::getenv("PYTHONPATH");
  const std::string saved = before == nullptr ? "" : before;
  setenv("PYTHONPATH", (folder_ / "packages").c_str(), 1);
  const std::vector<FoundPlugin> found = find_plugins(*find_vendor("rocm"));
  unsetenv("VERTEBRA_PJRT_ROCM");
  before == nullptr ? unsetenv("PYTHONPATH") : setenv("PYTHONPATH", saved.c_str(), 1);
  ASSERT_GE(found.size(), 2u);
  EXPECT_EQ(found[0].file, folder_ / "own.so");
  EXPECT_EQ(found[1].file, package / "xla_rocm_plugin.so");
}

TEST(Vendors, AnUnknownOneNamesTheKnown) {
  try {
    require_plugin("abacus");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kNotFound);
    expect_contains(error.what(), "neuron");
  }
}

TEST(Vendors, ARowIsToldByTheFile) {
  EXPECT_EQ(vendor_of_file("/opt/x/libneuronpjrt.so").name, "neuron");
  EXPECT_EQ(vendor_of_file("/a/xla_cuda_plugin.so").name, "cuda");
  EXPECT_EQ(vendor_of_file("/a/b.so").name, "plugin");
  EXPECT_EQ(find_chip(*find_vendor("cuda"), "NVIDIA H100 80GB HBM3")->bf16_flops, 989e12);
  EXPECT_EQ(find_chip(*find_vendor("cuda"), "a new one"), nullptr);
}

TEST(Vendors, PatternsStayWithinANameOfThePath) {
  EXPECT_TRUE(matches("xla_cuda*/x.so", "xla_cuda12/x.so"));
  EXPECT_TRUE(matches("*", ""));
  EXPECT_FALSE(matches("xla*x.so", "xla_cuda12/x.so"));
  EXPECT_FALSE(matches("a", "ab"));
}

TEST(CompileOptions, HaveOneReplicaAndAPartitionForEachDevice) {
  const auto options = [](const std::vector<int>& ids, Partitioner partitioner = Partitioner::kShardy) {
    return compile_options(ids, partitioner);
  };
  EXPECT_EQ(options({0}), std::string("\x1a\x04\x20\x01\x28\x01", 6));
  EXPECT_EQ(options({3}),
            std::string("\x1a\x0f\x20\x01\x28\x01\x4a\x09\x08\x01\x10\x01\x1a\x03\x0a\x01\x03", 17));
  const std::string two(
      "\x20\x01\x28\x02\x30\x01\x4a\x0e\x08\x01\x10\x02\x1a\x03\x0a\x01\x00\x1a\x03\x0a\x01\x01", 22);
  EXPECT_EQ(options({0, 1}, Partitioner::kGspmd), "\x1a\x16" + two);
  EXPECT_EQ(options({0, 1}), "\x1a\x19" + two + "\x98\x01\x01");
}

}  // namespace
}  // namespace vertebra::pjrt
