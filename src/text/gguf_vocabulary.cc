// Writes the tokenizer.json that the GGUF vocabulary amounts to and reads that: one path checks both. Scores
// have no place there, so SentencePiece models are made directly. See gguf_vocabulary.h.
#include "text/gguf_vocabulary.h"

#include "base/error.h"
#include "base/log.h"
#include "text/gguf_pretokenizers.h"
#include "text/sentencepiece_file.h"
#include "text/tokenizer_parts.h"
#include "text/unigram_model.h"

namespace vertebra {
namespace {

constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6;

int32_t type_of(const GgufVocabulary& v, size_t id) {
  return v.token_type.empty() ? kNormal : v.token_type[id];
}

bool is_id(const GgufVocabulary& v, const std::optional<int32_t>& id) {
  return id.has_value() && *id >= 0 && static_cast<size_t>(*id) < v.tokens.size();
}

// `wanted`: the token stands around every text, so it must be there.
std::vector<SurroundingToken> surrounding(const GgufVocabulary& v, bool wanted,
                                          const std::optional<int32_t>& id, const char* key,
                                          const std::string& source) {
  if (!wanted) return {};
  require(is_id(v, id), "{}: the file asks for a token around each text, but tokenizer.ggml.{} is {}", source,
          key, id.has_value() ? std::to_string(*id) : "missing");
  return {{*id, v.tokens[*id]}};
}

Json post_processor(const GgufVocabulary& v, bool add_bos, bool add_eos, const std::string& source) {
  return surrounding_tokens(
      surrounding(v, v.add_bos_token.value_or(add_bos), v.bos_token_id, "bos_token_id", source),
      surrounding(v, v.add_eos_token.value_or(add_eos), v.eos_token_id, "eos_token_id", source));
}

// The parts that every kind has; `normalizer` to `model` follow.
Json skeleton() {
  Json json = Json::object();
  for (const char* key : {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                          "post_processor", "decoder", "model"})
    json[key] = nullptr;
  json["version"] = "1.0";
  return json;
}

bool is_added(int32_t type) { return type == kControl || type == kUserDefined || type == kUnknown; }

std::vector<AddedToken> added_tokens(const GgufVocabulary& v) {
  std::vector<AddedToken> added;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const int32_t type = type_of(v, id);
    if (!is_added(type) || v.tokens[id].empty()) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = v.tokens[id];
    token.special = type != kUserDefined;
    token.normalized = false;
    added.push_back(std::move(token));
  }
  return added;
}

Json added_list(const GgufVocabulary& v) {
  Json list = Json::array();
  for (const AddedToken& token : added_tokens(v))
    list.push_back(added_token_entry(token.id, token.content, token.special));
  return list;
}

Json vocabulary_object(const std::vector<std::string>& tokens) {
  Json vocab = Json::object();
  auto& entries = vocab.get_ref<Json::object_t&>();
  entries.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) entries.emplace_back(tokens[id], id);
  return vocab;
}

Tokenizer from_merges(const GgufVocabulary& v, const std::string& source) {
  std::string pre_name = v.model == "gemma4" ? "gemma4" : v.pre;
  if (pre_name.empty()) {
    log_warning(
        "{}: no tokenizer.ggml.pre; text is cut by the pattern 'default', which may not be the model's",
        source);
    pre_name = "default";
  }
  const GgufPretokenizer& pre = find_gguf_pretokenizer(pre_name, source);
  require(!v.merges.empty() || v.tokens.size() < 2, "{}: tokenizer.ggml.merges is missing", source);
  Json merges = Json::array();
  for (const std::string& merge : v.merges) {
    // The left half may itself be a space symbol of one byte.
    const size_t space = merge.find(' ', 1);
    require(space != merge.npos && space + 1 < merge.size(),
            "{}: merge {} is '{}'; two tokens with a space between them were wanted", source, merges.size(),
            merge);
    merges.push_back(Json::array({merge.substr(0, space), merge.substr(space + 1)}));
  }
  Json json = skeleton();
  json["added_tokens"] = added_list(v);
  Json& model = json["model"] = Json::object();
  model["type"] = "BPE";
  if (pre.spaces_as_symbols) {
    json["normalizer"] =
        Json{{"type", "Replace"}, {"pattern", Json{{"String", " "}}}, {"content", std::string(kSpaceSymbol)}};
    json["decoder"] = sentencepiece_decoder_section(SentencePieceSpec{.charsmap = "",
                                                                      .add_dummy_prefix = false,
                                                                      .remove_extra_whitespaces = false,
                                                                      .escape_whitespaces = true,
                                                                      .treat_whitespace_as_suffix = false,
                                                                      .user_defined = {}});
    if (is_id(v, v.unknown_token_id)) model["unk_token"] = v.tokens[*v.unknown_token_id];
    model["fuse_unk"] = true;
    model["byte_fallback"] = true;
  } else {
    if (pre.nfc) json["normalizer"] = Json{{"type", "NFC"}};
    json["pre_tokenizer"] = gguf_pretokenizer_section(pre);
    json["decoder"] =
        Json{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  }
  const bool add_bos = pre.add_bos && is_id(v, v.bos_token_id);
  json["post_processor"] = post_processor(v, add_bos, false, source);
  model["ignore_merges"] = pre.ignore_merges;
  model["vocab"] = vocabulary_object(v.tokens);
  model["merges"] = std::move(merges);
  return Tokenizer::from_json(json, source);
}

void require_scores(const GgufVocabulary& v, const std::string& source) {
  require(v.scores.size() == v.tokens.size(), "{}: tokenizer.ggml.scores has {} entries for {} tokens",
          source, v.scores.size(), v.tokens.size());
}

bool has_byte_tokens(const GgufVocabulary& v) {
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (type_of(v, id) == kByte) return true;
  }
  return false;
}

// The token for what has none: named by the key, else by its type.
std::optional<int32_t> unknown_id(const GgufVocabulary& v) {
  if (is_id(v, v.unknown_token_id)) return v.unknown_token_id;
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    if (type_of(v, id) == kUnknown) return static_cast<int32_t>(id);
  }
  return std::nullopt;
}

Tokenizer from_scores(const GgufVocabulary& v, const std::string& source) {
  require_scores(v, source);
  const bool prefix = v.add_space_prefix.value_or(true);
  std::vector<uint8_t> may_merge(v.tokens.size());
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const int32_t type = type_of(v, id);
    may_merge[id] = is_added(type) || type == kByte ? 0 : 1;
  }
  BpeModel::Options options;
  const auto unk = unknown_id(v);
  if (unk && !v.tokens[*unk].empty()) options.unk_token = v.tokens[*unk];
  options.fuse_unk = true;
  options.byte_fallback = has_byte_tokens(v);
  options.merges_as_pairs = true;

  Json json = skeleton();
  const SentencePieceSpec spec{.charsmap = "",
                               .add_dummy_prefix = prefix,
                               .remove_extra_whitespaces = false,
                               .escape_whitespaces = true,
                               .treat_whitespace_as_suffix = false,
                               .user_defined = {}};
  json["normalizer"] = sentencepiece_normalizer_section(spec, true);
  json["decoder"] = sentencepiece_decoder_section(spec);
  json["post_processor"] = post_processor(v, is_id(v, v.bos_token_id), false, source);
  json["model"] = Json{{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", options.unk_token ? Json(*options.unk_token) : Json()},
                       {"fuse_unk", true},
                       {"byte_fallback", options.byte_fallback}};
  auto model = BpeModel::from_scores(v.tokens, v.scores, may_merge, std::move(options), source);
  return Tokenizer(TokenizerParts::assemble(std::move(json), std::move(model), added_tokens(v), source));
}

Tokenizer from_unigram(const GgufVocabulary& v, const std::string& source) {
  require_scores(v, source);
  UnigramModel::Options options;
  options.unk_id = unknown_id(v);
  options.byte_fallback = has_byte_tokens(v);
  for (size_t id = 0; id < v.tokens.size(); ++id) {
    const int32_t type = type_of(v, id);
    if (type == kControl || type == kUnknown || type == kByte)
      options.unreachable.push_back(static_cast<int32_t>(id));
  }
  SentencePieceSpec spec;
  spec.charsmap = v.precompiled_charsmap;
  spec.add_dummy_prefix = v.add_space_prefix.value_or(true);
  spec.remove_extra_whitespaces = v.remove_extra_whitespaces.value_or(false);
  Json json = skeleton();
  json["normalizer"] = sentencepiece_normalizer_section(spec, false);
  json["pre_tokenizer"] = Json{{"type", "Metaspace"},
                               {"replacement", std::string(kSpaceSymbol)},
                               {"prepend_scheme", spec.add_dummy_prefix ? "always" : "never"},
                               {"split", true}};
  json["decoder"] = sentencepiece_decoder_section(spec);
  json["post_processor"] = post_processor(v, false, is_id(v, v.eos_token_id), source);
  json["model"] = Json{{"type", "Unigram"},
                       {"unk_id", options.unk_id ? Json(*options.unk_id) : Json()},
                       {"byte_fallback", options.byte_fallback}};
  auto model = std::make_unique<UnigramModel>(v.tokens, std::vector<double>(v.scores.begin(), v.scores.end()),
                                              std::move(options), source);
  const TokenizerParts::Exact exact{Normalizer::sentencepiece(spec, source)};
  return Tokenizer(
      TokenizerParts::assemble(std::move(json), std::move(model), added_tokens(v), source, &exact));
}

// GGUF spells what begins a word with a space symbol before it and what continues one without; BERT's own
// files mark what continues.
std::vector<std::string> wordpiece_spellings(const GgufVocabulary& v) {
  std::vector<std::string> tokens = v.tokens;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (is_added(type_of(v, id)) || tokens[id].empty()) continue;
    const bool bracketed = tokens[id].size() > 2 && tokens[id].front() == '[' && tokens[id].back() == ']';
    if (tokens[id].starts_with(kSpaceSymbol) && tokens[id].size() > kSpaceSymbol.size()) {
      tokens[id].erase(0, kSpaceSymbol.size());
    } else if (!bracketed) {
      tokens[id].insert(0, "##");
    }
  }
  return tokens;
}

Tokenizer from_wordpiece(const GgufVocabulary& v, const std::string& source) {
  constexpr int32_t kBertUnknown = 100, kBertBegin = 101, kBertSeparator = 102;
  const std::optional<int32_t> unk = v.unknown_token_id.value_or(kBertUnknown);
  require(is_id(v, unk), "{}: tokenizer.ggml.unknown_token_id is {}; an id of the {} tokens was wanted",
          source, *unk, v.tokens.size());
  Json json = skeleton();
  json["added_tokens"] = added_list(v);
  json["normalizer"] = Json{{"type", "BertNormalizer"},
                            {"clean_text", true},
                            {"handle_chinese_chars", true},
                            {"strip_accents", nullptr},
                            {"lowercase", true}};
  json["pre_tokenizer"] = Json{{"type", "BertPreTokenizer"}};
  json["decoder"] = Json{{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  const std::optional<int32_t> bos = v.bos_token_id.value_or(kBertBegin);
  const std::optional<int32_t> sep = v.seperator_token_id.value_or(kBertSeparator);
  json["post_processor"] =
      surrounding_tokens(surrounding(v, v.add_bos_token.value_or(true), bos, "bos_token_id", source),
                         surrounding(v, v.add_sep_token.value_or(true), sep, "seperator_token_id", source));
  const std::vector<std::string> tokens = wordpiece_spellings(v);
  json["model"] = Json{{"type", "WordPiece"},
                       {"unk_token", tokens[*unk]},
                       {"continuing_subword_prefix", "##"},
                       {"max_input_chars_per_word", 100}};
  json["model"]["vocab"] = vocabulary_object(tokens);
  return Tokenizer::from_json(json, source);
}

}  // namespace

Tokenizer tokenizer_from_gguf(const GgufVocabulary& v, const std::string& source) {
  require(!v.tokens.empty() && v.tokens.size() <= kMaxVocabSize,
          "{}: tokenizer.ggml.tokens has {} entries; 1 to {} were wanted", source, v.tokens.size(),
          kMaxVocabSize);
  require(v.token_type.empty() || v.token_type.size() == v.tokens.size(),
          "{}: tokenizer.ggml.token_type has {} entries for {} tokens", source, v.token_type.size(),
          v.tokens.size());
  if (v.model == "gpt2" || v.model == "gemma4") return from_merges(v, source);
  if (v.model == "llama") return from_scores(v, source);
  if (v.model == "t5") return from_unigram(v, source);
  if (v.model == "bert") return from_wordpiece(v, source);
  fail(Code::kUnimplemented,
       "{}: tokenizer.ggml.model is '{}'; gpt2, llama, t5, bert and gemma4 are supported", source, v.model);
}

}  // namespace vertebra
