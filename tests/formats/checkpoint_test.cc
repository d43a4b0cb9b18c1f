// Checkpoints: a failure at any write leaves the older ones usable and nothing half-written in sight;
// a damaged one is passed over; the newest ones are kept.
#include "formats/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() /
              fmt::format("vertebra-checkpoint-{}-{}", getpid(), stream_id(info->name()));
    fs::create_directories(folder_);
  }
  void TearDown() override {
    set_write_hook_for_testing({});
    fs::remove_all(folder_);
  }
  static std::vector<NamedTensor> tensors(float value) {
    return {{"w", Tensor::from<float>({2}, {value, -value})},
            {"adam.m/w", Tensor::from<float>({2}, {0, value})}};
  }
  fs::path save(int64_t step, int keep_last = 0) {
    Manifest manifest;
    manifest.recipe = {{"stage", "pretrain"}};
    return save_checkpoint(folder_, step, tensors(static_cast<float>(step)), {{"seed", 7}}, manifest,
                           keep_last);
  }
  size_t entries() const { return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {})); }
  fs::path folder_;
};

TEST_F(CheckpointTest, ComesBackAsItWas) {
  EXPECT_FALSE(load_latest_checkpoint(folder_).has_value());
  EXPECT_FALSE(load_latest_checkpoint(folder_ / "absent").has_value());
  save(5);
  EXPECT_EQ(save(1234).filename(), "step-00001234");
  const auto found = load_latest_checkpoint(folder_);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 1234);
  EXPECT_EQ(found->state, (Json{{"seed", 7}}));
  EXPECT_EQ(found->manifest.kind, "checkpoint");
  EXPECT_EQ(found->manifest.recipe["stage"], "pretrain");
  ASSERT_EQ(found->tensors.size(), 2u);
  EXPECT_EQ(found->tensors[1].name, "adam.m/w");
  EXPECT_TRUE(found->tensors[0].tensor.same_bits(tensors(1234)[0].tensor));
}

TEST_F(CheckpointTest, KeepsTheNewest) {
  for (int64_t step = 1; step <= 5; ++step) save(step, 2);
  EXPECT_EQ(checkpoint_steps(folder_), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(entries(), 2u);
}

TEST_F(CheckpointTest, FailureAtEveryWriteLeavesTheOldOnes) {
  save(1);
  int failures = 0;
  for (int fail_at = 0;; ++fail_at) {
    int writes = 0;
    set_write_hook_for_testing([&](const fs::path& path, size_t) {
      if (writes++ == fail_at) fail(Code::kResourceExhausted, "no space left for '{}'", path.string());
    });
    bool failed = false;
    try {
      save(2, 1);
    } catch (const Error& error) {
      failed = true;
      EXPECT_EQ(error.code(), Code::kResourceExhausted);
    }
    set_write_hook_for_testing({});
    if (!failed) break;
    ++failures;
    EXPECT_EQ(entries(), 1u) << "half-written after failure " << fail_at;
    EXPECT_EQ(load_latest_checkpoint(folder_)->step, 1);
  }
  EXPECT_GE(failures, 3);
  EXPECT_EQ(load_latest_checkpoint(folder_)->step, 2);
}

void flip_bit(const fs::path& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const int c = file.get();
  file.seekp(at);
  file.put(static_cast<char>(c ^ 4));
}

TEST_F(CheckpointTest, DamageIsPassedOver) {
  const char* const names[] = {"tensors.safetensors", "state.json", "manifest.json"};
  for (const char* name : names) {
    save(1);
    const fs::path newest = save(2);
    fs::resize_file(newest / name, fs::file_size(newest / name) - 3);
    EXPECT_EQ(load_latest_checkpoint(folder_)->step, 1) << name << " cut off";
    save(2);
    EXPECT_EQ(load_latest_checkpoint(folder_)->step, 2);
    fs::remove(newest / name);
    EXPECT_EQ(load_latest_checkpoint(folder_)->step, 1) << name << " missing";
  }
  const fs::path newest = save(2);
  flip_bit(newest / "tensors.safetensors",
           static_cast<int64_t>(fs::file_size(newest / "tensors.safetensors")) - 1);
  EXPECT_EQ(load_latest_checkpoint(folder_)->step, 1);
  EXPECT_THROW(load_checkpoint(newest), Error);
  flip_bit(folder_ / "step-00000001/state.json", 3);
  EXPECT_FALSE(load_latest_checkpoint(folder_).has_value());
}

TEST_F(CheckpointTest, LeftoversOfAKilledProcessGo) {
  save(3);
  fs::create_directories(folder_ / "step-00000004.tmp-999-0");
  write_file_atomic(folder_ / "step-00000004.tmp-999-0/tensors.safetensors", "half");
  fs::create_directories(folder_ / "step-00000002.tmp-removed");
  write_file_atomic(folder_ / "metrics.jsonl", "{}\n");
  EXPECT_EQ(load_latest_checkpoint(folder_)->step, 3);
  remove_unfinished_checkpoints(folder_);
  EXPECT_EQ(entries(), 2u);
  remove_unfinished_checkpoints(folder_ / "absent");
}

}  // namespace
}  // namespace vertebra
