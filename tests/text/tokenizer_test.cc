// The tokenizer's parts and promises: scanners equal their regular expressions, merges in rank order
// for short and long pieces, any bytes survive, streaming never splits a character, control tokens in
// a user's text stay text.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <numeric>

#include "base/error.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/thread_team.h"
#include "text/bpe_model.h"
#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/regex.h"
#include "text/scanner.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(VERTEBRA_SOURCE_DIR) / "tests/golden/tokenizer";

Tokenizer golden(const std::string& name) { return Tokenizer::load(kGolden / (name + ".tokenizer.json")); }

// Random text from characters that the patterns treat differently.
std::string random_text(uint64_t seed, int length) {
  static const char32_t pool[] = {
      'a',    'b',   'S',   't',   'L',     'l',    'e',   'r',   'v',    'm',     'd',    '0',
      '1',    '9',   0xBD,  0x663, 0x2167,  ' ',    ' ',   '\t',  '\n',   '\r',    0xA0,   0x3000,
      0x2028, 0x85,  '\'',  '\'',  '!',     '.',    '_',   '<',   '|',    0xE9,    0x17F,  0x6F22,
      0xD55C, 0x5D0, 0x301, 0x93F, 0x1F642, 0x200D, 0x1C5, 0x378, 0x1C89, 0x10D40, 0xE0001};
  PhiloxSequence random(Philox(seed, "text"));
  std::string text;
  for (int i = 0; i < length; ++i) append_utf8(text, pool[random.below(std::size(pool))]);
  return text;
}

std::vector<std::string> scan_all(ScanFunction scan, const std::string& text) {
  std::vector<std::string> pieces;
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p < end;) {
    const char* next = scan(p, end);
    EXPECT_GT(next, p);
    EXPECT_LE(next, end);
    pieces.emplace_back(p, next);
    p = next;
  }
  return pieces;
}

TEST(Scanner, EqualsItsRegularExpression) {
  for (const ScannerKind kind : {ScannerKind::kGpt2, ScannerKind::kLlama3, ScannerKind::kQwen2}) {
    const Regex regex(std::string(scanner_pattern(kind)), "test");
    for (uint64_t seed = 0; seed < 3000; ++seed) {
      const std::string text = random_text(seed, 1 + static_cast<int>(seed % 40));
      std::vector<std::string> expected;
      regex.for_each_match(
          text, [&](size_t begin, size_t end) { expected.push_back(text.substr(begin, end - begin)); });
      ASSERT_EQ(scan_all(scanner(kind), text), expected) << text;
    }
  }
}

TEST(Scanner, SmolLmIsDigitsThenGpt2) {
  Json section = Pretokenizer::section_for_pattern("smollm");
  const Pretokenizer fast = Pretokenizer::from_json(section, "test");
  ASSERT_EQ(fast.only_scanner(), ScannerKind::kSmolLm);
  // A step that changes nothing keeps the general path from being replaced by the scanner.
  section["pretokenizers"].insert(
      section["pretokenizers"].begin(),
      Json{{"type", "Split"}, {"pattern", {{"String", "\x01"}}}, {"behavior", "Isolated"}});
  const Pretokenizer general = Pretokenizer::from_json(section, "test");
  ASSERT_FALSE(general.only_scanner());
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const std::string text = random_text(seed, 1 + static_cast<int>(seed % 40));
    std::vector<std::string> expected;
    general.split(text, [&](std::string_view piece) { expected.emplace_back(piece); });
    ASSERT_EQ(scan_all(scanner(ScannerKind::kSmolLm), text), expected) << text;
  }
}

TEST(Scanner, BrokenBytesArePiecesToo) {
  for (const ScannerKind kind :
       {ScannerKind::kGpt2, ScannerKind::kSmolLm, ScannerKind::kLlama3, ScannerKind::kQwen2}) {
    const std::string text = "a\xFF\xC3 b\xE2\x82\xF0\x9F\x99\xED\xA0\x80 \x80";
    std::string joined;
    for (const std::string& piece : scan_all(scanner(kind), text)) joined += piece;
    EXPECT_EQ(joined, text);
  }
}

TEST(Unicode, DecodesStrictly) {
  const auto decode = [](std::string_view s) { return decode_utf8(s.data(), s.data() + s.size()); };
  EXPECT_EQ(decode("\xF0\x9F\x99\x82").code_point, 0x1F642u);
  for (const std::string_view broken : {"\x80", "\xC0\x80", "\xC3", "\xE0\x80\x80", "\xED\xA0\x80",
                                        "\xF4\x90\x80\x80", "\xF8\x88\x80\x80", "\xE2\x82", "\xFF"}) {
    EXPECT_FALSE(decode(broken).valid) << testing::PrintToString(broken);
    EXPECT_EQ(decode(broken).length, 1);
  }
  for (char32_t c = 1; c < 0x110000; c += c < 0x800 ? 1 : 97) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    ASSERT_EQ(decode(text).code_point, c);
    ASSERT_EQ(complete_utf8_prefix(text), text.size());
    for (size_t cut = 1; cut < text.size(); ++cut) ASSERT_EQ(complete_utf8_prefix(text.substr(0, cut)), 0u);
  }
  EXPECT_EQ(complete_utf8_prefix("a\xFF"), 2u);      // nothing could complete it
  EXPECT_EQ(complete_utf8_prefix("a\xE0\x80"), 3u);  // nor this
  EXPECT_EQ(complete_utf8_prefix("a\xE2\x82"), 1u);
}

TEST(ByteLevel, SpellingIsReversible) {
  std::string bytes(256, '\0');
  std::iota(bytes.begin(), bytes.end(), 0);
  EXPECT_EQ(unspell_bytes(spell_bytes(bytes)), bytes);
  EXPECT_EQ(spell_bytes(" \n"), "ĠĊ");
  EXPECT_FALSE(unspell_bytes("｜"));
}

// The merges one at a time, by the definition: the pair of lowest rank, leftmost first.
std::vector<int32_t> merge_by_definition(const BpeModel& model, std::string_view bytes) {
  std::vector<int32_t> ids;
  for (const char c : bytes) ids.push_back(*model.token_id(spell_bytes({&c, 1})));
  while (true) {
    size_t best_rank = model.merges().size(), best_at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      for (size_t rank = 0; rank < best_rank; ++rank) {
        if (model.merges()[rank].left == ids[i] && model.merges()[rank].right == ids[i + 1]) {
          best_rank = rank;
          best_at = i;
        }
      }
    }
    if (best_rank == model.merges().size()) return ids;
    ids[best_at] = model.merges()[best_rank].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best_at) + 1);
  }
}

TEST(BpeModel, MergesByRankForShortAndLongPieces) {
  std::vector<std::string> tokens;
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    tokens.push_back(spell_bytes({&byte, 1}));
  }
  std::vector<BpeModel::Merge> merges;
  const auto merge = [&](const std::string& left, const std::string& right) {
    const auto id = [&](const std::string& token) {
      return static_cast<int32_t>(std::find(tokens.begin(), tokens.end(), token) - tokens.begin());
    };
    if (id(left + right) == static_cast<int32_t>(tokens.size())) tokens.push_back(left + right);
    merges.push_back({id(left), id(right), id(left + right)});
  };
  for (const auto& [left, right] : std::vector<std::pair<std::string, std::string>>{{"a", "a"},
                                                                                    {"b", "c"},
                                                                                    {"a", "b"},
                                                                                    {"aa", "aa"},
                                                                                    {"ab", "c"},
                                                                                    {"aa", "b"},
                                                                                    {"c", "c"},
                                                                                    {"aaaa", "a"}}) {
    merge(left, right);
  }
  const BpeModel model(tokens, merges, {}, "test");
  const BpeModel::ScratchLease scratch(model);
  PhiloxSequence random(Philox(7, "pieces"));
  for (int round = 0; round < 400; ++round) {
    std::string piece;
    const uint64_t length = 1 + random.below(round % 4 == 0 ? 200 : 20);
    for (uint64_t i = 0; i < length; ++i) piece += "aaabc"[random.below(5)];
    std::vector<int32_t> ids;
    model.encode_piece(piece, piece.data() + piece.size(), *scratch, ids);
    ASSERT_EQ(ids, merge_by_definition(model, piece)) << piece;
  }
}

TEST(BpeModel, OneHugePieceIsNotQuadratic) {
  const Tokenizer tokenizer = golden("llama3");
  for (const std::string unit : {"a", " ", "\n", "ab", "!", "1", "é", "\xFF", " \n"}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    const auto start = std::chrono::steady_clock::now();
    const auto ids = tokenizer.encode(text, false);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    EXPECT_EQ(tokenizer.decode(ids), text);
    EXPECT_LT(seconds, 20.0) << testing::PrintToString(unit);  // takes about a tenth; quadratic takes an hour
  }
}

TEST(Tokenizer, AnyBytesComeBack) {
  for (const char* name : {"gpt2", "llama3", "added"}) {
    const Tokenizer tokenizer = golden(name);
    PhiloxSequence random(Philox(11, name));
    for (int round = 0; round < 300; ++round) {
      std::string bytes;
      const uint64_t length = random.below(80);
      for (uint64_t i = 0; i < length; ++i) bytes += static_cast<char>(random.below(256));
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(bytes, false, false)), bytes);
    }
  }
}

TEST(Tokenizer, StreamNeverSplitsACharacter) {
  const Tokenizer tokenizer = golden("gpt2");
  const std::string text = "Füße 漢字 🙂👩‍👩‍👧 \xF0\x9F broken \xFF end \xE2\x82";
  const std::vector<int32_t> ids = tokenizer.encode(text);
  StreamDecoder stream(tokenizer);
  std::string joined;
  for (const int32_t id : ids) {
    const std::string piece = stream.push(id);
    joined += piece;
    EXPECT_EQ(complete_utf8_prefix(piece), piece.size());
  }
  EXPECT_EQ(stream.finish(), "\xE2\x82");
  EXPECT_EQ(joined + "\xE2\x82", text);
  // Among the pieces of a four-byte character only the last returns something.
  StreamDecoder one(tokenizer);
  const auto emoji = tokenizer.encode("🙂");
  ASSERT_GT(emoji.size(), 1u);
  for (size_t i = 0; i + 1 < emoji.size(); ++i) EXPECT_EQ(one.push(emoji[i]), "");
  EXPECT_EQ(one.push(emoji.back()), "🙂");
  EXPECT_EQ(one.finish(), "");
}

TEST(Tokenizer, ControlTokensOfAUserStayText) {
  const Tokenizer tokenizer = golden("llama3");
  const int32_t end = *tokenizer.token_id("<|end|>");
  const auto parsed = tokenizer.encode("a<|end|>", false, true);
  EXPECT_EQ(parsed.back(), end);
  const auto text = tokenizer.encode("a<|end|>", false, false);
  EXPECT_EQ(std::ranges::count(text, end), 0);
  EXPECT_EQ(tokenizer.decode(text), "a<|end|>");
  EXPECT_EQ(tokenizer.decode(parsed, true), "a");
  StreamDecoder quiet(tokenizer, true);
  EXPECT_EQ(quiet.push(end), "");
}

TEST(Tokenizer, ByIdAndBySpelling) {
  const Tokenizer tokenizer = golden("gpt2");
  const int32_t space_t = *tokenizer.token_id("Ġt");
  EXPECT_EQ(tokenizer.token_bytes(space_t), " t");
  EXPECT_EQ(tokenizer.token_spelling(space_t), "Ġt");
  EXPECT_FALSE(tokenizer.token_id("no such token"));
  EXPECT_FALSE(tokenizer.is_token(-1));
  EXPECT_FALSE(tokenizer.is_token(tokenizer.vocab_size()));
  EXPECT_THROW(tokenizer.token_bytes(tokenizer.vocab_size()), Error);
  EXPECT_THROW(tokenizer.decode(std::vector<int32_t>{-1}), Error);
  EXPECT_THROW(Tokenizer::load("/no/such/tokenizer.json"), Error);
}

TEST(Tokenizer, TextLengthsAreOfTextAlone) {
  const Tokenizer tokenizer = golden("gpt2");
  const std::vector<int32_t> lengths = tokenizer.text_lengths();
  ASSERT_EQ(lengths.size(), static_cast<size_t>(tokenizer.vocab_size()));
  const auto length_of = [&](std::string_view spelling) {
    return lengths[static_cast<size_t>(*tokenizer.token_id(spelling))];
  };
  EXPECT_EQ(length_of("Ġt"), 2);
  EXPECT_EQ(length_of("<|end|>"), 0) << "a control token stands for no text";
  const std::string text =
      "It was a dark and stormy night; the rain fell in torrents. Il \xc3\xa9tait une fois.";
  int64_t sum = 0;
  for (const int32_t id : tokenizer.encode(text)) sum += lengths[static_cast<size_t>(id)];
  EXPECT_EQ(sum, static_cast<int64_t>(text.size()));
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer tokenizer = golden("qwen2");
  const std::string text = random_text(1, 20'000);
  const auto expected = tokenizer.encode(text);
  std::vector<std::vector<int32_t>> results(4);
  ThreadTeam team(4);
  team.run([&](int worker) { results[worker] = tokenizer.encode(text); });
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(Normalizer, StepsDoWhatTheirNamesSay) {
  const auto apply = [](const Json& section, std::string_view text) {
    return Normalizer::from_json(section, "test").apply(text);
  };
  EXPECT_EQ(apply(nullptr, "É"), "É");
  EXPECT_EQ(apply(Json{{"type", "NFC"}}, "e\u0301"), "é");
  EXPECT_EQ(apply(Json{{"type", "NFC"}},
                  "\xFF"
                  "e\u0301\xC3"),
            "\xFFé\xC3");  // broken bytes stay
  EXPECT_EQ(apply(Json{{"type", "NFKC"}}, "ﬁ"), "fi");
  EXPECT_EQ(apply(Json{{"type", "Lowercase"}}, "ÀBİ\xFF"), "àbi\u0307\xFF");
  EXPECT_EQ(apply(Json{{"type", "Prepend"}, {"prepend", "_"}}, "a"), "_a");
  EXPECT_EQ(apply(Json{{"type", "Strip"}, {"strip_left", true}, {"strip_right", false}}, " \u3000a "), "a ");
  EXPECT_EQ(apply(Json{{"type", "Replace"}, {"pattern", {{"String", "aa"}}}, {"content", "b"}}, "aaaxa"),
            "baxa");
  EXPECT_EQ(apply(Json{{"type", "Nmt"}}, "a\x01\u200Bb"), "a b");
  EXPECT_EQ(apply(Json{{"type", "BertNormalizer"}}, "É\t漢\u00ADa"), "e  漢 a");
  EXPECT_EQ(apply(Json{{"type", "ByteLevel"}}, " é"), "ĠÃ©");
  // Not known to the tables of the library that defines the format: stays where it stands.
  EXPECT_EQ(apply(Json{{"type", "NFC"}}, "a\u0345\u07FD"), "a\u0345\u07FD");
  EXPECT_THROW(apply(Json{{"type", "Odd"}}, ""), Error);
  EXPECT_THROW(apply(Json{{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}}, ""), Error);
}

TEST(Regex, KnowsTheSameUnicodeEverywhere) {
  const auto matches = [](const std::string& pattern, std::string_view text) {
    int count = 0;
    Regex(pattern, "test").for_each_match(text, [&](size_t, size_t) { ++count; });
    return count;
  };
  const std::string_view digit = "\U00010D40";  // a digit since Unicode 16
  const std::string_view letter = "\u1C89";     // an upper-case letter since Unicode 16
  const std::string_view separator = "\u180E";  // no white space since Unicode 6.3
  for (const char* pattern : {R"(\p{N})", R"([\p{N}])", R"([]\p{N}])", R"([[:alpha:]\p{N}])", R"([\]\p{Nd}])",
                              R"([^\p{L}])", R"(\P{L})", R"([a]|\p{N}+)", R"((?i:x)|\p{N}{1,3})"}) {
    EXPECT_EQ(matches(pattern, digit), 1) << pattern;
  }
  for (const char* pattern : {R"(\P{N})", R"([^\p{N}])", R"([^\s\p{L}\p{N}]+)", R"(\p{L})", R"(\\p{N})"}) {
    EXPECT_EQ(matches(pattern, digit), 0) << pattern;
  }
  EXPECT_EQ(matches(R"(\p{Lu})", letter), 1);
  EXPECT_EQ(matches(R"(\p{Ll})", letter), 0);
  EXPECT_EQ(matches(R"(\s)", separator), 0);
  EXPECT_EQ(matches(R"(\S)", separator), 1);
}

TEST(Regex, HostilePatternsEndInAnError) {
  const Regex regex(R"((?:a+)+$)", "test");
  EXPECT_THROW(regex.for_each_match(std::string(200, 'a') + "b", [](size_t, size_t) {}), Error);
  EXPECT_THROW(Regex(std::string(1 << 17, 'a'), "test"), Error);
  EXPECT_THROW(Regex(std::string(2000, '('), "test"), Error);
  int matches = 0;  // empty matches do not stall
  Regex("x*|(?=b)", "test").for_each_match("abxxb漢", [&](size_t, size_t) { ++matches; });
  EXPECT_EQ(matches, 1);
}

}  // namespace
}  // namespace vertebra
