// Free memory is the least of what the machine and the control groups leave.
#include "base/memory_limit.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class MemoryLimit : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("memory-limit-" + std::to_string(getpid()));
    write("proc/meminfo", "MemTotal:       8192 kB\nMemFree:         100 kB\nMemAvailable:   4096 kB\n");
    write("proc/self/cgroup", "1:name=other:/elsewhere\n0::/outer/inner\n");
    fs::create_directories(root_ / "groups");
  }
  void TearDown() override { fs::remove_all(root_); }
  void write(const std::string& name, const std::string& text) {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  void write_group(const std::string& name, const std::string& most, int64_t used, int64_t file,
                   int64_t shared) {
    write("groups/" + name + "/memory.max", most + "\n");
    write("groups/" + name + "/memory.current", std::to_string(used) + "\n");
    write("groups/" + name + "/memory.stat", "anon 5\nfile_mapped 77\nfile " + std::to_string(file) +
                                                 "\nshmem " + std::to_string(shared) + "\n");
  }
  std::optional<uint64_t> available() const {
    return available_memory_bytes(root_ / "proc", root_ / "groups");
  }
  fs::path root_;
};

TEST_F(MemoryLimit, IsTheMachinesWithoutLimits) {
  EXPECT_EQ(available(), 4096u << 10);
  write_group("outer/inner", "max", 1000, 0, 0);
  EXPECT_EQ(available(), 4096u << 10);
}

TEST_F(MemoryLimit, IsTheTightestGroupsAndCachesCountAsFree) {
  write_group("outer", "3000000", 1000000, 400000, 100000);
  EXPECT_EQ(available(), 3000000u - 700000u);
  write_group("outer/inner", "2000000", 1500000, 0, 0);
  EXPECT_EQ(available(), 500000u);
  write_group("outer/inner", "2000000", 2500000, 0, 0);  // over its limit
  EXPECT_EQ(available(), 0u);
}

TEST_F(MemoryLimit, IsUnknownWhereNothingTells) {
  fs::remove_all(root_ / "proc");
  EXPECT_EQ(available(), std::nullopt);
}

TEST(MemoryLimitHere, IsFound) { EXPECT_GT(available_memory_bytes().value_or(0), 0u); }

}  // namespace
}  // namespace vertebra
