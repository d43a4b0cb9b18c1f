// Strangers' tokenizer.json files: each kind of damage gives an error that names it, and thousands of
// random mutations of good files give an error or a working tokenizer, never a crash or a hang.
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "text/tokenizer.h"
#include "text/tokenizer_parts.h"

namespace vertebra {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(VERTEBRA_SOURCE_DIR) / "tests/golden/tokenizer";

Json small() {
  return parse_json(R"({"added_tokens": [{"id": 3, "content": "<e>", "special": true, "normalized": false}],
    "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "unk_token": "a", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})",
                    "small");
}

// The message of the error that loading gives; empty when it loads.
std::string refusal(const Json& json) {
  try {
    Tokenizer::from_json(json, "f.json");
  } catch (const Error& error) {
    EXPECT_EQ(std::string_view(error.what()).substr(0, 6), "f.json") << error.what();
    return error.what();
  }
  return "";
}

TEST(HostileTokenizer, EachDamageIsNamed) {
  EXPECT_EQ(refusal(small()), "");
  struct Damage {
    const char* pointer;
    const char* value;  // JSON
    const char* named;  // must occur in the message
  };
  const Damage damages[] = {
      {"", "[]", "must be an object"},
      {"/model", "3", "'model'"},
      {"/model/type", "\"Unigram\"", "Unigram"},
      {"/model/type", "\"Odd\"", "Odd"},
      {"/model/vocab", "[]", "'vocab'"},
      {"/model/vocab", "{}", "'a'"},
      {"/model/vocab/b", "0", "two tokens"},
      {"/model/vocab/b", "-1", "-1"},
      {"/model/vocab/b", "4000000000", "4000000000"},
      {"/model/vocab/b", "18446744073709551615", "18446744073709551615"},
      {"/model/vocab/b", "1.5", "1.5"},
      {"/model/vocab/b", "\"1\"", "'b'"},
      {"/model/merges", "{}", "'merges'"},
      {"/model/merges/0", "\"ab\"", "merge 0"},
      {"/model/merges/0", "\"a b c\"", "merge 0"},
      {"/model/merges/0", "\" b\"", "merge 0"},
      {"/model/merges/0", "[\"a\"]", "merge 0"},
      {"/model/merges/0", "[\"a\", 3]", "merge 0"},
      {"/model/merges/0", "\"b a\"", "'ba'"},
      {"/model/merges/0", "\"a zz\"", "'zz'"},
      {"/model/unk_token", "\"zz\"", "'zz'"},
      {"/model/unk_token", "[]", "unk_token"},
      {"/model/dropout", "0.1", "dropout"},
      {"/model/byte_fallback", "1", "byte_fallback"},
      {"/model/continuing_subword_prefix", "\"##\"", "'##'"},
      {"/added_tokens", "{}", "added_tokens"},
      {"/added_tokens/0", "7", "content"},
      {"/added_tokens/0/id", "1", "'b'"},
      {"/added_tokens/0/id", "99999999", "99999999"},
      {"/added_tokens/0/content", "\"a\"", "'a'"},
      {"/added_tokens/0/content", "\"\"", "no content"},
      {"/added_tokens/0/special", "1", "special"},
      {"/normalizer", R"({"type": "Precompiled"})", "precompiled_charsmap"},
      {"/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "?"})", "base64"},
      {"/normalizer", R"({"type": "Precompiled", "precompiled_charsmap": "/////w=="})", "character map"},
      {"/normalizer", "[]", "normalizer"},
      {"/pre_tokenizer", R"({"type": "Metaspace"})", "replacement"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "odd"})", "odd"},
      {"/pre_tokenizer", R"({"type": "UnicodeScripts"})", "UnicodeScripts"},
      {"/pre_tokenizer/add_prefix_space", "\"no\"", "add_prefix_space"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"})", "'(a'"},
      {"/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Odd"})", "Odd"},
      {"/decoder", R"({"type": "CTC"})", "CTC"},
      {"/decoder", R"({"type": "Strip", "content": "", "start": 1, "stop": 0})", "Strip"},
      {"/post_processor", R"({"type": "RobertaProcessing", "cls": ["<s>", 9], "sep": ["</s>", 3]})", "9"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": [], "special_tokens": {}})", "single"},
  };
  for (const Damage& damage : damages) {
    Json json = small();
    json[Json::json_pointer(damage.pointer)] = parse_json(damage.value, "value");
    const std::string message = refusal(json);
    EXPECT_NE(message.find(damage.named), std::string::npos)
        << damage.pointer << " = " << damage.value << " gave: '" << message << "'";
  }
  for (const char* key : {"vocab", "merges"}) {
    Json json = small();
    json["model"].erase(key);
    EXPECT_NE(refusal(json).find(key), std::string::npos);
  }
}

TEST(HostileTokenizer, BrokenJsonIsRefused) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("nonsense"), std::string(5000, '['),
        std::string("{\"model\": {\"vocab\": {\"\xFF\": 0}}}")}) {
    EXPECT_THROW(Tokenizer::from_text(text, "f.json"), Error) << text.substr(0, 40);
  }
  // A vocabulary that names a token twice.
  EXPECT_THROW(Tokenizer::from_text(R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
                                        "model": {"vocab": {"a": 0, "a": 1}, "merges": []}})",
                                    "f.json"),
               Error);
}

TEST(HostileTokenizer, DeepNestingOfPartsIsRefused) {
  for (const auto& [key, list] :
       std::vector<std::pair<std::string, std::string>>{{"normalizer", "normalizers"},
                                                        {"pre_tokenizer", "pretokenizers"},
                                                        {"post_processor", "processors"}}) {
    Json json = small();
    Json section = Json{{"type", "ByteLevel"}, {"add_prefix_space", false}};
    if (key == "normalizer") section = Json{{"type", "NFC"}};
    for (int i = 0; i < 40; ++i) section = Json{{"type", "Sequence"}, {list, Json::array({section})}};
    json[key] = section;
    EXPECT_NE(refusal(json).find("too deep"), std::string::npos) << key;
  }
}

// Each step makes 4,000 bytes of one, of what the step before made.
TEST(HostileTokenizer, PartsThatMultiplyEachOtherAreRefused) {
  Json steps = Json::array();
  for (int i = 0; i < 8; ++i) {
    steps.push_back(
        {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(4000, 'a')}});
  }
  Json json = small();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  try {
    Tokenizer::from_json(json, "f.json").encode("banana");
    FAIL() << "a text of terabytes";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("normalizer makes more than"), std::string::npos)
        << error.what();
  }
  json = small();
  json["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
  try {
    Tokenizer::from_json(json, "f.json");
    FAIL() << "a token of terabytes";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("decoder makes more than"), std::string::npos) << error.what();
  }
  steps = Json::array(
      {{{"type", "Replace"}, {"pattern", {{"String", std::string(5000, 'a')}}}, {"content", ""}}});
  json = small();
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
  EXPECT_NE(refusal(json).find("5000 bytes"), std::string::npos);
}

void use(const Tokenizer& tokenizer) {
  const std::string text = "Hello <|end|> world's 123\n\n <mask> é漢🙂 \xFF\xE2\x82";
  const std::vector<int32_t> ids = tokenizer.encode(text);
  StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const int32_t id : ids) streamed += stream.push(id);
  streamed += stream.finish();
  ASSERT_EQ(streamed, tokenizer.decode(ids));
}

TEST(HostileTokenizer, MutatedBytesNeverCrash) {
  int loaded = 0, refused = 0;
  for (const char* name : {"nfkc", "added", "exotic"}) {
    const std::string good = read_file(kGolden / (std::string(name) + ".tokenizer.json"));
    PhiloxSequence random(Philox(3, name));
    for (int round = 0; round < 400; ++round) {
      std::string bytes = good;
      const uint64_t edits = 1 + random.below(3);
      for (uint64_t e = 0; e < edits; ++e) {
        // The sections are at both ends of the file; the middle is all vocabulary.
        const uint64_t at = random.chance(0.5) ? random.below(1500) : random.below(bytes.size() - 20);
        switch (random.below(4)) {
          case 0:
            bytes[at] = static_cast<char>(random.below(256));
            break;
          case 1:
            bytes.erase(at, 1 + random.below(12));
            break;
          case 2:
            bytes.insert(at, bytes.substr(random.below(bytes.size()), random.below(30)));
            break;
          default:
            bytes[at] = "0123456789{}[]\",:-e"[random.below(19)];
            break;
        }
      }
      try {
        use(Tokenizer::from_text(bytes, "mutated"));
        ++loaded;
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(loaded, 20);
  EXPECT_GT(refused, 100);
}

// Values of the tree exchanged for others: keeps the JSON whole, so that the checks behind the parser
// are what is tested.
void replace_some(Json& json, PhiloxSequence& random, double chance) {
  static const char* values[] = {
      "null",        "true",          "0",          "-1",    "1e300",        "4294967296",  "\"\"", "[]",
      "{}",          "[0]",           "\"a\"",      "\"(\"", "\"Sequence\"", "\"\\u0000\"", "518",  "\".*\"",
      "\"\\\\s+$\"", "\"ByteLevel\"", "\"Removed\""};
  if (random.chance(chance)) {
    json = parse_json(values[random.below(std::size(values))], "value");
    return;
  }
  if (json.is_object() || json.is_array()) {
    for (auto& child : json) replace_some(child, random, json.size() > 50 ? chance / 50 : chance);
  }
}

TEST(HostileTokenizer, MutatedValuesNeverCrash) {
  int loaded = 0, refused = 0;
  for (const char* name : {"nfkc", "added", "exotic", "llama3"}) {
    const Json good = read_json_file(kGolden / (std::string(name) + ".tokenizer.json"));
    PhiloxSequence random(Philox(4, name));
    for (int round = 0; round < 150; ++round) {
      Json json = good;
      for (const char* key :
           {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"}) {
        for (auto& child : json[key]) replace_some(child, random, 0.02);
      }
      try {
        use(Tokenizer::from_json(json, "mutated"));
        ++loaded;
      } catch (const Error&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(loaded, 10);
  EXPECT_GT(refused, 50);
}

}  // namespace
}  // namespace vertebra
