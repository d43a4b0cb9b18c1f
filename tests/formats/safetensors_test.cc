// safetensors in both directions against the reference implementation (tests/golden/safetensors, made
// by tools/golden/safetensors_file.py), and files that lie.
#include "formats/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "base/json.h"
#include "base/rng.h"
#include "formats/safetensors_header.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
const fs::path kGolden = fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/safetensors";

class Safetensors : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              fmt::format("vertebra-safetensors-{}-{}", getpid(), stream_id(test_info_->name()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  const ::testing::TestInfo* test_info_ = ::testing::UnitTest::GetInstance()->current_test_info();
  fs::path folder_;
};

std::vector<NamedTensor> golden_tensors() {
  return {{"weight.é", Tensor::from<float>({2, 3}, {1.5f, -2.0f, 3.25f, 0.0f, 1e-3f, -7.0f})},
          {"half", Tensor::from<float>({2}, {1.0f, -0.5f}).to(DType::kF16)},
          {"ids", Tensor::from<int64_t>({2}, {-1, int64_t{1} << 40})},
          {"mask", Tensor::from<bool>({3}, {true, false, true})},
          {"bytes", Tensor::from<uint8_t>({2}, {0, 255})},
          {"scalar", Tensor::scalar(2.5)},
          {"nothing", Tensor::zeros({DType::kF32, {0, 4}})}};
}

std::string file_of(const std::string& header, size_t data_bytes, int64_t claimed = -1) {
  const uint64_t size = claimed < 0 ? header.size() : static_cast<uint64_t>(claimed);
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>((size >> (8 * i)) & 0xff);
  return out + header + std::string(data_bytes, '\0');
}

std::string refusal(const std::string& bytes) {
  try {
    parse_safetensors_header(bytes, "x.safetensors");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST_F(Safetensors, ReadsWhatTheReferenceWrites) {
  const SafetensorsFile file(kGolden / "reference.safetensors");
  EXPECT_EQ(file.metadata().at("by"), "reference");
  for (const auto& [name, wanted] : golden_tensors()) EXPECT_TRUE(file.read(name).same_bits(wanted)) << name;
  EXPECT_EQ(file.entries().size(), golden_tensors().size());
}

TEST_F(Safetensors, WritesWhatTheReferenceReads) {
  write_safetensors(folder_ / "a.safetensors", golden_tensors());
  EXPECT_EQ(read_file(folder_ / "a.safetensors"), read_file(kGolden / "written.safetensors"));
}

TEST_F(Safetensors, RoundTripKeepsOrderAndBits) {
  const auto tensors = golden_tensors();
  write_safetensors(folder_ / "a.safetensors", tensors);
  const SafetensorsFile file(folder_ / "a.safetensors");
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(file.entries()[i].name, tensors[i].name);
    EXPECT_TRUE(file.read(tensors[i].name).same_bits(tensors[i].tensor));
  }
  Tensor kept;
  {
    const SafetensorsFile closing(folder_ / "a.safetensors");
    kept = closing.read("ids");
  }
  EXPECT_EQ(kept.data<int64_t>()[0], -1);
}

TEST_F(Safetensors, RefusesNamesTwiceAndMissingTensors) {
  const Tensor one = Tensor::scalar(1.0f);
  EXPECT_THROW(write_safetensors(folder_ / "a", std::vector<NamedTensor>{{"x", one}, {"x", one}}), Error);
  EXPECT_THROW(write_safetensors(folder_ / "a", std::vector<NamedTensor>{{"\xff", one}}), Error);
  EXPECT_FALSE(fs::exists(folder_ / "a"));
  const SafetensorsFile file(kGolden / "reference.safetensors");
  EXPECT_THROW(file.read("absent"), Error);
}

TEST_F(Safetensors, RefusesFilesThatLie) {
  const auto tensor = [](const std::string& name, const std::string& shape, const std::string& offsets,
                         const std::string& dtype = "F32") {
    return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}";
  };
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[1]", "[0,4]") + "}", 4)), "accepted");
  EXPECT_EQ(refusal("123"), "'x.safetensors' has 3 bytes: too short for a safetensors file");
  EXPECT_EQ(refusal(file_of("{}", 0, 90)),
            "'x.safetensors': its header has 90 bytes, the file only 2: is it cut off?");
  EXPECT_EQ(
      refusal(file_of("{}", 0, int64_t{1} << 60)),
      "'x.safetensors' is no safetensors file: its header would have 1152921504606846976 bytes, at most "
      "100000000 are taken");
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[2]", "[0,8]") + "}", 4)),
            "'x.safetensors': tensor 'a' ends at byte 8 of the data, the file has 4: is it cut off?");
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[2]", "[0,4]") + "}", 4)),
            "'x.safetensors': tensor 'a' (F32 [2]) has 4 bytes, 8 were wanted");
  EXPECT_EQ(
      refusal(file_of("{" + tensor("a", "[1]", "[0,4]") + "," + tensor("b", "[1]", "[2,6]") + "}", 6)),
      "'x.safetensors': tensor 'b' begins at byte 2 of the data, 4 was wanted (it overlaps the one before)");
  EXPECT_EQ(
      refusal(file_of("{" + tensor("a", "[1]", "[0,4]") + "," + tensor("b", "[1]", "[8,12]") + "}", 12)),
      "'x.safetensors': tensor 'b' begins at byte 8 of the data, 4 was wanted (a hole)");
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[1]", "[0,4]") + "}", 5)),
            "'x.safetensors': 5 bytes of data follow the header, its tensors have 4");
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[1]", "[0,4]") + "," + tensor("a", "[1]", "[4,8]") + "}", 8)),
            "'x.safetensors': tensor 'a' is in the header twice");
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[4294967296,4294967296]", "[0,4]") + "}", 4)),
            "'x.safetensors': tensor 'a': its shape has more elements than any file can hold");
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[1]", "[4,0]") + "}", 4)),
            "'x.safetensors': tensor 'a' ends at byte 0, before its begin at 4");
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[1]", "[0,4]", "F99") + "}", 4)),
            "'x.safetensors': tensor 'a' has the unknown dtype 'F99'");
  EXPECT_EQ(refusal(file_of("{" + tensor("a", "[-1]", "[0,4]") + "}", 4)),
            "'x.safetensors': tensor 'a': -1 stands in the header where it does not belong ('shape')");
  EXPECT_EQ(refusal(file_of(R"({"a":{"dtype":"F32","shape":[1]}})", 4)),
            "'x.safetensors': tensor 'a' has no data_offsets in the header");
  EXPECT_EQ(refusal(file_of(R"({"a":)", 0)),
            "'x.safetensors': its safetensors header is not valid JSON at byte 6");
  EXPECT_NE(refusal(file_of("{\"a\":" + std::string(100000, '[') + "}", 0)), "accepted");
  EXPECT_NE(refusal(file_of("[]", 0)), "accepted");
}

TEST_F(Safetensors, MillionNamesAreCheckedInTime) {
  std::string header = "{";
  for (int i = 0; i < 200000; ++i) {
    header += fmt::format("{}\"n{}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[{},{}]}}",
                          i ? "," : "", i, i, i + 1);
  }
  EXPECT_EQ(refusal(file_of(header + "}", 200000)), "accepted");
}

TEST_F(Safetensors, MutatedFilesNeverCrash) {
  const std::string whole = read_file(kGolden / "reference.safetensors");
  PhiloxSequence rng(Philox(3, "safetensors"));
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = whole;
    if (round % 3 == 0) bytes.resize(rng.below(bytes.size()));
    for (int i = 0; i < round % 4 && !bytes.empty(); ++i) {
      bytes[rng.below(std::min<size_t>(bytes.size(), 700))] = static_cast<char>(rng.below(256));
    }
    EXPECT_TRUE(refusal(bytes) != "accepted" || bytes.size() == whole.size());
  }
}

TEST_F(Safetensors, ReadsShards) {
  const auto tensors = golden_tensors();
  write_safetensors(folder_ / "model-00001-of-00002.safetensors", std::span(tensors).first(3));
  write_safetensors(folder_ / "model-00002-of-00002.safetensors", std::span(tensors).subspan(3));
  Json map = Json::object();
  for (size_t i = 0; i < tensors.size(); ++i) {
    map[tensors[i].name] = fmt::format("model-0000{}-of-00002.safetensors", i < 3 ? 1 : 2);
  }
  const fs::path index = folder_ / "model.safetensors.index.json";
  write_json_file(index, {{"metadata", Json::object()}, {"weight_map", map}});
  const auto model = SafetensorsModel::open(folder_);
  EXPECT_EQ(model.names().size(), tensors.size());
  for (const auto& [name, wanted] : tensors) EXPECT_TRUE(model.read(name).same_bits(wanted)) << name;

  map["half"] = "model-00002-of-00002.safetensors";
  write_json_file(index, {{"weight_map", map}});
  EXPECT_THROW(SafetensorsModel::open(folder_), Error);
  map["half"] = "../model-00001-of-00002.safetensors";
  write_json_file(index, {{"weight_map", map}});
  EXPECT_THROW(SafetensorsModel::open(folder_), Error);
  write_file_atomic(index, "{");
  EXPECT_THROW(SafetensorsModel::open(folder_), Error);
  EXPECT_THROW(SafetensorsModel::open(folder_ / "absent"), Error);
}

TEST_F(Safetensors, AnIndexThatLiesIsRefused) {
  const std::string first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  const auto write = [&](const std::string& file, std::vector<std::string> names) {
    std::vector<NamedTensor> tensors;
    for (const std::string& name : names) tensors.push_back({name, Tensor::scalar(1.0f)});
    write_safetensors(folder_ / file, tensors);
  };
  const auto refused_with = [&](const std::string& map) -> std::string {
    write_file_atomic(folder_ / "model.safetensors.index.json", R"({"weight_map": )" + map + "}");
    try {
      SafetensorsModel::open(folder_);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  const auto map_of = [&](const std::string& b) {
    return fmt::format(R"({{"a": "{}", "b": "{}"}})", first, b);
  };
  write(first, {"a"});
  EXPECT_NE(refused_with(map_of(second)).find(second + "', but there is no such file"), std::string::npos);
  write(second, {"b"});
  EXPECT_EQ(refused_with(map_of(second)), "accepted");
  EXPECT_NE(refused_with(map_of(first)).find("has tensor 'b', it has not"), std::string::npos);
  write(second, {"b", "a"});
  EXPECT_NE(refused_with(map_of(second)).find("has tensor 'a' too"), std::string::npos);
  EXPECT_NE(refused_with(fmt::format(R"({{"a": "{}", "a": "{}"}})", first, second)).find("'a' twice"),
            std::string::npos);
}

}  // namespace
}  // namespace vertebra
