// Whole models in GGUF files whose bytes were changed: they load or are refused with an Error that names the file,
// and nothing else happens. The same files are the seeds of tests/fuzz/gguf_model_fuzz.cc.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "engine/generation_config.h"
#include "engine/model_text.h"
#include "models/gguf_model.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
const fs::path kSeeds = fs::path(VERTEBRA_SOURCE_DIR) / "tests/fuzz/seeds/gguf_model";

// The error's text; empty where all loaded.
std::string load(const fs::path& path) {
  try {
    const auto file = std::make_shared<const GgufFile>(path);
    sampling_defaults(generation_of_gguf(file->metadata()), path.string());
    tokenizer_of(file->metadata()).encode("Hello, world 123");
    const StoredModel stored = open_gguf_model(file);
    for (const ParameterSpec& spec : stored.model->parameters()) stored.tensors->read(spec);
    plan_gguf_model(stored, path.string());
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

class HostileGguf : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = fs::path(testing::TempDir()) / fmt::format("hostile-{}-{}.gguf", getpid(), GetParam());
    bytes_ = read_file(kSeeds / (std::string(GetParam()) + ".gguf"));
    set_log_level(LogLevel::kError);
  }
  void TearDown() override {
    fs::remove(path_);
    set_log_level(LogLevel::kInfo);
  }
  std::string load_bytes(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return load(path_);
  }
  fs::path path_;
  std::string bytes_;
};

TEST_P(HostileGguf, ChangedBytesAreRefusedOrLoad) {
  EXPECT_EQ(load_bytes(bytes_), "");
  PhiloxSequence rng(Philox(11, GetParam()));
  int refused = 0;
  constexpr int kRounds = 400;
  for (int round = 0; round < kRounds; ++round) {
    std::string bytes = bytes_;
    for (int i = 0; i <= round % 3; ++i) {
      // Numbers that lie: a byte of any value, or all ones.
      const size_t at = rng.below(bytes.size() - 8);
      bytes[at] = static_cast<char>(rng.below(256));
      if (round % 5 == 4) std::fill_n(bytes.begin() + static_cast<ptrdiff_t>(at), 1 + rng.below(8), '\xff');
    }
    if (round % 7 == 6) bytes.resize(rng.below(bytes.size()));
    refused += !load_bytes(bytes).empty();
  }
  EXPECT_GT(refused, kRounds / 8);
}

INSTANTIATE_TEST_SUITE_P(Architectures, HostileGguf,
                         testing::Values("llama", "gpt2", "ministral3", "qwen3_moe", "qwen3_5", "gemma3", "gemma4",
                                         "gemma4x", "phi3", "granite", "lfm2", "gpt_oss"),
                         [](const auto& each) { return std::string(each.param); });

// One key changed at a time, to what no reader may believe.
TEST(HostileMetadata, NumbersThatLie) {
  set_log_level(LogLevel::kError);
  const fs::path path = fs::path(testing::TempDir()) / fmt::format("hostile-metadata-{}.gguf", getpid());
  for (const auto& seed : fs::directory_iterator(kSeeds)) {
    const GgufFile file(seed.path());
    for (const auto& [key, value] : file.metadata().entries()) {
      for (const int64_t lie : {int64_t{0}, int64_t{-1}, INT64_MAX}) {
        GgufMetadata metadata = file.metadata();
        metadata.set(key, GgufValue{GgufType::kI64, lie});
        if (key == "general.alignment") continue;
        GgufWriter writer(path, metadata, file.entries());
        for (const GgufEntry& entry : file.entries()) writer.write(file.read(entry));
        writer.commit();
        const std::string message = load(path);
        EXPECT_TRUE(message.empty() || message.size() > 20) << seed.path() << " " << key << ": " << message;
      }
    }
  }
  fs::remove(path);
  set_log_level(LogLevel::kInfo);
}

}  // namespace
}  // namespace vertebra
