// Tokenizers as the metadata of a GGUF file, and back.
#include "engine/gguf_text.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "engine/generation_config.h"

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

std::string byte_token(int byte) { return fmt::format("<0x{:02X}>", byte); }

Json bare(const char* type) {
  return {{"version", "1.0"},         {"truncation", nullptr},
          {"padding", nullptr},       {"added_tokens", Json::array()},
          {"normalizer", nullptr},    {"pre_tokenizer", nullptr},
          {"decoder", nullptr},       {"post_processor", nullptr},
          {"model", {{"type", type}}}};
}
Json added(int id, const char* content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}
Json replace_spaces() { return {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}; }

// As Llama 2 and Gemma have it: merges over characters, bytes for those that are no tokens.
Json sentencepiece_bpe(bool prefix) {
  Json json = bare("BPE");
  json["added_tokens"] = {added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")};
  Json normalizers = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", "\u2581"}});
  normalizers.push_back(replace_spaces());
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  Json decoders = {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
                   {{"type", "ByteFallback"}},
                   {{"type", "Fuse"}}};
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  json["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"pair", Json::array({{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}})},
      {"special_tokens",
       {{"<s>", {{"id", "<s>"}, {"ids", Json::array({1})}, {"tokens", Json::array({"<s>"})}}}}}};
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  int id = 3;
  for (int byte = 0; byte < 256; ++byte) vocab[byte_token(byte)] = id++;
  for (const char* each : {"\u2581", "a", "e", "h", "l", "o", "r", "t", "w", "1", "2", "\u00e9"})
    vocab[each] = id++;
  Json merges = Json::array();
  for (const auto& [left, right] :
       {std::pair{"h", "e"}, std::pair{"l", "l"}, std::pair{"\u2581", "w"}, std::pair{"he", "ll"},
        std::pair{"o", "r"}, std::pair{"\u2581", "\u2581"}, std::pair{"hell", "o"},
        std::pair{"\u2581w", "or"}, std::pair{"l", "o"}}) {
    merges.push_back(Json::array({left, right}));
    const std::string both = std::string(left) + right;
    if (!vocab.contains(both)) vocab[both] = id++;
  }
  json["model"] = {{"type", "BPE"},         {"dropout", nullptr}, {"unk_token", "<unk>"}, {"fuse_unk", true},
                   {"byte_fallback", true}, {"vocab", vocab},     {"merges", merges}};
  return json;
}

Json unigram() {
  Json json = bare("Unigram");
  json["added_tokens"] = {added(0, "<unk>"), added(1, "</s>")};
  json["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}, {"split", true}};
  json["decoder"] = {
      {"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}, {"split", true}};
  Json vocab = Json::array();
  for (const char* each : {"<unk>", "</s>"}) vocab.push_back(Json::array({each, 0.0}));
  double score = -2;
  for (const char* each : {"\u2581", "\u2581hello", "hell", "o", "l", "he", "h", "e", "\u2581wor", "ld", "w",
                           "r", "d", "a", "t", "1", "2", "\u00e9"}) {
    vocab.push_back(Json::array({each, score}));
    score -= 0.37;
  }
  json["model"] = {{"type", "Unigram"}, {"unk_id", 0}, {"byte_fallback", false}, {"vocab", vocab}};
  return json;
}

Json wordpiece() {
  Json json = bare("WordPiece");
  json["added_tokens"] = {added(0, "[UNK]"), added(1, "[CLS]"), added(2, "[SEP]")};
  json["normalizer"] = {{"type", "BertNormalizer"},
                        {"clean_text", true},
                        {"handle_chinese_chars", true},
                        {"strip_accents", nullptr},
                        {"lowercase", true}};
  json["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
  json["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  json["post_processor"] = {
      {"type", "BertProcessing"}, {"sep", Json::array({"[SEP]", 2})}, {"cls", Json::array({"[CLS]", 1})}};
  Json vocab = Json::object();
  int id = 0;
  for (const char* each : {"[UNK]", "[CLS]", "[SEP]", "hello", "hel", "##lo", "wor", "##ld", "w", "##o", "e",
                           "##te", "a", "##a", "1", "##2", ",", "!"})
    vocab[each] = id++;
  json["model"] = {{"type", "WordPiece"},
                   {"unk_token", "[UNK]"},
                   {"continuing_subword_prefix", "##"},
                   {"max_input_chars_per_word", 100},
                   {"vocab", vocab}};
  return json;
}

struct Kind {
  const char* name;
  Json json;
  const char* model;
};
class GgufSentencePiece : public testing::TestWithParam<Kind> {};

TEST_P(GgufSentencePiece, ComesBackTheSame) {
  ModelText text{Tokenizer::from_json(GetParam().json, "test"), {}, "", "<s>", "</s>", {}};
  const GgufMetadata metadata = metadata_of(text);
  EXPECT_EQ(*metadata.string("tokenizer.ggml.model"), GetParam().model);
  const Tokenizer back = tokenizer_of(metadata);
  const std::vector<std::string> texts = {
      "hello world", "hello  lo",        "a", "", "12 h\u00e9llo wor, \u4f60 x", "Hello wor!", "ETE \u00e9te",
      "<s> </s>",    "hellohelloworaa a"};
  for (const std::string& each : texts) {
    const auto wanted = text.tokenizer.encode(each);
    EXPECT_EQ(back.encode(each), wanted) << each;
    EXPECT_EQ(back.decode(wanted), text.tokenizer.decode(wanted)) << each;
  }
  // And as a tokenizer.json once more.
  const Tokenizer again = Tokenizer::from_json(back.to_json(), "test");
  for (const std::string& each : texts) EXPECT_EQ(again.encode(each), text.tokenizer.encode(each)) << each;
}

INSTANTIATE_TEST_SUITE_P(Kinds, GgufSentencePiece,
                         testing::Values(Kind{"prefix", sentencepiece_bpe(true), "llama"},
                                         Kind{"no_prefix", sentencepiece_bpe(false), "llama"},
                                         Kind{"unigram", unigram(), "t5"},
                                         Kind{"wordpiece", wordpiece(), "bert"}),
                         [](const auto& each) { return each.param.name; });

// Readers put words into lower case before they look for pieces.
TEST(GgufTextRefusals, ATokenizerThatDoesMoreIsRefused) {
  Json json = wordpiece();
  json["normalizer"]["lowercase"] = false;
  const ModelText text{Tokenizer::from_json(json, "test"), {}, "", {}, {}, {}};
  try {
    metadata_of(text);
    FAIL() << "was written";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no words"), std::string::npos) << error.what();
  }
}

TEST(GgufGeneration, SamplingGoesBothWays) {
  ModelText text{Tokenizer::load(kGolden / "gpt2.tokenizer.json"), {}, "", {}, {}, {}};
  text.generation = {{"do_sample", true}, {"temperature", 0.6},         {"top_k", 20},
                     {"top_p", 0.95},     {"repetition_penalty", 1.05}, {"transformers_version", "5.0"}};
  GgufMetadata metadata = metadata_of(text);
  EXPECT_FLOAT_EQ(static_cast<float>(*metadata.number("general.sampling.temp")), 0.6f);
  EXPECT_EQ(metadata.integer("general.sampling.top_k"), 20);
  Json wanted = text.generation;
  wanted.erase("transformers_version");
  const Json found = generation_of_gguf(metadata);
  for (const auto& [key, value] : wanted.items()) EXPECT_EQ(found.at(key), value) << key;
  const SamplingDefaults defaults = sampling_defaults(found, "test");
  EXPECT_EQ(defaults.temperature, 0.6);
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_FALSE(defaults.min_p.has_value());
  // Without sampling the rest says nothing.
  EXPECT_EQ(sampling_defaults({{"do_sample", false}, {"temperature", 0.6}}, "test").temperature, 0.0);
  EXPECT_FALSE(sampling_defaults(Json::object(), "test").temperature.has_value());
  EXPECT_TRUE(generation_of_gguf(GgufMetadata()).empty());
  metadata.set("general.sampling.temp", GgufValue::f32(-3));
  try {
    sampling_defaults(generation_of_gguf(metadata), "x.gguf");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("x.gguf: temperature is -3"), std::string::npos) << error.what();
  }
}

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
