// GGUF in both directions against the reference implementation (tests/golden/gguf, made by
// tools/golden/gguf_file.py), and files that lie.
#include "formats/gguf.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "base/error.h"
#include "base/rng.h"
#include "tensor/block_quant.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
const fs::path kReference = fs::path(VERTEBRA_SOURCE_DIR) / "tests/golden/gguf/reference.gguf";

class Gguf : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              fmt::format("vertebra-gguf-{}-{}", getpid(),
                          stream_id(::testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string text_of(const std::string& text) { return bytes_of<uint64_t>(text.size()) + text; }

std::string start(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  return "GGUF" + bytes_of(version) + bytes_of(tensors) + bytes_of(keys);
}
std::string entry(const std::string& name, std::vector<uint64_t> sizes, uint32_t type, uint64_t begin) {
  std::string out = text_of(name) + bytes_of(static_cast<uint32_t>(sizes.size()));
  for (const uint64_t size : sizes) out += bytes_of(size);
  return out + bytes_of(type) + bytes_of(begin);
}
std::string with_data(std::string header, size_t data_bytes) {
  header.resize((header.size() + 31) / 32 * 32 + data_bytes, '\0');
  return header;
}

std::string refusal(const std::string& bytes) {
  try {
    parse_gguf_header(bytes, "x.gguf");
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST_F(Gguf, ReadsWhatTheReferenceWrites) {
  const GgufFile file(kReference);
  const GgufMetadata& metadata = file.metadata();
  EXPECT_EQ(file.header().version, 3u);
  EXPECT_EQ(*metadata.string("general.architecture"), "llama");
  EXPECT_EQ(metadata.integer("test.u8"), 200);
  EXPECT_EQ(metadata.integer("test.i8"), -100);
  EXPECT_EQ(metadata.integer("test.u16"), 60000);
  EXPECT_EQ(metadata.integer("test.i16"), -30000);
  EXPECT_EQ(metadata.integer("test.u32"), 4000000000);
  EXPECT_EQ(metadata.integer("test.i32"), -2000000000);
  EXPECT_EQ(metadata.number("test.f32"), 0.5);
  EXPECT_EQ(metadata.boolean("test.bool"), true);
  EXPECT_EQ(*metadata.string("test.string"), "é <|end|>");
  EXPECT_EQ(metadata.integer("test.u64"), int64_t{1} << 40);
  EXPECT_EQ(metadata.integer("test.i64"), -(int64_t{1} << 40));
  EXPECT_EQ(metadata.number("test.f64"), 1e-300);
  EXPECT_EQ(*metadata.integers("test.integers"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(*metadata.strings("test.strings"), (std::vector<std::string>{"a", "", "ü"}));
  EXPECT_THROW(metadata.integer("test.string"), Error);
  EXPECT_EQ(metadata.integer("absent"), std::nullopt);

  EXPECT_TRUE(
      file.read("matrix").same_bits(Tensor::from<float>({2, 3}, {1.5f, -2.0f, 3.25f, 0.0f, 1e-3f, -7.0f})));
  EXPECT_TRUE(file.read("half").same_bits(Tensor::from<float>({2}, {1.0f, -0.5f}).to(DType::kF16)));
  for (const char* name : {"brain", "q8_0", "q4_0", "q5_1"}) {
    const Tensor values = file.read(name).to(DType::kF32);
    ASSERT_EQ(values.shape(), Shape({2, 64})) << name;
    for (int64_t i = 0; i < 128; ++i) EXPECT_NEAR(values.at(i), static_cast<double>(i - 64) / 8, 0.6) << name;
  }
}

TEST_F(Gguf, WritesTheReferencesBytes) {
  const GgufFile file(kReference);
  GgufWriter writer(folder_ / "a.gguf", file.metadata(), file.entries());
  for (const GgufEntry& each : file.entries()) writer.write(file.read(each));
  writer.commit();
  EXPECT_EQ(read_file(folder_ / "a.gguf"), read_file(kReference));
}

TEST_F(Gguf, AnUnfinishedFileDoesNotAppear) {
  const GgufFile file(kReference);
  {
    GgufWriter writer(folder_ / "a.gguf", file.metadata(), file.entries());
  }
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(Gguf, WriterRefusesWhatReadersWould) {
  const auto written = [&](std::vector<GgufEntry> entries) {
    GgufWriter(folder_ / "a.gguf", GgufMetadata(), std::move(entries));
  };
  EXPECT_THROW(written({{"x", {DType::kF32, {1}}, 0}, {"x", {DType::kF32, {1}}, 0}}), Error);
  EXPECT_THROW(written({{std::string(64, 'x'), {DType::kF32, {1}}, 0}}), Error);
  EXPECT_THROW(written({{"x", {DType::kQ4_K, {2, 128}}, 0}}), Error);
  EXPECT_THROW(written({{"x", {DType::kBool, {4}}, 0}}), Error);
}

TEST_F(Gguf, RefusesFilesThatLie) {
  const std::string one = start(1, 0) + entry("a", {32}, 0, 0);
  EXPECT_EQ(refusal(with_data(one, 128)), "accepted");
  EXPECT_EQ(refusal(with_data(start(1, 0, 2) + entry("a", {32}, 0, 0), 128)), "accepted");
  EXPECT_EQ(refusal("GGU"), "'x.gguf' is no GGUF file: it does not begin with the bytes GGUF");
  EXPECT_EQ(refusal(start(0, 0, 1)), "'x.gguf' is GGUF version 1 (byte 4); versions 2 and 3 are read");
  EXPECT_EQ(refusal(start(0, 0, 0x03000000)),
            "'x.gguf' is big-endian (its version at byte 4 reads 0x3000000); little-endian files are read");
  EXPECT_EQ(
      refusal(start(uint64_t{1} << 60, 0)),
      "'x.gguf': the number of tensors at byte 8 is 1152921504606846976, but only 8 bytes follow: is it cut "
      "off?");
  EXPECT_EQ(refusal(start(0, 1) + bytes_of(~uint64_t{0}) + "xxxxxxxx"),
            "'x.gguf': a key of the metadata at byte 24 would have 18446744073709551615 bytes, at most 65535 "
            "are taken");
  EXPECT_EQ(refusal(start(0, 1) + text_of("k") + bytes_of<uint32_t>(8) + bytes_of<uint64_t>(1000) + "abc"),
            "'x.gguf': a string at byte 37 would have 1000 bytes, at most 11 are taken");
  EXPECT_EQ(refusal(start(0, 1) + text_of("k") + bytes_of<uint32_t>(9) + bytes_of<uint32_t>(8) +
                    bytes_of<uint64_t>(uint64_t{1} << 61) + "abc"),
            "'x.gguf': the length of an array at byte 41 is 2305843009213693952, but only 3 bytes follow: is "
            "it cut "
            "off?");
  EXPECT_EQ(
      refusal(start(0, 1) + text_of("k") + bytes_of<uint32_t>(9) + bytes_of<uint32_t>(9) +
              bytes_of<uint64_t>(1)),
      "'x.gguf': 'k' at byte 41 is an array of arrays; arrays of numbers, booleans or strings were wanted");
  EXPECT_EQ(refusal(start(0, 1) + text_of("k") + bytes_of<uint32_t>(99) + bytes_of<uint64_t>(1)),
            "'x.gguf': 'k' at byte 33 has the value type 99, 0 to 12 are known");
  const std::string key = text_of("k") + bytes_of<uint32_t>(7) + std::string(1, '\1');
  EXPECT_EQ(refusal(start(0, 2) + key + key), "'x.gguf': the key 'k' at byte 38 is there twice");
  EXPECT_EQ(refusal(start(0, 1) + text_of("k") + bytes_of<uint32_t>(7) + std::string(1, '\2')),
            "'x.gguf': the bool at byte 37 is 2, 0 or 1 was wanted");
  EXPECT_EQ(
      refusal(start(0, 1) + text_of("general.alignment") + bytes_of<uint32_t>(4) + bytes_of<uint32_t>(12)),
      "'x.gguf': general.alignment is 12, a power of two up to 1048576 was wanted");
}

TEST_F(Gguf, RefusesTensorsThatLie) {
  const auto one = [](const std::string& text, size_t data_bytes) {
    return refusal(with_data(start(1, 0) + text, data_bytes));
  };
  EXPECT_EQ(one(entry("a", {32}, 0, 0), 127),
            "'x.gguf': tensor 'a' has 128 bytes from byte 0 of the data (byte 64 of the file), which has "
            "only 127: is it "
            "cut off?");
  EXPECT_EQ(one(entry("a", {32}, 0, 16), 256),
            "'x.gguf': tensor 'a' begins at byte 16 of the data, a multiple of 32 was wanted");
  EXPECT_EQ(
      one(entry("a", {33}, 8, 0), 256),
      "'x.gguf': tensor 'a' at byte 33: its rows have 33 elements, a multiple of 32 was wanted for Q8_0");
  EXPECT_EQ(
      one(entry("a", {128}, 12, 0), 256),
      "'x.gguf': tensor 'a' at byte 33: its rows have 128 elements, a multiple of 256 was wanted for Q4_K");
  EXPECT_NE(one(entry("a", {256}, 16, 0), 256)
                .find("elements of IQ2_XXS, which is not supported; supported are: F32, F16"),
            std::string::npos);
  EXPECT_NE(one(entry("a", {256}, 99, 0), 256).find("elements of type 99"), std::string::npos);
  EXPECT_NE(one(entry("a", {uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), 256).find("dimension 1 at byte 45"),
            std::string::npos);
  EXPECT_NE(one(entry("a", {0}, 0, 0), 256).find("dimension 0 at byte 37 is 0"), std::string::npos);
  EXPECT_NE(one(entry("a", {1, 1, 1, 1, 1}, 0, 0), 256).find("5 dimensions"), std::string::npos);
  EXPECT_EQ(refusal(with_data(start(2, 0) + entry("a", {32}, 0, 0) + entry("a", {32}, 0, 128), 256)),
            "'x.gguf': tensor 'a' is there twice (byte 90)");
  EXPECT_EQ(refusal(with_data(start(2, 0) + entry("a", {32}, 0, 0) + entry("b", {32}, 0, 96), 256)),
            "'x.gguf': tensor 'b' begins at byte 96 of the data, inside of 'a', which ends at 128");
}

TEST_F(Gguf, EveryCutIsNoticedAndMutationsNeverCrash) {
  const std::string whole = read_file(kReference);
  EXPECT_EQ(refusal(whole), "accepted");
  const size_t data = GgufFile(kReference).header().data_begin;
  for (size_t size = 0; size < data; ++size) EXPECT_NE(refusal(whole.substr(0, size)), "accepted") << size;
  PhiloxSequence rng(Philox(3, "gguf"));
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = whole;
    for (int i = 0; i <= round % 4; ++i) bytes[rng.below(data)] = static_cast<char>(rng.below(256));
    refusal(bytes);
  }
}

// A model in three files, the first of which has the metadata and no tensor.
class SplitGguf : public Gguf {
 protected:
  fs::path part(int number) const { return folder_ / fmt::format("m-{:05}-of-00003.gguf", number); }
  void write_part(int number, std::vector<std::string> tensors, int claimed, int count = 3) {
    GgufMetadata metadata("test");
    metadata.set("split.no", GgufValue{GgufType::kU16, int64_t{claimed}});
    metadata.set("split.count", GgufValue{GgufType::kU16, int64_t{count}});
    metadata.set("split.tensors.count", GgufValue{GgufType::kI32, int64_t{3}});
    if (number == 1) metadata.set("general.architecture", GgufValue::string("llama"));
    std::vector<GgufEntry> entries;
    for (const std::string& name : tensors) entries.push_back({name, {DType::kF32, {4}}, 0});
    GgufWriter writer(part(number), metadata, entries);
    for (size_t i = 0; i < tensors.size(); ++i)
      writer.write(
          Tensor::from<float>({4}, {static_cast<float>(number), static_cast<float>(i), 0.5f, -1.0f}));
    writer.commit();
  }
  void write_all() {
    write_part(1, {}, 0);
    write_part(2, {"a", "b"}, 1);
    write_part(3, {"c"}, 2);
  }
  void expect_refused(const fs::path& path, const std::vector<std::string>& words) {
    try {
      GgufFile file(path);
      ADD_FAILURE() << "was opened";
    } catch (const Error& error) {
      for (const std::string& word : words)
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << word << " in " << error.what();
    }
  }
};

TEST_F(SplitGguf, IsOpenedWholeWhicheverIsNamed) {
  write_all();
  for (const int named : {1, 2, 3}) {
    const GgufFile file(part(named));
    EXPECT_EQ(file.path(), part(1));
    EXPECT_EQ(*file.metadata().string("general.architecture"), "llama");
    ASSERT_EQ(file.entries().size(), 3u);
    EXPECT_EQ(file.read("b").at(0), 2);
    EXPECT_EQ(file.read("b").at(1), 1);
    EXPECT_EQ(file.read("c").at(0), 3);
  }
}

TEST_F(SplitGguf, FilesThatDoNotBelongTogetherAreRefused) {
  write_all();
  fs::remove(part(3));
  expect_refused(part(2), {"m-00003-of-00003.gguf", "missing"});
  write_part(3, {"b"}, 2);
  expect_refused(part(1), {"m-00003-of-00003.gguf", "'b'", "earlier"});
  write_part(3, {"c"}, 1);
  expect_refused(part(1), {"m-00003-of-00003.gguf", "split.no is 1"});
  write_part(3, {"c"}, 2, 4);
  expect_refused(part(1), {"split.count 4"});
  write_part(3, {"c", "d"}, 2);
  expect_refused(part(1), {"split.tensors.count is 3", "4 tensors"});
  write_part(1, {}, 5);
  expect_refused(part(1), {"split.no is 5"});
  write_all();
  fs::rename(part(1), folder_ / "other.gguf");
  expect_refused(folder_ / "other.gguf", {"-00001-of-00003.gguf"});
  expect_refused(part(2), {"m-00001-of-00003.gguf", "missing"});
}

}  // namespace
}  // namespace vertebra
