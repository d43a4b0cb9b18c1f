#include "base/large_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"

namespace vertebra {
namespace {

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(LargeMemory, EverySizeIsAlignedAndUsableToItsEnd) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100}, (size_t{1} << 20) - 1, size_t{1} << 20,
                             (size_t{2} << 20) + 1, (size_t{5} << 20) + 4097}) {
    const LargeMemory memory = allocate_large(bytes, "a test");
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.get()) % 64, 0u) << bytes;
    std::memset(memory.get(), 7, bytes);
    for (size_t i = 0; i < bytes; i += 4096) ASSERT_EQ(static_cast<int>(memory.get()[i]), 7);
  }
}

TEST(LargeMemory, FreedBlocksGoBackToTheSystem) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer's shadow memory counts as resident";
#endif
  constexpr size_t kBytes = size_t{24} << 20;
  const int64_t before = resident_bytes();
  std::vector<LargeMemory> kept;
  for (int i = 0; i < 8; ++i) {
    LargeMemory block = allocate_large(kBytes, "a test");
    std::memset(block.get(), 1, kBytes);
    kept.push_back(allocate_large(size_t{1} << 20, "a test"));  // a heap would keep the gap below this one
    std::memset(kept.back().get(), 1, size_t{1} << 20);
  }
  EXPECT_LT(resident_bytes() - before, static_cast<int64_t>(kBytes));
}

TEST(LargeMemory, WhatCannotBeHadIsAnErrorThatNamesIt) {
  for (const size_t bytes : {SIZE_MAX, SIZE_MAX / 2, size_t{1} << 60}) {
    try {
      allocate_large(bytes, "the workspace of a test");
      FAIL() << bytes;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kResourceExhausted);
      EXPECT_NE(std::string(error.what()).find("the workspace of a test"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace vertebra
