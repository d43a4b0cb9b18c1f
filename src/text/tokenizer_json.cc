// Reading and writing tokenizer.json: checks every field of a stranger's file before it is used.
#include <algorithm>

#include "base/error.h"
#include "base/log.h"
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

std::vector<AddedToken> read_added(const Json& json, const TokenModel& model, const std::string& source) {
  std::vector<AddedToken> added;
  const Json list = json_get<Json>(json, "added_tokens", source, Json::array());
  require(list.is_array(), "{}: 'added_tokens' must be a list", source);
  for (const Json& entry : list) {
    AddedToken token;
    token.content = json_get<std::string>(entry, "content", source);
    const Json id = json_get<Json>(entry, "id", source);
    token.id = checked_token_id(id, token.content, source);
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

namespace {

// The tables by id.
void fill_tables(TokenizerParts& parts, const std::string& source) {
  const auto& tokens = parts.model->tokens();
  size_t size = tokens.size();
  for (const AddedToken& token : parts.added.tokens()) size = std::max<size_t>(size, token.id + 1);
  require(size > 0, "{}: the vocabulary is empty", source);
  parts.is_token.assign(size, 0);
  parts.is_special.assign(size, 0);
  const bool first_differs = parts.decoder.first_differs();
  if (first_differs) parts.first_bytes.resize(size);
  for (size_t id = 0; id < size; ++id) {
    require(parts.bytes.size() < ~uint32_t{0}, "{}: the tokens have more than 4 GiB of text", source);
    parts.byte_offsets.push_back(static_cast<uint32_t>(parts.bytes.size()));
    const AddedToken* added = parts.added.find_id(static_cast<int32_t>(id));
    std::string_view spelling;
    if (added != nullptr) {
      spelling = parts.added.normalized_content(*added);
    } else if (id < tokens.size()) {
      spelling = tokens[id];
    }
    if (added == nullptr && spelling.empty()) continue;
    parts.is_token[id] = 1;
    parts.is_special[id] = added != nullptr && added->special ? 1 : 0;
    if (added != nullptr && parts.decoder.keeps_added()) {
      parts.bytes += spelling;
      continue;
    }
    Decoder::Text text = parts.decoder.text(spelling, false);
    parts.bytes += text.bytes;
    if (text.space_after) {
      parts.space_after.resize(size);
      parts.space_after[id] = 1;
    }
    if (first_differs) parts.first_bytes[id] = parts.decoder.text(spelling, true).bytes;
  }
  parts.byte_offsets.push_back(static_cast<uint32_t>(parts.bytes.size()));
}

}  // namespace

std::shared_ptr<const TokenizerParts> TokenizerParts::assemble(Json skeleton,
                                                               std::unique_ptr<const TokenModel> model,
                                                               std::vector<AddedToken> added,
                                                               const std::string& source,
                                                               const Exact* exact) {
  auto parts = std::make_shared<TokenizerParts>();
  parts->skeleton = std::move(skeleton);
  const auto section = [&](const char* name) {
    return json_get<Json>(parts->skeleton, name, source, Json());
  };
  parts->model = std::move(model);
  const auto* bpe = dynamic_cast<const BpeModel*>(parts->model.get());
  if (bpe != nullptr && bpe->options().alphabet == BpeModel::Alphabet::kBytes) parts->byte_level = bpe;
  if (exact != nullptr) {
    parts->normalizer = exact->normalizer;
  } else {
    parts->normalizer = Normalizer::from_json(section("normalizer"), source);
    parts->pretokenizer = Pretokenizer::from_json(section("pre_tokenizer"), source);
    if (parts->byte_level == nullptr) parts->pretokenizer.spell_byte_level();
  }
  parts->decoder = Decoder::from_json(section("decoder"), parts->byte_level != nullptr, source);
  parts->added = AddedTokens(std::move(added), parts->normalizer, source);
  fill_tables(*parts, source);
  parts->post_processor =
      PostProcessor::from_json(section("post_processor"), static_cast<int>(parts->is_token.size()), source);
  if (const int missing = parts->model->missing_bytes(); missing > 0) {
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
  const bool byte_level =
      Pretokenizer::from_json(json_get<Json>(json, "pre_tokenizer", source, Json()), source).byte_level();
  std::unique_ptr<const TokenModel> model = model_from_json(*it, byte_level, source);
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
  return TokenizerParts::assemble(std::move(skeleton), std::move(model), std::move(added), source);
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
  parts.model->write(json["model"]);
  return json;
}

}  // namespace vertebra
