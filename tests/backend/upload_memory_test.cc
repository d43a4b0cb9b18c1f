// What uploading a mapped file's tensors costs in memory: the packed copy, and little beside it.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "backend/cpu/cpu_backend.h"
#include "base/file.h"
#include "base/mapped_pages.h"
#include "tests/tensor/random_blocks.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define VERTEBRA_SHADOW_MEMORY
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define VERTEBRA_SHADOW_MEMORY
#endif

// A line of /proc/self/status, in bytes.
size_t status_bytes(std::string_view name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name)) return std::stoull(line.substr(name.size() + 1)) << 10;
  }
  return 0;
}

class UploadMemory : public testing::Test {
 protected:
  void SetUp() override {
#if defined(VERTEBRA_SHADOW_MEMORY) || defined(VERTEBRA_EMULATED)
    GTEST_SKIP() << "a sanitizer's or an emulator's own memory would be counted";
#endif
    path_ = fs::path(testing::TempDir()) / fmt::format("upload-memory-{}", getpid());
  }
  void TearDown() override { fs::remove(path_); }
  void write_file(size_t size_bytes) {
    std::string piece;
    const Philox random(1, "upload");
    for (uint64_t i = 0; piece.size() < size_t{1} << 20; ++i)
      piece += std::string(1, static_cast<char>(random.below(i, 256)));
    AtomicFileWriter writer(path_);
    while (writer.size_bytes() < size_bytes) writer.write(piece);
    writer.commit();
  }
  fs::path path_;
};

// In a process of its own, whose peak nothing else has raised.
TEST_F(UploadMemory, IsThePackedCopyAndLittleMore) {
  constexpr int64_t kColumns = 2048, kRows = 16384, kTensors = 3;
  const TensorType type = {DType::kQ8_0, {kRows, kColumns}};
  write_file(kTensors * type.size_bytes());
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const size_t before = status_bytes("VmRSS:");
    ThreadTeam team(2);
    const auto backend = make_cpu_backend({&team, {}});
    const auto file = std::make_shared<const MappedFile>(path_);
    std::vector<std::unique_ptr<Buffer>> buffers;
    for (size_t i = 0; i < kTensors; ++i)
      buffers.push_back(
          backend->upload(Tensor::view(type, file->bytes().data() + i * type.size_bytes(), file)));
    const size_t peak = status_bytes("VmHWM:") - before;
    const auto share = static_cast<double>(peak) / static_cast<double>(kTensors * type.size_bytes());
    _exit(status_bytes("VmHWM:") == 0 ? 255 : static_cast<int>(share * 100));
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 255) GTEST_SKIP() << "this system does not tell the peak";
  EXPECT_GE(WEXITSTATUS(status), 98);  // percent of the file
  EXPECT_LE(WEXITSTATUS(status), 115);
}

TEST_F(UploadMemory, PagesGivenBackComeBackAndOthersStay) {
  write_file(size_t{1} << 20);
  const MappedFile file(path_);
  const std::string before(file.text());
  give_back_pages(file.bytes().data() + 5000, 300'000);
  give_back_pages(file.bytes().data(), file.bytes().size());
  EXPECT_EQ(file.text(), before);
  std::vector<char> mine(1 << 18, 'x');  // of no file
  give_back_pages(mine.data(), mine.size());
  EXPECT_EQ(std::count(mine.begin(), mine.end(), 'x'), std::ssize(mine));
}

}  // namespace
}  // namespace vertebra
