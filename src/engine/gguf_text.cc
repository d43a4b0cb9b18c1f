#include "engine/gguf_text.h"

#include "base/error.h"
#include "text/gguf_pretokenizers.h"
#include "text/pretokenizer.h"

namespace vertebra {
namespace {

constexpr int64_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

// Pieces of a text that no two of the known patterns cut alike.
std::vector<std::string> pieces(const Json& pre_tokenizer, const std::string& source) {
  static const std::string kProbe =
      "Hello, world's 1234567 I'LL  don't\n\n  x\t\r\n \u00e9t\u00e9 \u4f60\u597d12 3.14 !!?? a_b "
      "\u0663\u0664 "
      "\U0001F600 foo/bar\n";
  std::vector<std::string> out;
  Pretokenizer::from_json(pre_tokenizer, source).split(kProbe, [&](std::string_view piece) {
    out.emplace_back(piece);
  });
  return out;
}

// The name of the pre-tokenizer: one that cuts text in the same way.
std::string find_pre(const Json& tokenizer, const std::string& source) {
  const bool ignores_merges = tokenizer["model"].value("ignore_merges", false);
  const auto wanted = pieces(tokenizer["pre_tokenizer"], source);
  constexpr const char* kNames[] = {"gpt-2",  "smollm", "llama-bpe",      "qwen2",       "dbrx",  "qwen35",
                                    "gpt-4o", "tekken", "deepseek-coder", "deepseek-v3", "falcon"};
  for (const char* pre : kNames) {
    const GgufPretokenizer& one = find_gguf_pretokenizer(pre, source);
    if (one.ignore_merges == ignores_merges && pieces(gguf_pretokenizer_section(one), source) == wanted)
      return pre;
  }
  fail(Code::kUnimplemented, "{}: the pre-tokenizer {} has no name in GGUF; those of {} have", source,
       json_line(tokenizer["pre_tokenizer"]), fmt::join(kNames, ", "));
}

}  // namespace

void add_gguf_text(const ModelText& text, const std::string& source, GgufMetadata& metadata) {
  const Json json = text.tokenizer.to_json();
  require(json["model"].value("type", "") == "BPE" && json["decoder"].is_object() &&
              json["decoder"].value("type", "") == "ByteLevel",
          Code::kUnimplemented, "{}: only byte-level BPE tokenizers are written to GGUF", source);
  const auto set = [&](const char* key, GgufValue value) {
    metadata.set(std::string("tokenizer.ggml.") + key, std::move(value));
  };
  set("model", GgufValue::string("gpt2"));
  set("pre", GgufValue::string(find_pre(json, source)));
  std::vector<std::string> tokens;
  std::vector<int64_t> types;
  const int64_t rows = metadata.integer(*metadata.string("general.architecture") + ".vocab_size").value_or(0);
  for (int32_t id = 0; id < std::max<int64_t>(rows, text.tokenizer.vocab_size()); ++id) {
    const bool is_token = id < text.tokenizer.vocab_size() && text.tokenizer.is_token(id);
    tokens.push_back(is_token ? text.tokenizer.token_spelling(id) : fmt::format("[PAD{}]", id));
    types.push_back(is_token ? kNormal : kUnused);
  }
  for (const AddedToken& token : text.tokenizer.added_tokens())
    types[static_cast<size_t>(token.id)] = token.special ? kControl : kUserDefined;
  std::vector<std::string> merges;
  for (const Json& merge : json["model"]["merges"])
    merges.push_back(merge.is_array() ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                                      : merge.get<std::string>());
  set("tokens", GgufValue::strings(std::move(tokens)));
  set("token_type", GgufValue::i32s(std::move(types)));
  set("merges", GgufValue::strings(std::move(merges)));
  const auto set_id = [&](const char* key, const std::optional<std::string>& spelling) {
    if (!spelling.has_value()) return;
    if (const auto id = text.tokenizer.token_id(*spelling)) set(key, GgufValue::u32(*id));
  };
  set_id("bos_token_id", text.bos_token);
  if (!text.stop_tokens.empty()) {
    set("eos_token_id", GgufValue::u32(text.stop_tokens[0]));
  } else {
    set_id("eos_token_id", text.eos_token);
  }
  // What the tokenizer puts around an empty text.
  const std::vector<int32_t> around = text.tokenizer.encode("", true);
  const auto is = [&](size_t i, const std::optional<std::string>& spelling) {
    return i < around.size() && spelling.has_value() && text.tokenizer.token_spelling(around[i]) == *spelling;
  };
  set("add_bos_token", GgufValue::boolean(is(0, text.bos_token)));
  set("add_eos_token",
      GgufValue::boolean(!around.empty() && is(around.size() - 1, text.eos_token) && around.size() > 1));
  if (text.chat_template.has_value())
    metadata.set("tokenizer.chat_template", GgufValue::string(*text.chat_template));
}

}  // namespace vertebra
