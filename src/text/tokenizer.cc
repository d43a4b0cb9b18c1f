// Encoding and decoding over the assembled parts; see tokenizer.h.
#include "text/tokenizer.h"

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "text/tokenizer_parts.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

// Longest text of one encode call: positions inside it are 32-bit.
constexpr size_t kMaxTextBytes = (size_t{1} << 31) - 64;

void encode_ordinary(const TokenizerParts& parts, std::string_view text, BpeModel::Scratch& scratch,
                     std::vector<int32_t>& ids) {
  const BpeModel& model = *parts.model;
  if (const auto kind = parts.pretokenizer.only_scanner()) {
    const ScanFunction scan = scanner(*kind);
    const char* const end = text.data() + text.size();
    for (const char* p = text.data(); p < end;) {
      const char* next = scan(p, end);
      model.encode_piece({p, static_cast<size_t>(next - p)}, end, scratch, ids);
      p = next;
    }
    return;
  }
  parts.pretokenizer.split(text, [&](std::string_view piece) {
    model.encode_piece(piece, piece.data() + piece.size(), scratch, ids);
  });
}

std::string file_text(const Tokenizer& tokenizer) {
  return tokenizer.to_json().dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  const auto file = std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
  return from_text(read_file(file), file.string());
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
  const BpeModel::ScratchLease scratch(*parts.model);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  if (add_special_tokens) ids = parts.post_processor.prefix;
  const auto in_normalized = [&](const AddedToken* token, std::string_view part) {
    if (token != nullptr) {
      ids.push_back(token->id);
    } else {
      encode_ordinary(parts, part, *scratch, ids);
    }
  };
  parts.added.split(text, false, parse_special, [&](const AddedToken* token, std::string_view part) {
    if (token != nullptr) {
      ids.push_back(token->id);
    } else if (parts.normalizer.empty()) {
      parts.added.split(part, true, parse_special, in_normalized);
    } else {
      parts.added.split(parts.normalizer.apply(part), true, parse_special, in_normalized);
    }
  });
  if (add_special_tokens) {
    ids.insert(ids.end(), parts.post_processor.suffix.begin(), parts.post_processor.suffix.end());
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out;
  for (const int32_t id : ids) {
    const std::string_view bytes = token_bytes(id);
    if (!(skip_special && is_special(id))) out += bytes;
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

std::string StreamDecoder::push(int32_t id) {
  const std::string_view bytes = tokenizer_.token_bytes(id);
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  pending_ += bytes;
  const size_t whole = complete_utf8_prefix(pending_);
  std::string out = pending_.substr(0, whole);
  pending_.erase(0, whole);
  return out;
}

std::string StreamDecoder::finish() { return std::exchange(pending_, {}); }

}  // namespace vertebra
