// The foundations: random numbers, files, JSON, manifests, the thread team.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/manifest.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "base/thread_team.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class BaseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(::testing::TempDir()) /
        fmt::format("base-{}-{}", getpid(), ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override {
    set_write_hook_for_testing({});
    fs::remove_all(folder_);
  }
  fs::path folder_;
};

template <class F>
std::string error_of(F&& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Philox, MatchesThePublishedTestVectors) {  // kat_vectors of Random123
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, NormalHasUnitVarianceAndStreamsDiffer) {
  const Philox a(1, "a"), b(1, "b");
  double sum = 0, squares = 0;
  constexpr int kCount = 20000;
  for (int i = 0; i < kCount; ++i) {
    const double x = a.normal(i);
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kCount, 0, 0.03);
  EXPECT_NEAR(squares / kCount, 1, 0.04);
  EXPECT_NE(a.bits64(0), b.bits64(0));
  for (int i = 0; i < 1000; ++i) EXPECT_LT(a.below(i, 7), 7u);
}

TEST(Sha256, MatchesTheStandard) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_F(BaseTest, AtomicWriteLeavesTheOldFileWhenTheDiskFails) {
  const fs::path path = folder_ / "file";
  write_file_atomic(path, "old");
  set_write_hook_for_testing(
      [](const fs::path&, size_t) { fail(Code::kResourceExhausted, "injected: no space left on device"); });
  EXPECT_THROW(write_file_atomic(path, "new content"), Error);
  set_write_hook_for_testing({});
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1)
      << "a temporary was left behind";
}

TEST_F(BaseTest, AtomicFolderAppearsWholeOrNotAtAll) {
  const fs::path target = folder_ / "artefact";
  {
    AtomicFolder attempt(target);
    write_file_atomic(attempt.path() / "a", "1");
  }
  EXPECT_FALSE(fs::exists(target));
  for (const char* content : {"first", "second"}) {
    AtomicFolder attempt(target);
    write_file_atomic(attempt.path() / "a", content);
    attempt.commit();
    EXPECT_EQ(read_file(target / "a"), content);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(BaseTest, MissingFilesAndFoldersAreNamed) {
  EXPECT_NE(error_of([&] { read_file(folder_ / "absent"); }).find("absent"), std::string::npos);
  EXPECT_NE(error_of([&] { MappedFile mapped(folder_); }).find("folder"), std::string::npos);
}

TEST_F(BaseTest, ManifestFindsDamage) {
  write_file_atomic(folder_ / "weights", "0123456789");
  Manifest manifest;
  manifest.kind = "model";
  manifest.inputs["data"] = "abc";
  write_manifest(folder_, manifest);
  const Manifest read = read_manifest(folder_);
  EXPECT_EQ(read.kind, "model");
  EXPECT_EQ(read.inputs.at("data"), "abc");
  EXPECT_EQ(find_damage(folder_, read), std::nullopt);
  std::fstream(folder_ / "weights", std::ios::in | std::ios::out) << "X";
  EXPECT_NE(find_damage(folder_, read)->find("weights"), std::string::npos);
  std::ofstream(folder_ / "weights") << "short";
  EXPECT_NE(find_damage(folder_, read)->find("5 bytes"), std::string::npos);
}

TEST(Json, ErrorsNameTheSourceAndHostileInputIsBounded) {
  EXPECT_NE(error_of([] { parse_json("{\"a\": }", "x.json"); }).find("x.json"), std::string::npos);
  EXPECT_NE(error_of([] { parse_json(std::string(100000, '['), "deep"); }).find("deep"), std::string::npos);
  EXPECT_NE(
      error_of([] { parse_json(std::string(200, '[') + std::string(200, ']'), "deep"); }).find("nested"),
      std::string::npos);
  const Json value = parse_json(R"({"n": "text", "k": 3})", "x.json");
  EXPECT_EQ(json_get<int>(value, "k", "x.json"), 3);
  EXPECT_EQ(json_get<int>(value, "absent", "x.json", 7), 7);
  EXPECT_NE(error_of([&] { json_get<int>(value, "n", "x.json"); }).find("'n' is \"text\""),
            std::string::npos);
  EXPECT_NE(error_of([&] { json_get<int>(value, "z", "x.json"); }).find("'z' is missing"), std::string::npos);
}

TEST(ThreadTeam, EveryIndexRunsOnceAndErrorsArriveAtTheCaller) {
  for (int threads = 1; threads <= 4; ++threads) {
    ThreadTeam team(threads);
    std::vector<std::atomic<int>> hits(1000);
    for (int round = 0; round < 50; ++round) {
      team.parallel_for(1000, [&](int64_t i, int) { hits[static_cast<size_t>(i)]++; });
    }
    for (auto& hit : hits) EXPECT_EQ(hit, 50);
    EXPECT_THROW(team.parallel_for(100, [](int64_t i, int) { require(i != 57, "index {}", i); }), Error);
    std::atomic<int> workers{0};
    team.run([&](int) { workers++; });
    EXPECT_EQ(workers, threads);
  }
}

}  // namespace
}  // namespace vertebra
