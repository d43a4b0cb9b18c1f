// Ids, text and merges against those of the Hugging Face library, from tests/golden/tokenizer (written by
// tools/golden/tokenizer.py and tokenizer_kinds.py).
#include <gtest/gtest.h>

#include <filesystem>

#include "base/json.h"
#include "text/bpe_trainer.h"
#include "text/tokenizer.h"

namespace vertebra {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(VERTEBRA_SOURCE_DIR) / "tests/golden/tokenizer";

class GoldenTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTokenizer, IdsEqualThePeers) {
  const std::string name = GetParam();
  const Tokenizer tokenizer = Tokenizer::load(kGolden / (name + ".tokenizer.json"));
  const Json texts = read_json_file(kGolden / "texts.json");
  const Json rows = read_json_file(kGolden / (name + ".cases.json"));
  ASSERT_EQ(texts.size(), rows.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    const Json& row = rows[i];
    if (row.is_null()) continue;  // needs a newer Unicode than the system's utf8proc may have
    const auto ids = row["ids"].get<std::vector<int32_t>>();
    const auto plain = row.contains("plain") ? row["plain"].get<std::vector<int32_t>>() : ids;
    const auto user = row.contains("user") ? row["user"].get<std::vector<int32_t>>() : plain;
    EXPECT_EQ(tokenizer.encode(text), ids) << name << " case " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer.encode(text, false), plain) << name << " case " << i << ": " << texts[i];
    if (row.contains("text")) {
      EXPECT_EQ(tokenizer.decode(ids), row["text"].get<std::string>())
          << name << " case " << i << ": " << texts[i];
      continue;
    }
    EXPECT_EQ(tokenizer.encode(text, false, false), user) << name << " case " << i << ": " << texts[i];
  }
}

TEST_P(GoldenTokenizer, WrittenAndReadAgainIsTheSame) {
  const auto path = kGolden / (std::string(GetParam()) + ".tokenizer.json");
  const Tokenizer tokenizer = Tokenizer::load(path);
  const Json written = tokenizer.to_json();
  EXPECT_EQ(nlohmann::json(written), nlohmann::json(read_json_file(path)));
  EXPECT_EQ(Tokenizer::from_json(written, "again").hash(), tokenizer.hash());
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTokenizer,
                         testing::Values("gpt2", "llama3", "qwen2", "added", "exotic", "nfkc", "nfkd",
                                         "llama2", "metaspace_bpe", "gemma", "t5", "albert", "xlmr",
                                         "unigram_bytes", "bert", "bert_cased", "wordpiece_words", "clip",
                                         "word_level", "roberta", "falcon", "bloom", "deepseek", "gpt_oss"),
                         [](const auto& info) { return std::string(info.param); });

TEST(GoldenTrainer, MergesEqualThePeers) {
  const auto texts = read_json_file(kGolden / "texts.json").get<std::vector<std::string>>();
  for (const std::string pattern : {"gpt2", "llama3"}) {
    const Json expected = read_json_file(kGolden / ("trained_" + pattern + ".json"));
    BpeTrainerOptions options;
    options.vocab_size = 700;
    options.pattern = pattern;
    options.special_tokens = {"<|end|>"};
    const Json merges = train_bpe_documents(texts, options).to_json()["model"]["merges"];
    ASSERT_EQ(merges.size(), expected.size()) << pattern;
    for (size_t i = 0; i < merges.size(); ++i) {
      ASSERT_EQ(merges[i], expected[i][0].get<std::string>() + " " + expected[i][1].get<std::string>())
          << pattern << " merge " << i;
    }
  }
}

}  // namespace
}  // namespace vertebra
