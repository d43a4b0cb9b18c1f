// A reader for the four kinds of protobuf fields, then the pieces by type; see sentencepiece_file.h.
#include "text/sentencepiece_file.h"

#include <bit>
#include <unordered_set>

#include "base/error.h"
#include "text/tokenizer_parts.h"
#include "text/unigram_model.h"

namespace vertebra {
namespace {

constexpr size_t kMaxPieceBytes = 1 << 12;

// The fields of one message, in the order of the file.
class MessageReader {
 public:
  MessageReader(std::string_view bytes, size_t place, const std::string& source)
      : bytes_(bytes), place_(place), source_(source) {}

  // False at the end. Otherwise the field's number; its value is in number() or text().
  bool next() {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    field_ = static_cast<int>(key >> 3);
    wire_ = static_cast<int>(key & 7);
    require(key >> 3 > 0 && key >> 3 < (1u << 29),
            "{}: byte {}: a field with the number {}; not a SentencePiece "
            "model?",
            source_, place(), key >> 3);
    number_ = 0;
    text_ = {};
    switch (wire_) {
      case 0:
        number_ = varint();
        break;
      case 1:
        number_ = fixed(8);
        break;
      case 2:
        text_ = take(varint());
        break;
      case 5:
        number_ = fixed(4);
        break;
      default:
        fail(Code::kInvalidArgument, "{}: byte {}: wire type {} of field {}; 0, 1, 2 or 5 was wanted",
             source_, place(), wire_, field_);
    }
    return true;
  }
  int field() const { return field_; }
  size_t place() const { return place_ + at_; }

  uint64_t number() const {
    require(wire_ == 0, "{}: before byte {}: field {} has wire type {}; a number was wanted", source_,
            place(), field_, wire_);
    return number_;
  }
  float real() const {
    require(wire_ == 5, "{}: before byte {}: field {} has wire type {}; a 32-bit float was wanted", source_,
            place(), field_, wire_);
    return std::bit_cast<float>(static_cast<uint32_t>(number_));
  }
  std::string_view text() const {
    require(wire_ == 2, "{}: before byte {}: field {} has wire type {}; bytes were wanted", source_, place(),
            field_, wire_);
    return text_;
  }
  MessageReader message() const { return {text(), place() - text_.size(), source_}; }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      require(at_ < bytes_.size(), "{}: byte {}: cut off inside a number", source_, place());
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail(Code::kInvalidArgument, "{}: byte {}: a number of more than 64 bits", source_, place());
  }
  std::string_view take(uint64_t size) {
    require(size <= bytes_.size() - at_, "{}: byte {}: field {} says it has {} bytes; {} are left", source_,
            place(), field_, size, bytes_.size() - at_);
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  uint64_t fixed(size_t size) {
    const std::string_view bytes = take(size);
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
    return value;
  }

  std::string_view bytes_;
  size_t place_, at_ = 0;
  const std::string& source_;
  int field_ = 0, wire_ = 0;
  uint64_t number_ = 0;
  std::string_view text_;
};

void read_piece(MessageReader reader, SentencePieceModel& model, const std::string& source) {
  std::string piece;
  float score = 0;
  uint64_t type = 1;
  while (reader.next()) {
    if (reader.field() == 1) piece = reader.text();
    if (reader.field() == 2) score = reader.real();
    if (reader.field() == 3) type = reader.number();
  }
  const size_t id = model.pieces.size();
  require(id < kMaxVocabSize, "{}: more than {} pieces", source, kMaxVocabSize);
  require(!piece.empty() && piece.size() <= kMaxPieceBytes,
          "{}: before byte {}: piece {} has {} bytes; 1 to {} were wanted", source, reader.place(), id,
          piece.size(), kMaxPieceBytes);
  require(type >= 1 && type <= 6, "{}: before byte {}: piece {} has the type {}; 1 to 6 was wanted", source,
          reader.place(), id, type);
  model.pieces.push_back(std::move(piece));
  model.scores.push_back(score);
  model.types.push_back(static_cast<SentencePieceModel::Type>(type));
}

void read_trainer(MessageReader reader, SentencePieceModel& model, const std::string& source) {
  while (reader.next()) {
    switch (reader.field()) {
      case 3:
        require(reader.number() >= 1 && reader.number() <= 4,
                "{}: before byte {}: model type {}; 1 (Unigram) to 4 was wanted", source, reader.place(),
                reader.number());
        model.kind = static_cast<SentencePieceModel::Kind>(reader.number());
        break;
      case 24:
        model.normalizer.treat_whitespace_as_suffix = reader.number() != 0;
        break;
      case 35:
        model.byte_fallback = reader.number() != 0;
        break;
      case 41:
        model.bos_id = static_cast<int32_t>(reader.number());
        break;
      case 42:
        model.eos_id = static_cast<int32_t>(reader.number());
        break;
      default:
        break;
    }
  }
}

void read_normalizer(MessageReader reader, SentencePieceModel& model) {
  while (reader.next()) {
    if (reader.field() == 2) model.normalizer.charsmap = reader.text();
    if (reader.field() == 3) model.normalizer.add_dummy_prefix = reader.number() != 0;
    if (reader.field() == 4) model.normalizer.remove_extra_whitespaces = reader.number() != 0;
    if (reader.field() == 5) model.normalizer.escape_whitespaces = reader.number() != 0;
  }
}

using Type = SentencePieceModel::Type;

std::unique_ptr<const TokenModel> make_model(const SentencePieceModel& model, const std::string& source) {
  std::vector<int32_t> user_defined, unreachable;
  std::vector<uint8_t> may_merge(model.pieces.size(), 0);
  std::optional<int32_t> unk;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Type type = model.types[id];
    may_merge[id] = type == Type::kNormal || type == Type::kUnused ? 1 : 0;
    if (type == Type::kUserDefined) {
      user_defined.push_back(static_cast<int32_t>(id));
    } else if (type != Type::kNormal) {
      unreachable.push_back(static_cast<int32_t>(id));
    }
    if (type == Type::kUnknown) unk = static_cast<int32_t>(id);
  }
  if (model.kind == SentencePieceModel::Kind::kBpe) {
    BpeModel::Options options;
    if (unk) options.unk_token = model.pieces[*unk];
    options.fuse_unk = true;
    options.byte_fallback = model.byte_fallback;
    options.merges_as_pairs = true;
    options.user_defined = std::move(user_defined);
    return BpeModel::from_scores(model.pieces, model.scores, may_merge, std::move(options), source);
  }
  require(model.kind == SentencePieceModel::Kind::kUnigram, Code::kUnimplemented,
          "{}: SentencePiece model type {} is not supported; 1 (Unigram) and 2 (BPE) are", source,
          static_cast<int>(model.kind));
  UnigramModel::Options options;
  options.unk_id = unk;
  options.byte_fallback = model.byte_fallback;
  options.sentencepiece_sums = true;
  options.user_defined = std::move(user_defined);
  options.unreachable = std::move(unreachable);
  return std::make_unique<UnigramModel>(model.pieces,
                                        std::vector<double>(model.scores.begin(), model.scores.end()),
                                        std::move(options), source);
}

bool configured_flag(const Json& config, const char* key, bool fallback, const std::string& source) {
  return config.is_object() ? json_get<bool>(config, key, source, fallback) : fallback;
}

std::vector<AddedToken> added_from(const Json& list, const std::string& source) {
  std::vector<AddedToken> added;
  for (const Json& entry : list) {
    AddedToken token;
    token.content = json_get<std::string>(entry, "content", source);
    token.id = checked_token_id(entry["id"], token.content, source);
    token.special = json_get<bool>(entry, "special", source, false);
    token.single_word = json_get<bool>(entry, "single_word", source, false);
    token.lstrip = json_get<bool>(entry, "lstrip", source, false);
    token.rstrip = json_get<bool>(entry, "rstrip", source, false);
    token.normalized = json_get<bool>(entry, "normalized", source, false);
    added.push_back(std::move(token));
  }
  return added;
}

// The post-processor that the tokenizer's class stands for: Llama's kind begins texts, T5's kind ends them.
Json post_processor(const SentencePieceModel& model, const Json& config, const std::string& source) {
  std::string kind;
  if (config.is_object()) kind = json_get<std::string>(config, "tokenizer_class", source, "");
  const bool bpe = model.kind == SentencePieceModel::Kind::kBpe;
  const bool ends = kind.find("T5") != kind.npos;
  const auto token = [&](int32_t id) -> std::vector<SurroundingToken> {
    if (id < 0 || static_cast<size_t>(id) >= model.pieces.size()) return {};
    return {{id, model.pieces[id]}};
  };
  const bool bos = configured_flag(config, "add_bos_token", bpe, source);
  const bool eos = configured_flag(config, "add_eos_token", ends, source);
  return surrounding_tokens(bos ? token(model.bos_id) : std::vector<SurroundingToken>(),
                            eos ? token(model.eos_id) : std::vector<SurroundingToken>());
}

}  // namespace

SentencePieceModel parse_sentencepiece(std::string_view bytes, const std::string& source) {
  SentencePieceModel model;
  MessageReader reader(bytes, 0, source);
  while (reader.next()) {
    if (reader.field() == 1) read_piece(reader.message(), model, source);
    if (reader.field() == 2) read_trainer(reader.message(), model, source);
    if (reader.field() == 3) read_normalizer(reader.message(), model);
  }
  require(!model.pieces.empty(), "{}: no pieces; not a SentencePiece model?", source);
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.types[id] == Type::kUserDefined) model.normalizer.user_defined.push_back(model.pieces[id]);
  }
  return model;
}

Json surrounding_tokens(const std::vector<SurroundingToken>& before,
                        const std::vector<SurroundingToken>& after) {
  if (before.empty() && after.empty()) return nullptr;
  Json pieces = Json::array(), specials = Json::object();
  const auto add = [&](const SurroundingToken& token) {
    pieces.push_back(Json{{"SpecialToken", Json{{"id", token.spelling}, {"type_id", 0}}}});
    specials[token.spelling] = Json{
        {"id", token.spelling}, {"ids", Json::array({token.id})}, {"tokens", Json::array({token.spelling})}};
  };
  for (const SurroundingToken& token : before) add(token);
  pieces.push_back(Json{{"Sequence", Json{{"id", "A"}, {"type_id", 0}}}});
  for (const SurroundingToken& token : after) add(token);
  // A pair of texts is not used here, but readers of the format insist on it.
  Json pair = pieces;
  pair.push_back(Json{{"Sequence", Json{{"id", "B"}, {"type_id", 1}}}});
  return Json{
      {"type", "TemplateProcessing"}, {"single", pieces}, {"pair", pair}, {"special_tokens", specials}};
}

Json added_token_entry(int32_t id, const std::string& content, bool special) {
  return Json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
              {"rstrip", false}, {"normalized", false}, {"special", special}};
}

void add_configured_tokens(const Json& config, Json& known, const std::string& source) {
  if (!config.is_object() || !config.contains("added_tokens_decoder")) return;
  const Json& list = config["added_tokens_decoder"];
  require(list.is_object(), "{}: 'added_tokens_decoder' must be an object of id: token", source);
  std::unordered_set<std::string> contents;
  std::unordered_set<int64_t> ids;
  for (const Json& entry : known) {
    contents.insert(json_get<std::string>(entry, "content", source));
    ids.insert(json_get<int64_t>(entry, "id", source));
  }
  for (const auto& [key, value] : list.items()) {
    require(!key.empty() && key.size() < 9 && key.find_first_not_of("0123456789") == key.npos,
            "{}: 'added_tokens_decoder' has the key '{}'; an id was wanted", source, key);
    const int64_t id = std::stoll(key);
    const auto content = json_get<std::string>(value, "content", source);
    if (!ids.insert(id).second || !contents.insert(content).second) continue;
    Json entry = value;
    entry["id"] = id;
    known.push_back(std::move(entry));
  }
}

Json sentencepiece_normalizer_section(const SentencePieceSpec& spec, bool spaces_in_normalizer) {
  const std::string space(kSpaceSymbol);
  Json steps = Json::array();
  if (!spec.charsmap.empty())
    steps.push_back(Json{{"type", "Precompiled"}, {"precompiled_charsmap", encode_base64(spec.charsmap)}});
  if (spec.remove_extra_whitespaces) {
    steps.push_back(Json{{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}});
    steps.push_back(Json{{"type", "Replace"}, {"pattern", Json{{"Regex", " {2,}"}}}, {"content", " "}});
  }
  if (spaces_in_normalizer) {
    if (spec.add_dummy_prefix) steps.push_back(Json{{"type", "Prepend"}, {"prepend", space}});
    steps.push_back(Json{{"type", "Replace"}, {"pattern", Json{{"String", " "}}}, {"content", space}});
  }
  if (steps.empty()) return nullptr;
  return Json{{"type", "Sequence"}, {"normalizers", steps}};
}

Json sentencepiece_decoder_section(const SentencePieceSpec& spec) {
  // Texts have no spaces in front where such are removed; else the one that encoding put there goes.
  constexpr int kAll = 1024;
  const int strip = spec.remove_extra_whitespaces ? kAll : spec.add_dummy_prefix ? 1 : 0;
  Json steps = Json::array(
      {Json{{"type", "Replace"}, {"pattern", Json{{"String", std::string(kSpaceSymbol)}}}, {"content", " "}},
       Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}});
  if (strip > 0) steps.push_back(Json{{"type", "Strip"}, {"content", " "}, {"start", strip}, {"stop", 0}});
  return Json{{"type", "Sequence"}, {"decoders", steps}};
}

Tokenizer tokenizer_from_sentencepiece(std::string_view bytes, const Json& config,
                                       const std::string& source) {
  const SentencePieceModel model = parse_sentencepiece(bytes, source);
  const bool bpe = model.kind == SentencePieceModel::Kind::kBpe;
  Json added = Json::array();
  std::optional<int32_t> unk;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    if (model.types[id] == Type::kUnknown) unk = static_cast<int32_t>(id);
    if (model.types[id] == Type::kUnknown || model.types[id] == Type::kControl)
      added.push_back(added_token_entry(static_cast<int32_t>(id), model.pieces[id], true));
  }
  add_configured_tokens(config, added, source);
  const SentencePieceSpec& spec = model.normalizer;
  Json json = Json::object();
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = nullptr;
  json["normalizer"] = sentencepiece_normalizer_section(spec, bpe);
  json["pre_tokenizer"] = nullptr;
  if (!bpe) {
    json["pre_tokenizer"] = Json{{"type", "Metaspace"},
                                 {"replacement", std::string(kSpaceSymbol)},
                                 {"prepend_scheme", spec.add_dummy_prefix ? "always" : "never"},
                                 {"split", true}};
  }
  json["post_processor"] = post_processor(model, config, source);
  json["decoder"] = sentencepiece_decoder_section(spec);
  Json& section = json["model"] = Json::object();
  section["type"] = bpe ? "BPE" : "Unigram";
  if (bpe) {
    section["dropout"] = nullptr;
    section["unk_token"] = unk ? Json(model.pieces[*unk]) : Json();
    section["fuse_unk"] = true;
  } else {
    section["unk_id"] = unk ? Json(*unk) : Json();
  }
  section["byte_fallback"] = model.byte_fallback;
  const TokenizerParts::Exact exact{Normalizer::sentencepiece(spec, source)};
  return Tokenizer(TokenizerParts::assemble(std::move(json), make_model(model, source),
                                            added_from(added, source), source, &exact));
}

}  // namespace vertebra
