// Safetensors files and checkpoints: round trips, hostile files, damage, a failing disk.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

class FormatsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              fmt::format("formats-{}-{}", getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override {
    set_write_hook_for_testing({});
    fs::remove_all(folder_);
  }

  static NamedTensors tensors(float first) {
    return {{"a.weight", Tensor::from<float>({2, 3}, {first, 2, 3, 4, 5, 6})},
            {"b", Tensor::from<int32_t>({2}, {7, -8})},
            {"half", Tensor::from<float>({3}, {1, 2, 3}).to(DType::kBF16)},
            {"scalar", Tensor::scalar<float>(9)}};
  }
  std::string file_with(const std::string& header, const std::string& data) const {
    const uint64_t size = header.size();
    std::string bytes(sizeof size, '\0');
    std::memcpy(bytes.data(), &size, sizeof size);
    write_file_atomic(folder_ / "hostile.safetensors", bytes + header + data);
    return (folder_ / "hostile.safetensors").string();
  }
  std::string error_of(const std::string& path) const {
    try {
      read_safetensors(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  fs::path folder_;
};

TEST_F(FormatsTest, TensorsComeBackAsTheyWere) {
  const NamedTensors written = tensors(1);
  write_safetensors(folder_ / "x.safetensors", written);
  const NamedTensors read = read_safetensors(folder_ / "x.safetensors");
  ASSERT_EQ(read.size(), written.size());
  for (size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i].first, written[i].first);
    EXPECT_TRUE(read[i].second.same_bits(written[i].second)) << read[i].first;
  }
}

TEST_F(FormatsTest, LayoutIsTheDocumentedOne) {
  write_safetensors(folder_ / "x.safetensors", {{"t", Tensor::from<float>({1}, {1})}});
  const std::string bytes = read_file(folder_ / "x.safetensors");
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  EXPECT_EQ(static_cast<unsigned char>(bytes[0]) % 8, 0);
  EXPECT_EQ(bytes.substr(8, header.size()), header);
  EXPECT_EQ(bytes.substr(bytes.size() - 4), std::string("\0\0\x80\x3f", 4));
}

TEST_F(FormatsTest, HostileHeadersAreNamed) {
  const auto one = [](const std::string& fields) { return "{\"t\":{" + fields + "}}"; };
  const std::string data(8, 'x');
  EXPECT_NE(error_of(file_with(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), data))
                .find("span 4 bytes"),
            std::string::npos);
  EXPECT_NE(
      error_of(file_with(one(R"("dtype":"F32","shape":[4],"data_offsets":[0,16])"), data)).find("truncated"),
      std::string::npos);
  EXPECT_NE(error_of(file_with(one(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"), data)).find("hole"),
            std::string::npos);
  EXPECT_NE(error_of(file_with(one(R"("dtype":"F99","shape":[2],"data_offsets":[0,8])"), data)).find("F99"),
            std::string::npos);
  EXPECT_NE(error_of(file_with(one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), data)).find("-2"),
            std::string::npos);
  EXPECT_NE(
      error_of(file_with(one(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8])"), data))
          .find("2^62"),
      std::string::npos);
  EXPECT_NE(
      error_of(
          file_with(
              R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
              data))
          .find("overlaps"),
      std::string::npos);
  EXPECT_NE(error_of(file_with("[1, 2", data)).find("JSON"), std::string::npos);
  write_file_atomic(folder_ / "long", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
  EXPECT_NE(error_of((folder_ / "long").string()).find("header is said"), std::string::npos);
  write_file_atomic(folder_ / "short", "abc");
  EXPECT_NE(error_of((folder_ / "short").string()).find("3 bytes"), std::string::npos);
}

TEST_F(FormatsTest, MutatedFilesNeverCrash) {
  write_safetensors(folder_ / "x.safetensors", tensors(1));
  const std::string good = read_file(folder_ / "x.safetensors");
  PhiloxSequence random(Philox(1, "mutations"));
  int rejected = 0;
  for (int i = 0; i < 500; ++i) {
    std::string bad = good;
    if (random.chance(0.2)) bad.resize(random.below(bad.size()));
    for (uint64_t flips = random.below(4); flips-- > 0 && !bad.empty();) {
      bad[random.below(std::min<size_t>(bad.size(), 400))] = static_cast<char>(random.below(256));
    }
    std::ofstream(folder_ / "bad", std::ios::binary) << bad;
    try {
      for (const auto& [name, tensor] : read_safetensors(folder_ / "bad")) (void)tensor.clone();
    } catch (const Error&) {
      ++rejected;
    }
  }
  EXPECT_GT(rejected, 150);
}

TEST_F(FormatsTest, ShardedModelsAreReadThroughTheirIndex) {
  write_safetensors(folder_ / "one.safetensors", {{"a", Tensor::scalar<float>(1)}});
  write_safetensors(folder_ / "two.safetensors", {{"b", Tensor::scalar<float>(2)}});
  write_file_atomic(folder_ / "model.safetensors.index.json",
                    R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}})");
  EXPECT_EQ(read_safetensors_folder(folder_).size(), 2u);
  write_file_atomic(folder_ / "model.safetensors.index.json", R"({"weight_map": {"c": "one.safetensors"}})");
  EXPECT_THROW(read_safetensors_folder(folder_), Error);
  write_file_atomic(folder_ / "model.safetensors.index.json",
                    R"({"weight_map": {"a": "../one.safetensors"}})");
  EXPECT_THROW(read_safetensors_folder(folder_), Error);
}

TEST_F(FormatsTest, TheNewestWholeCheckpointIsTaken) {
  for (const int64_t step : {10, 20, 30})
    save_checkpoint(folder_, {step, {{"k", step}}, tensors(static_cast<float>(step))}, 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 2)
      << "only 2 were to be kept";
  EXPECT_EQ(load_latest_checkpoint(folder_)->step, 30);
  // One flipped bit in the newest: the one before is taken.
  std::fstream file(folder_ / "step-00000030" / "tensors.safetensors",
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x7f');
  file.close();
  const auto older = load_latest_checkpoint(folder_);
  EXPECT_EQ(older->step, 20);
  EXPECT_EQ(json_get<int>(older->state, "k", "state"), 20);
  EXPECT_EQ(older->tensors[0].second.at(0), 20);
  fs::resize_file(folder_ / "step-00000020" / "tensors.safetensors", 50);
  EXPECT_FALSE(load_latest_checkpoint(folder_).has_value());
}

TEST_F(FormatsTest, AFailingDiskLeavesTheOlderCheckpointWhole) {
  save_checkpoint(folder_, {1, Json::object(), tensors(1)}, 1);
  int writes = 0;
  for (int failing = 0; failing < 100; ++failing) {
    writes = 0;
    set_write_hook_for_testing([&](const fs::path&, size_t) {
      require(writes++ != failing, Code::kResourceExhausted, "injected: no space left on device");
    });
    bool saved = true;
    try {
      save_checkpoint(folder_, {2, Json::object(), tensors(2)}, 1);
    } catch (const Error&) {
      saved = false;
    }
    set_write_hook_for_testing({});
    EXPECT_EQ(load_latest_checkpoint(folder_)->step, saved ? 2 : 1);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1)
        << "something half-written was left";
    if (saved) break;
  }
  EXPECT_GE(writes, 3) << "the fault was not tried at every write";
}

TEST_F(FormatsTest, LeftoversOfAKilledProcessAreRemoved) {
  save_checkpoint(folder_, {1, Json::object(), tensors(1)}, 1);
  fs::create_directories(folder_ / "step-00000002.tmp-123-4");
  write_file_atomic(folder_ / "step-00000002.tmp-123-4" / "tensors.safetensors", "half");
  EXPECT_EQ(load_latest_checkpoint(folder_)->step, 1);
  EXPECT_FALSE(fs::exists(folder_ / "step-00000002.tmp-123-4"));
}

}  // namespace
}  // namespace vertebra
