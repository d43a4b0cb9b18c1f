// One row per kind; where the patterns of the models' own tokenizer.json are known, those. See
// gguf_pretokenizers.h.
#include "text/gguf_pretokenizers.h"

#include "base/error.h"
#include "text/scanner.h"

namespace vertebra {
namespace {

constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen35 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kGpt4o =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepSeekWords =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr std::string_view kSparkWords =
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+|[\\r\\n]|\\s+(?!\\S)|\\s+";
constexpr std::string_view kKana = "[一-龥\u3040-ゟ゠-ヿ]+";
// As the model has it: letters of the scripts with two cases.
constexpr std::string_view kDeepSeekLetters =
    "\\s?[A-Za-z\u00B5\u00C0-\u00D6\u00D8-\u00F6\u00F8-\u01BA\u01BC-\u01BF\u01C4-\u0293\u0295-\u02AF"
    "\u0370-\u0373\u0376\u0377\u037B-\u037D\u037F\u0386\u0388-\u038A\u038C\u038E-\u03A1\u03A3-\u03F5"
    "\u03F7-\u0481\u048A-\u052F\u0531-\u0556\u10A0-\u10C5\u13A0-\u13F5\u13F8-\u13FD\u1C90-\u1CBA\u1CBD-"
    "\u1CBF\u1D00-\u1D2B\u1D6B-\u1D77\u1D79-\u1D9A\u1E00-\u1F15\u1F18-\u1F1D\u1F20-\u1F45\u1F48-\u1F4D"
    "\u1F50-\u1F57\u1F59\u1F5B\u1F5D\u1F5F-\u1F7D\u1F80-\u1FB4\u1FB6-\u1FBC\u1FBE\u1FC2-\u1FC4\u1FC6-"
    "\u1FCC\u1FD0-\u1FD3\u1FD6-\u1FDB\u1FE0-\u1FEC\u1FF2-\u1FF4\u1FF6-\u1FFC\u2102\u2107\u210A-\u2113"
    "\u2115\u2119-\u211D\u2124\u2126\u2128\u212A-\u212D\u212F-\u2134\u2139\u213C-\u213F\u2145-\u2149"
    "\u214E\u2183\u2184\u2C00-\u2C7B\u2C7E-\u2CE4\u2CEB-\u2CEE\u2CF2\u2CF3\uA640-\uA66D\uA680-\uA69B"
    "\uA722-\uA76F\uA771-\uA787\uA78B-\uA78E\uAB70-\uABBF\uFB00-\uFB06\uFB13-\uFB17\uFF21-\uFF3A\uFF41-"
    "\uFF5A\U00010400-\U0001044F\U000104B0-\U000104D3\U000104D8-\U000104FB\U00010C80-\U00010CB2"
    "\U00010CC0-\U00010CF2\U000118A0-\U000118DF\U0001E900-\U0001E943]+";
constexpr std::string_view kCjkWords = "[一-龥ࠀ-一가-퟿]+";
constexpr std::string_view kBloom = " ?[^(\\s|.,!?…。，、।۔،)]+";
constexpr std::string_view kDigit = "\\p{N}";
constexpr std::string_view kThreeDigits = "\\p{N}{1,3}";
// Groups of three from the right.
constexpr std::string_view kThousands = "\\d{1,3}(?=(?:\\d{3})*\\b)";
constexpr std::string_view kThousandsOfRun = "\\d{1,3}(?=(?:\\d{3})*(?!\\d))";

const std::vector<GgufPretokenizer>& table() {
  static const std::vector<GgufPretokenizer> rows = {
      {.names = "gpt-2 phi-2 jina-es jina-de gigachat jina-v1-en jina-v2-es jina-v2-de jina-v2-code "
                "roberta-bpe a.x-4.0 mellum modern-bert olmo jais trillion granite-docling exaone4",
       .patterns = {kGpt2}},
      {.names = "mpt", .patterns = {kGpt2}},
      {.names = "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
       .patterns = {kDigit, kGpt2}},
      {.names = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
       .patterns = {kLlama3},
       .ignore_merges = true,
       .add_bos = true},
      {.names = "glm4 glm5", .patterns = {kLlama3}, .ignore_merges = true},
      {.names = "dbrx smaug-bpe chatglm-bpe", .patterns = {kLlama3}},
      {.names = "jais-2",
       .patterns =
           {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})"}},
      {.names = "minicpm5",
       .patterns =
           {kThreeDigits,
            R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       .ignore_merges = true},
      {.names = "qwen2", .patterns = {kQwen2}, .nfc = true},
      {.names = "deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
       .patterns = {kQwen2}},
      {.names = "qwen35", .patterns = {kQwen35}},
      {.names = "ufakzeka",
       .patterns = {R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {.names = "laguna", .patterns = {"[^\\n]+|[\\n]+", kQwen2}},
      {.names = "bailingmoe bailingmoe2 llada-moe",
       .patterns =
           {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)"}},
      {.names = "seed-coder",
       .patterns =
           {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {.names = "exaone-moe",
       .patterns =
           {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)"}},
      {.names = "gpt-4o llama4 kanana2 talkie minimax-m2", .patterns = {kGpt4o}},
      {.names = "granite-embed-multi-97m", .patterns = {kGpt4o}, .ignore_merges = true},
      {.names = "tiny_aya cohere2moe", .patterns = {kThousands, kGpt4o}},
      {.names = "tekken", .patterns = {kTekken}, .ignore_merges = true, .add_bos = true},
      {.names = "deepseek-llm",
       .patterns = {"[\\r\\n]", kDeepSeekLetters, "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", "\\s+$", kCjkWords,
                    "\\p{N}+"}},
      {.names = "deepseek-coder", .patterns = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", kCjkWords, kDigit}},
      {.names = "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
       .patterns = {kThreeDigits, kKana, kDeepSeekWords}},
      {.names = "spark2_5", .patterns = {kThreeDigits, kKana, kSparkWords, kDigit}},
      {.names = "youtu",
       .patterns =
           {"[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u3040-ゟ゠-ヿ]+",
            R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"},
       .ignore_merges = true},
      {.names = "falcon", .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|`]+", kGpt2, "[0-9][0-9][0-9]"}},
      {.names = "bloom gpt3-finnish poro-chat", .patterns = {kBloom}},
      {.names = "viking", .patterns = {kBloom, kDigit}},
      {.names = "chameleon",
       .patterns = {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", kDigit,
                    "[\\p{P}!-/:-@\\[-`{-~]", kGpt2},
       .add_bos = true},
      {.names = "kimi-k2",
       .patterns =
           {R"(\p{Han}+|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])*(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?(?:(?!\p{Han})[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])+(?:(?!\p{Han})[\p{Ll}\p{Lm}\p{Lo}\p{M}])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {.names = "superbpe", .patterns = {"\\p{N}+", kThousandsOfRun}},
      {.names = "afmoe",
       .patterns = {kThousandsOfRun,
                    "[一-鿿㐀-䶿豈-\uFAFF\u3040-ゟ゠-ヿ･-ﾟ⼀-\u2FDF\u0E40-\u0E7F\u0E80-\u0EFF\u1780-\u17FF"
                    "\u1000-\u109F\uAA60-\uAA7F\uA9E0-\uA9FF가-\uD7AF\u1100-\u11FF]+",
                    kDeepSeekWords}},
      {.names = "gemma4 granite-embed-multi-311m sarvam-moe", .patterns = {}, .spaces_as_symbols = true},
      {.names = "default", .patterns = {"[\\p{P}\\$\\+<=>\\^~\\|]+", kGpt2, "\\p{N}+", "[0-9][0-9][0-9]"}},
  };
  return rows;
}

bool has_name(std::string_view names, std::string_view wanted) {
  for (size_t at = 0; at < names.size();) {
    const size_t end = std::min(names.find(' ', at), names.size());
    if (names.substr(at, end - at) == wanted) return true;
    at = end + 1;
  }
  return false;
}

Json byte_level(bool use_regex) {
  return Json{
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

}  // namespace

const GgufPretokenizer& find_gguf_pretokenizer(const std::string& pre, const std::string& source) {
  std::string known;
  for (const GgufPretokenizer& row : table()) {
    if (!pre.empty() && has_name(row.names, pre)) return row;
    known += known.empty() ? "" : " ";
    known += row.names;
  }
  fail(Code::kUnimplemented, "{}: tokenizer.ggml.pre is '{}'; known are: {}", source, pre, known);
}

Json gguf_pretokenizer_section(const GgufPretokenizer& pretokenizer) {
  if (pretokenizer.spaces_as_symbols) return nullptr;
  const auto& patterns = pretokenizer.patterns;
  const bool gpt2 = patterns.back() == kGpt2;
  if (gpt2 && patterns.size() == 1) return byte_level(true);
  Json steps = Json::array();
  for (size_t i = 0; i < patterns.size() - (gpt2 ? 1 : 0); ++i) {
    if (patterns[i] == kDigit) {
      steps.push_back(Json{{"type", "Digits"}, {"individual_digits", true}});
    } else {
      steps.push_back(Json{{"type", "Split"},
                           {"pattern", Json{{"Regex", std::string(patterns[i])}}},
                           {"behavior", "Isolated"},
                           {"invert", false}});
    }
  }
  steps.push_back(byte_level(gpt2));
  return Json{{"type", "Sequence"}, {"pretokenizers", steps}};
}

}  // namespace vertebra
