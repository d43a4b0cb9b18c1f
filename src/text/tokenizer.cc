// Encoding and decoding over the assembled parts; see tokenizer.h.
#include "text/tokenizer.h"

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "text/sentencepiece_file.h"
#include "text/tokenizer_parts.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

// Longest text of one encode call: positions inside it are 32-bit.
constexpr size_t kMaxTextBytes = (size_t{1} << 31) - 64;

// `at_start`: the text is the beginning of what is encoded.
void encode_ordinary(const TokenizerParts& parts, std::string_view text, bool at_start,
                     TokenModel::Scratch& scratch, std::vector<int32_t>& ids) {
  const BpeModel* const byte_level = parts.byte_level;
  if (const auto kind = parts.pretokenizer.only_scanner(); kind && byte_level != nullptr) {
    const ScanFunction scan = scanner(*kind);
    const char* const end = text.data() + text.size();
    for (const char* p = text.data(); p < end;) {
      const char* next = scan(p, end);
      byte_level->encode_piece({p, static_cast<size_t>(next - p)}, end, scratch, ids);
      p = next;
    }
    return;
  }
  const TokenModel& model = *parts.model;
  parts.pretokenizer.split(
      text,
      [&](std::string_view piece) { model.encode_piece(piece, piece.data() + piece.size(), scratch, ids); },
      at_start);
}

// Where decoding stands: what the tokens so far leave to do.
struct DecodeState {
  bool first = true;
  bool space_due = false;
  int strips_left = 0;

  explicit DecodeState(const TokenizerParts& parts) : strips_left(parts.decoder.strip().count) {}
};

void append_decoded(const Tokenizer& tokenizer, int32_t id, DecodeState& state, std::string& out) {
  const TokenizerParts& parts = tokenizer.parts();
  std::string_view bytes = tokenizer.token_bytes(id);
  if (state.first && !parts.first_bytes.empty()) bytes = parts.first_bytes[static_cast<size_t>(id)];
  state.first = false;
  if (state.space_due) out += ' ';
  state.space_due = !parts.space_after.empty() && parts.space_after[static_cast<size_t>(id)] != 0;
  const std::string& content = parts.decoder.strip().content;
  while (state.strips_left > 0 && !bytes.empty()) {
    if (bytes.starts_with(content)) {
      bytes.remove_prefix(content.size());
      --state.strips_left;
    } else {
      state.strips_left = 0;
    }
  }
  out += bytes;
}

std::string file_text(const Tokenizer& tokenizer) {
  return tokenizer.to_json().dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  const bool is_folder = std::filesystem::is_directory(path);
  const std::filesystem::path folder = is_folder ? path : path.parent_path();
  std::filesystem::path file = path;
  if (is_folder) {
    file = path / "tokenizer.json";
    if (!std::filesystem::exists(file) && std::filesystem::exists(path / "tokenizer.model"))
      file = path / "tokenizer.model";
  }
  const std::string bytes = read_file(file);
  const auto configuration = folder / "tokenizer_config.json";
  const Json config = std::filesystem::exists(configuration) ? read_json_file(configuration) : Json();
  const size_t first = bytes.find_first_not_of(" \t\r\n");
  if (first == bytes.npos || bytes[first] == '{') {
    Json json = parse_tokenizer_json(bytes, file.string());
    if (config.is_object() && json.is_object()) {
      if (!json.contains("added_tokens") || json["added_tokens"].is_null())
        json["added_tokens"] = Json::array();
      if (json["added_tokens"].is_array())
        add_configured_tokens(config, json["added_tokens"], configuration.string());
    }
    return from_json(json, file.string());
  }
  return tokenizer_from_sentencepiece(bytes, config, file.string());
}

Tokenizer Tokenizer::from_text(std::string_view json_text, std::string_view source) {
  return from_json(parse_tokenizer_json(json_text, source), source);
}

Tokenizer Tokenizer::from_json(const Json& json, std::string_view source) {
  return Tokenizer(parts_from_json(json, std::string(source)));
}

Json Tokenizer::to_json() const { return parts_to_json(*parts_); }

void Tokenizer::save(const std::filesystem::path& path) const {
  write_file_atomic(std::filesystem::is_directory(path) ? path / "tokenizer.json" : path, file_text(*this));
}

std::string Tokenizer::hash() const { return sha256_hex(file_text(*this)); }

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens,
                                       bool parse_special) const {
  require(text.size() <= kMaxTextBytes, "a text of {} bytes is too long to encode at once; at most {}",
          text.size(), kMaxTextBytes);
  const TokenizerParts& parts = *parts_;
  const TokenModel::ScratchLease scratch(*parts.model);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special_tokens) ids = parts.post_processor.prefix;
  bool at_start = true;
  const auto in_normalized = [&](const AddedToken* token, std::string_view part) {
    if (token != nullptr) {
      ids.push_back(token->id);
    } else {
      encode_ordinary(parts, part, at_start, *scratch, ids);
    }
    at_start = false;
  };
  parts.added.split(text, false, parse_special, [&](const AddedToken* token, std::string_view part) {
    if (token != nullptr) {
      ids.push_back(token->id);
    } else if (parts.normalizer.empty()) {
      parts.added.split(part, true, parse_special, in_normalized);
    } else {
      parts.added.split(parts.normalizer.apply(part), true, parse_special, in_normalized);
    }
    at_start = false;
  });
  if (add_special_tokens) {
    ids.insert(ids.end(), parts.post_processor.suffix.begin(), parts.post_processor.suffix.end());
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  DecodeState state(*parts_);
  for (const int32_t id : ids) {
    if (skip_special && is_special(id)) continue;
    append_decoded(*this, id, state, out);
  }
  return out;
}

int Tokenizer::vocab_size() const { return static_cast<int>(parts_->is_token.size()); }

std::optional<int32_t> Tokenizer::token_id(std::string_view spelling) const {
  if (const AddedToken* token = parts_->added.find_content(spelling)) return token->id;
  return parts_->model->token_id(spelling);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  require(is_token(id), Code::kOutOfRange, "token id {} is not in the vocabulary of {} ids", id,
          vocab_size());
  const uint32_t begin = parts_->byte_offsets[id];
  return std::string_view(parts_->bytes).substr(begin, parts_->byte_offsets[id + 1] - begin);
}

std::vector<int32_t> Tokenizer::text_lengths() const {
  std::vector<int32_t> out(static_cast<size_t>(vocab_size()), 0);
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (is_token(id) && !is_special(id))
      out[static_cast<size_t>(id)] = static_cast<int32_t>(token_bytes(id).size());
  }
  return out;
}

std::string Tokenizer::token_spelling(int32_t id) const {
  if (const AddedToken* token = parts_->added.find_id(id)) return token->content;
  const auto& tokens = parts_->model->tokens();
  return id >= 0 && static_cast<size_t>(id) < tokens.size() ? tokens[id] : std::string();
}

bool Tokenizer::is_token(int32_t id) const {
  return id >= 0 && id < vocab_size() && parts_->is_token[id] != 0;
}
bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && parts_->is_special[id] != 0;
}
const std::vector<AddedToken>& Tokenizer::added_tokens() const { return parts_->added.tokens(); }

struct StreamDecoder::State : DecodeState {
  using DecodeState::DecodeState;
};

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)),
      skip_special_(skip_special),
      state_(std::make_unique<State>(tokenizer_.parts())) {}

StreamDecoder::StreamDecoder(const StreamDecoder& other)
    : tokenizer_(other.tokenizer_),
      skip_special_(other.skip_special_),
      state_(std::make_unique<State>(*other.state_)),
      pending_(other.pending_) {}

StreamDecoder& StreamDecoder::operator=(const StreamDecoder& other) {
  if (this != &other) *this = StreamDecoder(other);
  return *this;
}

StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(int32_t id) {
  require(tokenizer_.is_token(id), Code::kOutOfRange, "token id {} is not in the vocabulary of {} ids", id,
          tokenizer_.vocab_size());
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  append_decoded(tokenizer_, id, *state_, pending_);
  const size_t whole = complete_utf8_prefix(pending_);
  std::string out = pending_.substr(0, whole);
  pending_.erase(0, whole);
  return out;
}

std::string StreamDecoder::finish() { return std::exchange(pending_, {}); }

}  // namespace vertebra
