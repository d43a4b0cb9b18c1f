// Tokenizers as the metadata of a GGUF file, and back.
#include "engine/gguf_text.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"

namespace vertebra {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(VERTEBRA_SOURCE_DIR) / "tests/golden/tokenizer";

GgufMetadata metadata_of(const ModelText& text) {
  GgufMetadata out("test.gguf");
  out.set("general.architecture", GgufValue::string("llama"));
  add_gguf_text(text, "test", out);
  return out;
}

class GgufText : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(GgufText, ATokenizerComesBackTheSame) {
  const auto [name, pre] = GetParam();
  ModelText text{
      Tokenizer::load(kGolden / (std::string(name) + ".tokenizer.json")), "{{ messages }}", "", {}, {}, {}};
  const std::vector<int32_t> around = text.tokenizer.encode("");
  if (!around.empty()) text.bos_token = text.tokenizer.token_spelling(around[0]);
  const GgufMetadata metadata = metadata_of(text);
  EXPECT_EQ(*metadata.string("tokenizer.ggml.pre"), pre);
  EXPECT_EQ(*metadata.string("tokenizer.chat_template"), "{{ messages }}");
  const Tokenizer back = tokenizer_of(metadata);
  EXPECT_EQ(back.vocab_size(), text.tokenizer.vocab_size());
  for (const Json& each : read_json_file(kGolden / "texts.json")) {
    const auto wanted = text.tokenizer.encode(each.get<std::string>());
    EXPECT_EQ(back.encode(each.get<std::string>()), wanted) << each;
    EXPECT_EQ(back.decode(wanted), text.tokenizer.decode(wanted)) << each;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, GgufText,
                         testing::Values(std::pair("gpt2", "gpt-2"), std::pair("llama3", "llama-bpe"),
                                         std::pair("qwen2", "qwen2")),
                         [](const auto& each) { return each.param.first; });

TEST(GgufTextRefusals, ATokenizerThatHasNoNameIsRefused) {
  Json json = read_json_file(kGolden / "gpt2.tokenizer.json");
  json["pre_tokenizer"] = Json{
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "o"}}}, {"behavior", "Isolated"}, {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}}}};
  const ModelText text{Tokenizer::from_json(json, "test"), {}, "", {}, {}, {}};
  try {
    metadata_of(text);
    FAIL() << "was written";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("llama-bpe"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace vertebra
