// TextStream: pieces of text are whole characters, stop strings end the answer wherever tokens meet, and
// nothing that turns out to be part of one is ever let out.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "engine/assistant.h"

namespace vertebra {
namespace {

class TextStreamTest : public ::testing::Test {
 protected:
  static const Tokenizer& tokenizer() {
    static const Tokenizer loaded = Tokenizer::load(std::filesystem::path(VERTEBRA_SOURCE_DIR) /
                                                    "tests/golden/tokenizer/gpt2.tokenizer.json");
    return loaded;
  }
  // One token for every byte: the finest cut there is.
  static std::vector<int32_t> bytes_of(std::string_view text) {
    std::vector<int32_t> out;
    for (const char c : text) {
      int32_t found = -1;
      for (int32_t id = 0; id < tokenizer().vocab_size() && found < 0; ++id)
        if (tokenizer().is_token(id) && tokenizer().token_bytes(id) == std::string_view(&c, 1)) found = id;
      require(found >= 0, "no token is the byte {}", static_cast<int>(c));
      out.push_back(found);
    }
    return out;
  }
  static bool whole_characters(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
      const auto lead = static_cast<unsigned char>(text[i]);
      const size_t length = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 0;
      if (length == 0 || i + length > text.size()) return false;
      for (size_t k = 1; k < length; ++k)
        if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return false;
      i += length;
    }
    return true;
  }
  struct Streamed {
    std::string text, stop_sequence;
    std::vector<std::string> pieces;
  };
  static Streamed stream(const std::vector<int32_t>& ids, const std::vector<std::string>& stop) {
    TextStream text_stream(tokenizer(), stop);
    Streamed out;
    for (const int32_t id : ids) {
      out.pieces.push_back(text_stream.push(id));
      if (text_stream.stopped()) break;
    }
    out.pieces.push_back(text_stream.finish());
    for (const std::string& piece : out.pieces) out.text += piece;
    out.stop_sequence = text_stream.stop_sequence();
    return out;
  }
};

TEST_F(TextStreamTest, PiecesAreWholeCharactersAndTogetherTheText) {
  const std::string text = "Größe: 日本語 🙂👩‍👩‍👧 é\u0301, naïve — done.";
  for (const auto& ids : {bytes_of(text), tokenizer().encode(text)}) {
    const Streamed out = stream(ids, {"never", "🙃"});
    EXPECT_EQ(out.text, text);
    EXPECT_EQ(out.stop_sequence, "");
    for (const std::string& piece : out.pieces) EXPECT_TRUE(whole_characters(piece)) << piece;
  }
}

TEST_F(TextStreamTest, StopStringsEndTheTextWhereverTokensMeet) {
  const std::string text = "One two\n\nUser: three User: four";
  for (const auto& ids : {bytes_of(text), tokenizer().encode(text)}) {
    const Streamed out = stream(ids, {"four", "\n\nUser:", "zzz"});
    EXPECT_EQ(out.text, "One two");
    EXPECT_EQ(out.stop_sequence, "\n\nUser:");
  }
  EXPECT_EQ(stream(bytes_of("aaab"), {"aab"}).text, "a");  // begins inside a failed attempt
  EXPECT_EQ(stream(bytes_of("stop"), {"stop"}).text, "");
  EXPECT_EQ(stream(bytes_of("x日本"), {"日"}).text, "x");  // of bytes that are no characters alone
}

TEST_F(TextStreamTest, WhatOnlyLooksLikeAStopStringComesInTheEnd) {
  EXPECT_EQ(stream(bytes_of("an END, EN"), {"END."}).text, "an END, EN");
  EXPECT_EQ(stream(bytes_of("ababac"), {"ababab", "babb"}).text, "ababac");
}

TEST_F(TextStreamTest, NothingIsHeldBackLongerThanNeeded) {
  TextStream text_stream(tokenizer(), {"<end>"});
  std::string text;
  for (const int32_t id : bytes_of("a<b<en")) text += text_stream.push(id);
  EXPECT_EQ(text, "a<b");
  text = "";
  for (const int32_t id : bytes_of("c")) text += text_stream.push(id);
  EXPECT_EQ(text, "<enc");
}

TEST_F(TextStreamTest, NothingComesAfterAStop) {
  TextStream text_stream(tokenizer(), {"."});
  std::string text;
  for (const int32_t id : bytes_of("a.b")) text += text_stream.push(id);
  EXPECT_EQ(text + text_stream.finish(), "a");
  EXPECT_TRUE(text_stream.stopped());
}

TEST_F(TextStreamTest, ACharacterThatNeverBecameWholeIsNotLost) {
  const std::string broken = std::string("ab") + "\xe6\x97";
  EXPECT_EQ(stream(bytes_of(broken), {"zz"}).text, broken);
}

TEST_F(TextStreamTest, AnEmptyStopStringIsRefused) { EXPECT_THROW(TextStream(tokenizer(), {""}), Error); }

}  // namespace
}  // namespace vertebra
