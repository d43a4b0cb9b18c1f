// The BPE trainer: the result does not depend on threads, survives a save, and encodes what it saw.
#include "text/bpe_trainer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/rng.h"

namespace vertebra {
namespace {

// Words of a small invented language, so that pairs repeat.
std::string generated_text(uint64_t seed, int words) {
  const char* syllables[] = {"ba", "ko", "ri", "sun", "tel", "mo", "'s", "99", "é", "漢", "🙂"};
  PhiloxSequence random(Philox(seed, "words"));
  std::string text;
  for (int i = 0; i < words; ++i) {
    const uint64_t length = 1 + random.below(3);
    for (uint64_t s = 0; s < length; ++s) text += syllables[random.below(std::size(syllables))];
    text += random.chance(0.1) ? "\n\n" : " ";
  }
  return text;
}

TEST(BpeTrainer, SameForAnyNumberOfThreads) {
  std::vector<std::string> documents;
  for (int i = 0; i < 8; ++i) documents.push_back(generated_text(i, 20'000));
  for (const char* pattern : {"gpt2", "llama3", "qwen2", "smollm", R"(\p{L}+|\s+|[^\p{L}\s]+)"}) {
    BpeTrainerOptions options;
    options.vocab_size = 512;
    options.pattern = pattern;
    options.special_tokens = {"<|endoftext|>"};
    std::set<std::string> hashes;
    for (const int threads : {1, 2, 3}) {
      ThreadTeam team(threads);
      options.threads = &team;
      hashes.insert(train_bpe_documents(documents, options).hash());
    }
    EXPECT_EQ(hashes.size(), 1u) << pattern;
  }
}

TEST(BpeTrainer, CuttingLargeDocumentsChangesNothing) {
  // Above 256 KiB a document is counted in chunks; the same words in small documents must count alike.
  const std::string text = generated_text(3, 200'000);
  BpeTrainerOptions options;
  options.vocab_size = 400;
  options.pattern = "llama3";
  const Tokenizer whole = train_bpe_documents({text}, options);
  options.pattern =
      "(?:" + whole.to_json()["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"].get<std::string>() +
      ")";
  const Tokenizer uncut = train_bpe_documents({text}, options);
  EXPECT_EQ(whole.to_json()["model"], uncut.to_json()["model"]);
}

TEST(BpeTrainer, SpecialTokensFirstThenBytesThenMerges) {
  BpeTrainerOptions options;
  options.vocab_size = 2 + 256 + 3;
  options.pattern = "gpt2";
  options.special_tokens = {"<|im_start|>", "<|im_end|>"};
  const Tokenizer tokenizer = train_bpe_documents({"hug hug hug pug pug hugs"}, options);
  EXPECT_EQ(tokenizer.vocab_size(), 261);
  EXPECT_EQ(tokenizer.token_id("<|im_start|>"), 0);
  EXPECT_EQ(tokenizer.token_id("<|im_end|>"), 1);
  EXPECT_EQ(tokenizer.token_id("!"), 2);
  EXPECT_TRUE(tokenizer.is_special(1));
  EXPECT_FALSE(tokenizer.is_special(2));
  // "ug" occurs six times; then "hug" and " hug" and so on: ties go to the smaller pair of ids.
  EXPECT_EQ(tokenizer.token_bytes(258), "ug");
  EXPECT_EQ(tokenizer.token_bytes(259), "hug");
}

TEST(BpeTrainer, StopsWhenPairsRunOutOrGetRare) {
  BpeTrainerOptions options;
  options.vocab_size = 1000;
  options.pattern = "gpt2";
  EXPECT_EQ(train_bpe_documents({"abcd"}, options).vocab_size(), 256 + 3);
  options.min_frequency = 2;
  EXPECT_EQ(train_bpe_documents({"abcd"}, options).vocab_size(), 256);
  EXPECT_EQ(train_bpe_documents(std::vector<std::string>{}, options).vocab_size(), 256);
}

TEST(BpeTrainer, RefusesImpossibleOptions) {
  BpeTrainerOptions options;
  options.vocab_size = 256;
  options.special_tokens = {"<s>"};
  EXPECT_THROW(train_bpe_documents({"a"}, options), Error);
  options.vocab_size = 300;
  options.special_tokens = {"<s>", "<s>"};
  EXPECT_THROW(train_bpe_documents({"a"}, options), Error);
  options.special_tokens = {};
  options.pattern = "(unclosed";
  EXPECT_THROW(train_bpe_documents({"a"}, options), Error);
}

TEST(BpeTrainer, SavedAndLoadedIsTheSame) {
  const std::string text = generated_text(1, 5'000);
  BpeTrainerOptions options;
  options.vocab_size = 1024;
  options.pattern = "smollm";
  options.special_tokens = {"<|endoftext|>"};
  const Tokenizer trained = train_bpe_documents({text}, options);
  const auto folder = std::filesystem::temp_directory_path() / "vertebra_bpe_trainer_test";
  std::filesystem::create_directories(folder);
  trained.save(folder);
  const Tokenizer loaded = Tokenizer::load(folder);
  std::filesystem::remove_all(folder);
  EXPECT_EQ(loaded.hash(), trained.hash());
  const std::string probe = generated_text(2, 1'000) + "<|endoftext|>";
  EXPECT_EQ(loaded.encode(probe), trained.encode(probe));
  EXPECT_EQ(loaded.decode(loaded.encode(probe)), probe);
}

}  // namespace
}  // namespace vertebra
