// Reading and writing tokenizer.json: checks every field of a stranger's file before it is used.
#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "text/byte_level.h"
#include "text/tokenizer_parts.h"

namespace vertebra {
namespace {

constexpr int kMaxDepth = 64;

// Builds a Json from parser events, appending keys without looking for repeated ones.
class LinearBuilder {
 public:
  explicit LinearBuilder(Json& root) : root_(root) {}
  bool too_deep() const { return too_deep_; }
  const std::string& error() const { return error_; }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(int64_t value) { return add(value); }
  bool number_unsigned(uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }
  bool start_object(size_t) {
    // Growing copies the members (their keys are const): room for all sections of a usual file.
    Json object = Json::object();
    object.get_ref<Json::object_t&>().reserve(16);
    return open(std::move(object));
  }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& value) {
    key_ = std::move(value);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) {
    error_ = error.what();
    return false;
  }

 private:
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      auto& list = parent.get_ref<Json::array_t&>();
      list.push_back(std::move(value));
      return &list.back();
    }
    auto& object = parent.get_ref<Json::object_t&>();
    object.emplace_back(std::move(key_), std::move(value));
    return &object.back().second;
  }
  bool open(Json value) {
    too_deep_ = open_.size() >= kMaxDepth;
    if (too_deep_) return false;
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Json& root_;
  std::vector<Json*> open_;  // a container does not move while a child of it is open
  std::string key_, error_;
  bool too_deep_ = false;
};

int32_t checked_id(const Json& value, const std::string& token, const std::string& source) {
  require(value.is_number_integer() && value >= 0 && value < kMaxVocabSize,
          "{}: token '{}' has the id {}; a whole number from 0 to {} was wanted", source, token,
          json_line(value), kMaxVocabSize - 1);
  return value.get<int32_t>();
}

// Spellings by id, empty where an id has none.
std::vector<std::string> read_vocab(const Json& model, const std::string& source) {
  const auto it = model.find("vocab");
  if (it == model.end()) json_field_missing("vocab", source);
  require(it->is_object(), "{}: 'vocab' must be an object of token: id", source);
  std::vector<std::string> tokens;
  for (const auto& [token, value] : it->get_ref<const Json::object_t&>()) {
    require(!token.empty(), "{}: 'vocab' has an empty token", source);
    const int32_t id = checked_id(value, token, source);
    if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(id + 1);
    require(tokens[id].empty(), "{}: id {} belongs to two tokens, '{}' and '{}'", source, id, tokens[id],
            token);
    tokens[id] = token;
  }
  return tokens;
}

struct MergeReader {
  std::unordered_map<std::string_view, int32_t> id_of_token;
  const std::string& source;

  MergeReader(const std::vector<std::string>& tokens, const std::string& s) : source(s) {
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
    const std::string joined = std::string(left) + std::string(right);
    return {id(left, rank), id(right, rank), id(joined, rank)};
  }
};

void refuse_unsupported(const Json& model, const std::string& source) {
  const auto type = json_get<std::string>(model, "type", source, "BPE");
  require(type == "BPE", Code::kUnimplemented, "{}: model type '{}' is not supported; BPE is", source, type);
  require(!json_get<bool>(model, "byte_fallback", source, false), Code::kUnimplemented,
          "{}: byte_fallback (a SentencePiece-style BPE) is not supported; byte-level BPE is", source);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    require(json_get<std::string>(model, key, source, "").empty(), Code::kUnimplemented,
            "{}: a model with '{}' is not supported", source, key);
  }
  require(json_get<double>(model, "dropout", source, 0.0) == 0.0, Code::kUnimplemented,
          "{}: 'dropout' would make encoding random; remove it from the file", source);
}

std::unique_ptr<const BpeModel> read_model(const Json& model, const std::string& source,
                                           bool* merges_as_pairs) {
  refuse_unsupported(model, source);
  BpeModel::Options options;
  const auto unk = json_get<std::string>(model, "unk_token", source, "");
  if (!unk.empty()) options.unk_token = unk;
  options.fuse_unk = json_get<bool>(model, "fuse_unk", source, false);
  options.ignore_merges = json_get<bool>(model, "ignore_merges", source, false);
  std::vector<std::string> tokens = read_vocab(model, source);
  const auto it = model.find("merges");
  if (it == model.end()) json_field_missing("merges", source);
  require(it->is_array(), "{}: 'merges' must be a list", source);
  std::vector<BpeModel::Merge> merges;
  {
    const MergeReader reader(tokens, source);
    merges.reserve(it->size());
    for (const Json& merge : *it) merges.push_back(reader.read(merge, merges.size()));
  }
  *merges_as_pairs = !it->empty() && it->front().is_array();
  return std::make_unique<BpeModel>(std::move(tokens), std::move(merges), options, source);
}

std::vector<AddedToken> read_added(const Json& json, const BpeModel& model, const std::string& source) {
  std::vector<AddedToken> added;
  const Json list = json_get<Json>(json, "added_tokens", source, Json::array());
  require(list.is_array(), "{}: 'added_tokens' must be a list", source);
  for (const Json& entry : list) {
    AddedToken token;
    token.content = json_get<std::string>(entry, "content", source);
    const Json id = json_get<Json>(entry, "id", source);
    token.id = checked_id(id, token.content, source);
    token.special = json_get<bool>(entry, "special", source, false);
    token.single_word = json_get<bool>(entry, "single_word", source, false);
    token.lstrip = json_get<bool>(entry, "lstrip", source, false);
    token.rstrip = json_get<bool>(entry, "rstrip", source, false);
    token.normalized = json_get<bool>(entry, "normalized", source, !token.special);
    const auto in_model = model.token_id(token.content);
    require(!in_model || *in_model == token.id,
            "{}: added token '{}' has the id {}, but {} in the vocabulary", source, token.content, token.id,
            in_model.value_or(0));
    const bool taken =
        static_cast<size_t>(token.id) < model.tokens().size() && !model.tokens()[token.id].empty();
    require(in_model || !taken, "{}: added token '{}' has the id {}, which belongs to '{}'", source,
            token.content, token.id, taken ? model.tokens()[token.id] : "");
    added.push_back(std::move(token));
  }
  return added;
}

void check_decoder(const Json& skeleton, const std::string& source) {
  const Json decoder = json_get<Json>(skeleton, "decoder", source, Json());
  if (decoder.is_null()) return;
  const auto type = json_get<std::string>(decoder, "type", source + ": decoder");
  require(type == "ByteLevel", Code::kUnimplemented, "{}: decoder type '{}' is not supported; ByteLevel is",
          source, type);
}

}  // namespace

Json parse_tokenizer_json(std::string_view text, std::string_view source) {
  Json root;
  LinearBuilder builder(root);
  const bool ok = Json::sax_parse(text.begin(), text.end(), &builder);
  require(!builder.too_deep(), "{}: JSON nested deeper than {} levels", source, kMaxDepth);
  if (!ok) {
    std::string_view reason = builder.error();
    if (const auto end = reason.find("] "); end != reason.npos) reason.remove_prefix(end + 2);
    fail(Code::kInvalidArgument, "{}: not valid JSON: {}", source, reason);
  }
  return root;
}

std::shared_ptr<const TokenizerParts> TokenizerParts::assemble(Json skeleton,
                                                               std::unique_ptr<const BpeModel> model,
                                                               std::vector<AddedToken> added,
                                                               bool merges_as_pairs,
                                                               const std::string& source) {
  auto parts = std::make_shared<TokenizerParts>();
  parts->skeleton = std::move(skeleton);
  parts->merges_as_pairs = merges_as_pairs;
  parts->normalizer =
      Normalizer::from_json(json_get<Json>(parts->skeleton, "normalizer", source, Json()), source);
  parts->pretokenizer =
      Pretokenizer::from_json(json_get<Json>(parts->skeleton, "pre_tokenizer", source, Json()), source);
  check_decoder(parts->skeleton, source);
  parts->model = std::move(model);
  parts->added = AddedTokens(std::move(added), parts->normalizer, source);

  const auto& tokens = parts->model->tokens();
  size_t size = tokens.size();
  for (const AddedToken& token : parts->added.tokens()) size = std::max<size_t>(size, token.id + 1);
  require(size > 0, "{}: the vocabulary is empty", source);
  parts->is_token.assign(size, 0);
  parts->is_special.assign(size, 0);
  for (size_t id = 0; id < size; ++id) {
    parts->byte_offsets.push_back(static_cast<uint32_t>(parts->bytes.size()));
    if (const AddedToken* token = parts->added.find_id(static_cast<int32_t>(id))) {
      parts->is_token[id] = 1;
      parts->is_special[id] = token->special ? 1 : 0;
      parts->bytes += token->content;
    } else if (id < tokens.size() && !tokens[id].empty()) {
      parts->is_token[id] = 1;
      parts->bytes += unspell_bytes(tokens[id]).value_or(tokens[id]);
    }
  }
  parts->byte_offsets.push_back(static_cast<uint32_t>(parts->bytes.size()));
  parts->post_processor = PostProcessor::from_json(
      json_get<Json>(parts->skeleton, "post_processor", source, Json()), static_cast<int>(size), source);
  if (const int missing = parts->model->missing_bytes(); missing > 0 && !parts->model->options().unk_token) {
    log_warning("{}: {} of the 256 bytes have no token; text with them loses them when encoded", source,
                missing);
  }
  return parts;
}

std::shared_ptr<const TokenizerParts> parts_from_json(const Json& json, const std::string& source) {
  require(json.is_object(), "{}: a tokenizer.json must be an object", source);
  const auto it = json.find("model");
  if (it == json.end()) json_field_missing("model", source);
  require(it->is_object(), "{}: 'model' must be an object", source);
  bool merges_as_pairs = false;
  std::unique_ptr<const BpeModel> model = read_model(*it, source, &merges_as_pairs);
  std::vector<AddedToken> added = read_added(json, *model, source);

  Json skeleton = Json::object();
  for (const auto& [key, value] : json.get_ref<const Json::object_t&>()) {
    if (key == "added_tokens") {
      skeleton[key] = nullptr;
    } else if (key == "model") {
      Json& section = skeleton[key] = Json::object();
      for (const auto& [name, field] : value.get_ref<const Json::object_t&>()) {
        section[name] = name == "vocab" || name == "merges" ? Json() : field;
      }
    } else {
      skeleton[key] = value;
    }
  }
  return TokenizerParts::assemble(std::move(skeleton), std::move(model), std::move(added), merges_as_pairs,
                                  source);
}

Json parts_to_json(const TokenizerParts& parts) {
  Json json = parts.skeleton;
  Json& added = json["added_tokens"] = Json::array();
  std::vector<AddedToken> sorted = parts.added.tokens();
  std::ranges::sort(sorted, {}, &AddedToken::id);
  for (const AddedToken& token : sorted) {
    added.push_back(Json{{"id", token.id},
                         {"content", token.content},
                         {"single_word", token.single_word},
                         {"lstrip", token.lstrip},
                         {"rstrip", token.rstrip},
                         {"normalized", token.normalized},
                         {"special", token.special}});
  }
  const auto& tokens = parts.model->tokens();
  Json& vocab = json["model"]["vocab"] = Json::object();
  auto& entries = vocab.get_ref<Json::object_t&>();
  entries.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].empty()) entries.emplace_back(tokens[id], id);
  }
  Json& merges = json["model"]["merges"] = Json::array();
  for (const BpeModel::Merge& merge : parts.model->merges()) {
    if (parts.merges_as_pairs) {
      merges.push_back(Json::array({tokens[merge.left], tokens[merge.right]}));
    } else {
      merges.push_back(tokens[merge.left] + " " + tokens[merge.right]);
    }
  }
  return json;
}

}  // namespace vertebra
