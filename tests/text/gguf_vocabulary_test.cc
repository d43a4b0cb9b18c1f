// Vocabularies of published models (GPT-2, StarCoder) from GGUF files against the ids that llama.cpp's
// own tests expect; and what a GGUF vocabulary may not say.
#include "text/gguf_vocabulary.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "base/error.h"
#include "base/file.h"

namespace vertebra {
namespace {

const std::filesystem::path kFolder =
    std::filesystem::path(VERTEBRA_SOURCE_DIR) / "../shared/data/tokenizers";

// Just enough of GGUF's header to get at the tokenizer keys of a trusted file.
class HeaderReader {
 public:
  explicit HeaderReader(std::string bytes) : bytes_(std::move(bytes)) {}
  GgufVocabulary read() {
    EXPECT_EQ(bytes_.substr(0, 4), "GGUF");
    at_ = 16;
    const auto keys = number<uint64_t>();
    for (uint64_t i = 0; i < keys; ++i) {
      const std::string key = text();
      value(key, number<uint32_t>());
    }
    return vocabulary_;
  }

 private:
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string text() {
    const auto size = number<uint64_t>();
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  void value(const std::string& key, uint32_t type) {
    constexpr int kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == 8) {
      const std::string found = text();
      if (key == "tokenizer.ggml.model") vocabulary_.model = found;
      if (key == "tokenizer.ggml.pre") vocabulary_.pre = found;
    } else if (key == "tokenizer.ggml.add_space_prefix") {
      vocabulary_.add_space_prefix = number<uint8_t>() != 0;
    } else if (key == "tokenizer.ggml.unknown_token_id") {
      vocabulary_.unknown_token_id = number<int32_t>();
    } else if (key == "tokenizer.ggml.bos_token_id") {
      vocabulary_.bos_token_id = number<int32_t>();
    } else if (type == 9) {
      const auto inner = number<uint32_t>();
      const auto count = number<uint64_t>();
      for (uint64_t i = 0; i < count; ++i) {
        if (key == "tokenizer.ggml.tokens") {
          vocabulary_.tokens.push_back(text());
        } else if (key == "tokenizer.ggml.merges") {
          vocabulary_.merges.push_back(text());
        } else if (key == "tokenizer.ggml.scores") {
          vocabulary_.scores.push_back(number<float>());
        } else if (key == "tokenizer.ggml.token_type") {
          vocabulary_.token_type.push_back(number<int32_t>());
        } else {
          value("", inner);
        }
      }
    } else {
      at_ += kSizes[type];
    }
  }

  std::string bytes_;
  size_t at_ = 0;
  GgufVocabulary vocabulary_;
};

// VERTEBRA_VOCABULARIES may name another folder of such files (llama.cpp's `models`), which has more of them.
void check_file(const std::string& name) {
  const char* const more = std::getenv("VERTEBRA_VOCABULARIES");
  const auto path = std::filesystem::exists(kFolder / name) || more == nullptr
                        ? kFolder / name
                        : std::filesystem::path(more) / name;
  if (!std::filesystem::exists(path)) {
    std::cerr << "SKIPPED: " << path << " is not here; published vocabularies are not checked\n";
    GTEST_SKIP();
  }
  const Tokenizer tokenizer = tokenizer_from_gguf(HeaderReader(read_file(path)).read(), name);
  std::istringstream lines(read_file(path.string() + ".out"));
  const std::string inputs = read_file(path.string() + ".inp");
  const std::string separator = "\n__ggml_vocab_test__\n";
  int cases = 0;
  for (size_t at = 0, end; (end = inputs.find(separator, at)) != std::string::npos;
       at = end + separator.size()) {
    std::string line;
    std::getline(lines, line);
    std::istringstream numbers(line);
    const std::vector<int32_t> expected{std::istream_iterator<int32_t>(numbers), {}};
    const std::string text = inputs.substr(at, end - at);
    EXPECT_EQ(tokenizer.encode(text, false), expected) << name << ": '" << text << "'";
    // What normalization lost does not come back: BERT's lower case, GPT-NeoX's composed characters.
    if (name.find("bert") == name.npos) {
      EXPECT_EQ(tokenizer.decode(expected), text) << name;
    }
    ++cases;
  }
  EXPECT_GT(cases, 40);
}

class PublishedVocabulary : public testing::TestWithParam<const char*> {};
TEST_P(PublishedVocabulary, IdsAreThePeers) { check_file(std::string("ggml-vocab-") + GetParam() + ".gguf"); }
INSTANTIATE_TEST_SUITE_P(All, PublishedVocabulary,
                         testing::Values("gpt-2", "starcoder", "llama-spm", "phi-3", "bert-bge", "command-r",
                                         "deepseek-coder", "deepseek-llm", "falcon", "gemma-4", "llama-bpe",
                                         "mpt", "qwen2", "qwen35", "refact"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

GgufVocabulary small() {
  GgufVocabulary v;
  v.model = "gpt2";
  v.pre = "llama-bpe";
  v.tokens = {"<s>", "a", "b", "ab", "</s>", "<x>"};
  v.token_type = {3, 1, 1, 1, 3, 4};
  v.merges = {"a b"};
  v.bos_token_id = 0;
  v.eos_token_id = 4;
  return v;
}

TEST(GgufVocabulary, ControlTokensAndTheTokensAroundText) {
  GgufVocabulary v = small();
  EXPECT_EQ(tokenizer_from_gguf(v, "small").encode("ab"), (std::vector<int32_t>{0, 3}));  // as llama-bpe does
  v.add_bos_token = false;
  EXPECT_EQ(tokenizer_from_gguf(v, "small").encode("ab<x>a</s>"), (std::vector<int32_t>{3, 5, 1, 4}));
  v.add_bos_token = true;
  v.add_eos_token = true;
  const Tokenizer tokenizer = tokenizer_from_gguf(v, "small");
  EXPECT_EQ(tokenizer.encode("ab"), (std::vector<int32_t>{0, 3, 4}));
  EXPECT_EQ(tokenizer.encode("ab", false), (std::vector<int32_t>{3}));
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(5));
}

TEST(GgufVocabulary, RefusesWhatItCannotDo) {
  const auto message = [](const GgufVocabulary& v) -> std::string {
    try {
      tokenizer_from_gguf(v, "x.gguf");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  GgufVocabulary v = small();
  v.model = "rwkv";
  EXPECT_NE(message(v).find("'rwkv'"), std::string::npos);
  v.model = "llama";
  EXPECT_NE(message(v).find("scores"), std::string::npos);
  v = small();
  v.pre = "unheard-of";
  EXPECT_NE(message(v).find("unheard-of"), std::string::npos);
  v = small();
  v.token_type.pop_back();
  EXPECT_NE(message(v).find("token_type"), std::string::npos);
  v = small();
  v.merges.push_back("a c");
  EXPECT_NE(message(v).find("'c'"), std::string::npos);
  v = small();
  v.add_bos_token = true;
  v.bos_token_id = 77;
  EXPECT_NE(message(v).find("bos_token_id"), std::string::npos);
}

}  // namespace
}  // namespace vertebra
