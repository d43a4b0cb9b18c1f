// SentencePiece models: ids and text as the library has them (tests/golden/sentencepiece, written by
// tools/golden/sentencepiece_models.py), and strangers' files: each kind of damage to the protobuf, the
// pieces and the character map gives an error that names it, or text that is encoded without harm.
#include <gtest/gtest.h>

#include <bit>
#include <ctime>
#include <filesystem>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "text/charsmap.h"
#include "text/sentencepiece_file.h"

namespace vertebra {
namespace {

const std::filesystem::path kGolden =
    std::filesystem::path(VERTEBRA_SOURCE_DIR) / "tests/golden/sentencepiece";

class GoldenSentencePiece : public testing::TestWithParam<const char*> {};

TEST_P(GoldenSentencePiece, IdsAndTextEqualTheLibrarys) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = Tokenizer::load(kGolden / (name + ".model"));
  const Json texts = read_json_file(kGolden / "texts.json");
  const Json rows = read_json_file(kGolden / (name + ".cases.json"));
  ASSERT_EQ(texts.size(), rows.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = rows[i]["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(texts[i].get<std::string>(), false, false), ids) << name << ": " << texts[i];
    EXPECT_EQ(tokenizer.decode(ids), rows[i]["text"].get<std::string>()) << name << ": " << rows[i]["ids"];
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenSentencePiece,
                         testing::Values("bpe_plain", "bpe_mapped", "bpe_folded_user", "bpe_bytes_user",
                                         "bpe_spaces", "bpe_no_prefix", "bpe_gemma", "bpe_suffix",
                                         "bpe_across_words", "unigram_plain", "unigram_mapped",
                                         "unigram_folded_user", "unigram_bytes_user", "unigram_spaces",
                                         "unigram_no_prefix", "unigram_gemma", "unigram_suffix",
                                         "unigram_across_words"),
                         [](const auto& info) { return std::string(info.param); });

// ---- protobuf by hand
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string bytes_field(int number, std::string_view bytes) {
  return varint(static_cast<uint64_t>(number) << 3 | 2) + varint(bytes.size()) + std::string(bytes);
}
std::string number_field(int number, uint64_t value) {
  return varint(static_cast<uint64_t>(number) << 3) + varint(value);
}
std::string float_field(int number, float value) {
  std::string out = varint(static_cast<uint64_t>(number) << 3 | 5);
  for (int shift = 0; shift < 32; shift += 8)
    out += static_cast<char>(std::bit_cast<uint32_t>(value) >> shift & 0xFF);
  return out;
}
std::string piece(std::string_view text, float score, uint64_t type = 1) {
  return bytes_field(1, bytes_field(1, text) + float_field(2, score) + number_field(3, type));
}
std::string u32(uint32_t value) {
  std::string out;
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value >> shift & 0xFF);
  return out;
}

constexpr uint64_t kUnigram = 1, kBpe = 2;
std::string model_file(uint64_t kind, const std::string& pieces, const std::string& charsmap = "") {
  return pieces + bytes_field(2, number_field(3, kind)) +
         bytes_field(3, charsmap.empty() ? "" : bytes_field(2, charsmap));
}
std::string small_pieces() {
  return piece("<unk>", 0, 2) + piece("\xE2\x96\x81", -1) + piece("a", -2) + piece("b", -3) +
         piece("ab", -1.5F);
}

std::string refusal(const std::string& file) {
  try {
    const Tokenizer tokenizer = tokenizer_from_sentencepiece(file, Json(), "f.model");
    tokenizer.encode("a b ab \xE2\x96\x81 \xFF \xC3\xA9 c", false);
  } catch (const Error& error) {
    EXPECT_EQ(std::string_view(error.what()).substr(0, 7), "f.model") << error.what();
    return error.what();
  }
  return "";
}

void expect_refused(const std::string& file, const std::string& named) {
  const std::string message = refusal(file);
  EXPECT_NE(message.find(named), std::string::npos) << "gave: '" << message << "', wanted: " << named;
}

TEST(HostileSentencePiece, EachDamageIsNamed) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const uint64_t kind : {kUnigram, kBpe}) {
    EXPECT_EQ(refusal(model_file(kind, small_pieces())), "");
    expect_refused(model_file(kind, small_pieces() + piece("c", kNan)), "token 5");
    expect_refused(model_file(kind, small_pieces() + piece("ab", -9)), "two ids");
    expect_refused(model_file(kind, small_pieces() + piece("", -9)), "piece 5 has 0 bytes");
    expect_refused(model_file(kind, small_pieces() + piece(std::string(5000, 'x'), -9)), "5000 bytes");
    expect_refused(model_file(kind, small_pieces() + piece("c", -9, 7)), "the type 7");
    expect_refused(model_file(kind, small_pieces() + piece("c", -9, ~uint64_t{0})), "the type");
  }
  expect_refused(model_file(kUnigram, small_pieces() + piece("c", kInfinity)), "token 5");
  expect_refused(model_file(3, small_pieces()), "model type 3");
  expect_refused(model_file(9, small_pieces()), "model type 9");
  expect_refused("", "no pieces");
  expect_refused(bytes_field(2, number_field(3, 1)), "no pieces");
  expect_refused(small_pieces() + number_field(0, 1), "a field with the number 0");
  expect_refused(small_pieces() + varint(uint64_t{1} << 40 | 2), "a field with the number");
  expect_refused(small_pieces() + varint(4 << 3 | 3), "wire type 3");
  expect_refused(small_pieces() + std::string(11, '\xFF'), "64 bits");
  expect_refused(bytes_field(1, number_field(1, 5)), "field 1 has wire type 0");
  expect_refused(bytes_field(1, bytes_field(1, "a") + number_field(2, 5)), "field 2 has wire type 0");
  expect_refused(small_pieces() + varint(1 << 3 | 2) + varint(~uint64_t{0} >> 1), "bytes; 0 are left");
}

TEST(HostileSentencePiece, TruncatedFilesAreRefusedOrWhole) {
  const std::string good = model_file(kBpe, small_pieces());
  for (size_t size = 0; size < good.size(); ++size) {
    const std::string message = refusal(good.substr(0, size));
    // Cut between two fields the rest is a smaller model.
    if (!message.empty()) {
      EXPECT_TRUE(message.find("left") != message.npos || message.find("cut off") != message.npos ||
                  message.find("no pieces") != message.npos)
          << size << ": " << message;
    }
  }
}

TEST(HostileSentencePiece, VocabulariesOfOddPiecesEncode) {
  // Nothing reachable, no unknown piece, byte pieces that are missing.
  for (const uint64_t kind : {kUnigram, kBpe}) {
    EXPECT_EQ(refusal(model_file(kind, piece("<unk>", 0, 2))), "");
    EXPECT_EQ(refusal(model_file(kind, piece("<s>", 0, 3) + piece("x", -1, 5))), "");
    EXPECT_EQ(refusal(piece("<unk>", 0, 2) + piece("<0x41>", 0, 6) +
                      bytes_field(2, number_field(3, kind) + number_field(35, 1))),
              "");
    EXPECT_EQ(refusal(model_file(kind, small_pieces() + piece(" ", -1, 4) + piece("\xFF", -1, 4))), "");
  }
}

std::string charsmap_of(const std::vector<uint32_t>& units, std::string_view replacements) {
  std::string array;
  for (const uint32_t unit : units) array += u32(unit);
  return u32(static_cast<uint32_t>(array.size())) + array + std::string(replacements);
}

TEST(HostileSentencePiece, CharsmapSizesAreChecked) {
  for (const std::string& blob : {std::string("abc"), u32(0), u32(4), u32(5) + "12345",
                                  u32(0xFFFFFFFC) + "1234", u32(8) + "1234", u32(6) + "123456"}) {
    EXPECT_THROW(Charsmap(blob, "f"), Error) << blob.size();
    EXPECT_NE(refusal(model_file(kUnigram, small_pieces(), blob)).find("character map"), std::string::npos);
  }
}

// A unit's offset is XORed with the byte; label 'a' with a value in the unit behind.
TEST(HostileSentencePiece, CharsmapUnitsMayPointAnywhere) {
  const auto unit = [](uint32_t offset, bool has_value, uint32_t label) {
    return offset << 10 | static_cast<uint32_t>(has_value) << 8 | label;
  };
  std::vector<std::vector<uint32_t>> arrays;
  std::vector<uint32_t> cyclic(256, unit(0, false, 'a'));  // every step comes back to the same units
  for (uint32_t i = 0; i < 256; ++i) cyclic[i] = unit(0, true, i);
  arrays.push_back(cyclic);
  arrays.push_back({unit(0x3FFFFF, true, 'a')});  // far out of the array
  arrays.push_back(std::vector<uint32_t>(256, 0xFFFFFFFF));
  std::vector<uint32_t> value(512, 0);
  value[0] = unit(1, false, 0);
  value[1 ^ 'a'] = unit(1, true, 'a');
  value[1 ^ 'a' ^ 1] = 0x7FFFFFFF;  // a replacement behind the end
  arrays.push_back(value);
  value[1 ^ 'a' ^ 1] = 1U << 31 | 1;  // one that no zero byte ends
  arrays.push_back(value);
  for (const auto& units : arrays) {
    const std::string blob = charsmap_of(units, "xyz");
    const Charsmap map(blob, "f");
    for (const std::string& text : {std::string("a"), std::string("aaaa"), std::string(3000, 'a'),
                                    std::string("\xFF\xFE"), std::string("a\0b", 3)}) {
      for (const auto& match : {map.longest(text), map.shortest(text)}) {
        if (!match) continue;
        EXPECT_LE(match->length, text.size());
        EXPECT_LE(match->replacement.size(), 3u);
      }
    }
    EXPECT_EQ(refusal(model_file(kUnigram, small_pieces(), blob)), "");
  }
}

// Every place would otherwise walk the whole rest of the text, or become megabytes.
TEST(HostileSentencePiece, CharsmapsNeitherWalkNorGrowWithoutEnd) {
  const std::string text(1 << 18, 'a');
  std::vector<uint32_t> cyclic(512);
  for (uint32_t i = 0; i < 512; ++i) cyclic[i] = 'a';
  const std::clock_t start = std::clock();
  EXPECT_FALSE(Charsmap(charsmap_of(cyclic, "x"), "f").longest(text));
  const std::string file = model_file(kUnigram, small_pieces(), charsmap_of(cyclic, "x"));
  tokenizer_from_sentencepiece(file, Json(), "f").encode(text, false);
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 10);

  std::vector<uint32_t> value(512, 0);
  value[0] = 1 << 10;
  value[1 ^ 'a'] = 1 << 10 | 1 << 8 | 'a';
  value[1 ^ 'a' ^ 1] = 1U << 31;
  EXPECT_EQ(Charsmap(charsmap_of(value, "xyz"), "f").longest(text)->replacement, "xyz");
  EXPECT_FALSE(Charsmap(charsmap_of(value, std::string(1 << 20, 'x')), "f").longest(text));
}

TEST(HostileSentencePiece, MutatedFilesNeverCrash) {
  int loaded = 0, refused = 0;
  for (const char* name : {"unigram_folded_user", "bpe_bytes_user", "unigram_spaces"}) {
    const std::string good = read_file(kGolden / (std::string(name) + ".model"));
    PhiloxSequence random(Philox(3, name));
    for (int round = 0; round < 300; ++round) {
      std::string bytes = good;
      for (uint64_t i = 0; i <= random.below(4); ++i) {
        const size_t at = random.below(bytes.size());
        switch (random.below(3)) {
          case 0:
            bytes[at] = static_cast<char>(random.below(256));
            break;
          case 1:
            bytes.erase(at, random.below(40));
            break;
          default:
            bytes.insert(at, bytes.substr(random.below(bytes.size()), random.below(40)));
        }
      }
      (refusal(bytes).empty() ? loaded : refused) += 1;
    }
  }
  EXPECT_GT(loaded, 20);
  EXPECT_GT(refused, 20);
}

}  // namespace
}  // namespace vertebra
