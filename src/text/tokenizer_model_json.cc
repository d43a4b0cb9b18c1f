// The `model` section of a tokenizer.json: BPE, Unigram, WordPiece and WordLevel. Checks every field of a
// stranger's file before it is used; see tokenizer_parts.h.
#include "base/error.h"
#include "text/tokenizer_parts.h"
#include "text/unigram_model.h"
#include "text/word_model.h"

namespace vertebra {

int32_t checked_token_id(const Json& value, const std::string& token, const std::string& source) {
  require(value.is_number_integer() && value >= 0 && value < kMaxVocabSize,
          "{}: token '{}' has the id {}; a whole number from 0 to {} was wanted", source, token,
          json_line(value), kMaxVocabSize - 1);
  return value.get<int32_t>();
}

namespace {

// Spellings by id, empty where an id has none.
std::vector<std::string> read_vocab(const Json& model, const std::string& source) {
  const auto it = model.find("vocab");
  if (it == model.end()) json_field_missing("vocab", source);
  require(it->is_object(), "{}: 'vocab' must be an object of token: id", source);
  std::vector<std::string> tokens;
  for (const auto& [token, value] : it->get_ref<const Json::object_t&>()) {
    require(!token.empty(), "{}: 'vocab' has an empty token", source);
    const int32_t id = checked_token_id(value, token, source);
    if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(id + 1);
    require(tokens[id].empty(), "{}: id {} belongs to two tokens, '{}' and '{}'", source, id, tokens[id],
            token);
    tokens[id] = token;
  }
  return tokens;
}

struct MergeReader {
  std::unordered_map<std::string_view, int32_t> id_of_token;
  const std::string& prefix;  // of tokens that continue a word
  const std::string& source;

  MergeReader(const std::vector<std::string>& tokens, const std::string& p, const std::string& s)
      : prefix(p), source(s) {
    id_of_token.reserve(tokens.size());
    for (size_t id = 0; id < tokens.size(); ++id) id_of_token.emplace(tokens[id], static_cast<int32_t>(id));
  }
  int32_t id(std::string_view token, size_t rank) const {
    const auto it = token.empty() ? id_of_token.end() : id_of_token.find(token);
    require(it != id_of_token.end(), "{}: merge {} needs the token '{}', which is not in the vocabulary",
            source, rank, token);
    return it->second;
  }
  BpeModel::Merge read(const Json& value, size_t rank) const {
    std::string_view left, right;
    if (value.is_string()) {
      const std::string_view text = value.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      require(space != text.npos && text.find(' ', space + 1) == text.npos,
              "{}: merge {} is '{}'; two tokens with one space between them were wanted", source, rank, text);
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {
      require(value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string(),
              "{}: merge {} is {}; a string or a list of two strings was wanted", source, rank,
              json_line(value));
      left = value[0].get_ref<const std::string&>();
      right = value[1].get_ref<const std::string&>();
    }
    require(right.starts_with(prefix) || prefix.empty(), "{}: merge {}: '{}' does not begin with '{}'",
            source, rank, right, prefix);
    const std::string joined = std::string(left) + std::string(right.substr(prefix.size()));
    return {id(left, rank), id(right, rank), id(joined, rank)};
  }
};

std::unique_ptr<const TokenModel> read_bpe(const Json& model, bool byte_level, const std::string& source) {
  require(json_get<double>(model, "dropout", source, 0.0) == 0.0, Code::kUnimplemented,
          "{}: 'dropout' would make encoding random; remove it from the file", source);
  BpeModel::Options options;
  const auto unk = json_get<std::string>(model, "unk_token", source, "");
  if (!unk.empty()) options.unk_token = unk;
  options.fuse_unk = json_get<bool>(model, "fuse_unk", source, false);
  options.ignore_merges = json_get<bool>(model, "ignore_merges", source, false);
  options.byte_fallback = json_get<bool>(model, "byte_fallback", source, false);
  options.continuing_prefix = json_get<std::string>(model, "continuing_subword_prefix", source, "");
  options.end_of_word_suffix = json_get<std::string>(model, "end_of_word_suffix", source, "");
  const bool plain =
      !options.byte_fallback && options.continuing_prefix.empty() && options.end_of_word_suffix.empty();
  options.alphabet = byte_level && plain ? BpeModel::Alphabet::kBytes : BpeModel::Alphabet::kCharacters;
  std::vector<std::string> tokens = read_vocab(model, source);
  const auto it = model.find("merges");
  if (it == model.end()) json_field_missing("merges", source);
  require(it->is_array(), "{}: 'merges' must be a list", source);
  std::vector<BpeModel::Merge> merges;
  {
    const MergeReader reader(tokens, options.continuing_prefix, source);
    merges.reserve(it->size());
    for (const Json& merge : *it) merges.push_back(reader.read(merge, merges.size()));
  }
  options.merges_as_pairs = !it->empty() && it->front().is_array();
  return std::make_unique<BpeModel>(std::move(tokens), std::move(merges), options, source);
}

std::unique_ptr<const TokenModel> read_unigram(const Json& model, const std::string& source) {
  const auto it = model.find("vocab");
  if (it == model.end()) json_field_missing("vocab", source);
  require(it->is_array() && it->size() <= kMaxVocabSize,
          "{}: 'vocab' of a Unigram model must be a list of at most {} pairs [token, score]", source,
          kMaxVocabSize);
  std::vector<std::string> tokens;
  std::vector<double> scores;
  for (const Json& entry : *it) {
    require(entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_number(),
            "{}: entry {} of 'vocab' is {}; [token, score] was wanted", source, tokens.size(),
            json_line(entry).substr(0, 200));
    tokens.push_back(entry[0].get<std::string>());
    scores.push_back(entry[1].get<double>());
  }
  UnigramModel::Options options;
  const Json unk = json_get<Json>(model, "unk_id", source, Json());
  if (!unk.is_null()) options.unk_id = checked_token_id(unk, "unk_id", source);
  options.byte_fallback = json_get<bool>(model, "byte_fallback", source, false);
  return std::make_unique<UnigramModel>(std::move(tokens), std::move(scores), options, source);
}

}  // namespace

std::unique_ptr<const TokenModel> model_from_json(const Json& model, bool byte_level,
                                                  const std::string& source) {
  // Files of early versions name no type: pairs in a list are Unigram's, merges are BPE's.
  const bool list = model.contains("vocab") && model["vocab"].is_array();
  const auto type = json_get<std::string>(model, "type", source, list ? "Unigram" : "BPE");
  if (type == "BPE") return read_bpe(model, byte_level, source);
  if (type == "Unigram") return read_unigram(model, source);
  if (type == "WordPiece") {
    WordPieceModel::Options options;
    options.unk_token = json_get<std::string>(model, "unk_token", source, options.unk_token);
    options.continuing_prefix =
        json_get<std::string>(model, "continuing_subword_prefix", source, options.continuing_prefix);
    options.max_characters =
        json_get<size_t>(model, "max_input_chars_per_word", source, options.max_characters);
    return std::make_unique<WordPieceModel>(read_vocab(model, source), options, source);
  }
  if (type == "WordLevel") {
    return std::make_unique<WordLevelModel>(
        read_vocab(model, source), json_get<std::string>(model, "unk_token", source, "<unk>"), source);
  }
  fail(Code::kUnimplemented,
       "{}: model type '{}' is not supported; BPE, Unigram, WordPiece and WordLevel are", source, type);
}

}  // namespace vertebra
