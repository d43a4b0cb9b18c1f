// The tokenizer: text to token ids and back, as a Hugging Face tokenizer.json describes it. Puts the
// components together (normalizer, pre-tokenizer, model, added tokens, post-processor, decoder); called by
// data, training, engine and server. Immutable, cheap to copy, safe to use from many threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/added_tokens.h"

namespace vertebra {

struct TokenizerParts;

class Tokenizer {
 public:
  // `path` is a tokenizer.json, a tokenizer.model (SentencePiece) or a folder that holds one, the first if
  // both; added tokens that only the tokenizer_config.json beside it names are taken too. Throws not_found,
  // invalid_argument (a malformed file) or unimplemented (a component that is not supported).
  static Tokenizer load(const std::filesystem::path& path);
  // `source` names the text in errors.
  static Tokenizer from_text(std::string_view json_text, std::string_view source);
  static Tokenizer from_json(const Json& json, std::string_view source);
  explicit Tokenizer(std::shared_ptr<const TokenizerParts> parts) : parts_(std::move(parts)) {}

  // The tokenizer.json: the sections as they were read, the vocabulary in the order of its ids.
  Json to_json() const;
  // Writes a tokenizer.json to `path`, or into `path` where that is a folder. Atomic.
  void save(const std::filesystem::path& path) const;
  // SHA-256 of the tokenizer.json that save() writes: equal for equal tokenizers.
  std::string hash() const;

  // Any bytes are accepted; broken UTF-8 is encoded byte for byte. `add_special_tokens` adds what the
  // file's post-processor puts around a text (a beginning-of-text token, say); without `parse_special`
  // the spelling of a control token in `text` is ordinary text, as it must be for what users type.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens = true,
                              bool parse_special = true) const;
  // The bytes of the ids, which need not be whole UTF-8 characters. Throws out_of_range for an id that
  // is no token.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  // One more than the largest id.
  int vocab_size() const;
  // By spelling: "<|endoftext|>", or "Ġthe" as the file writes it.
  std::optional<int32_t> token_id(std::string_view spelling) const;
  // What the id adds to decoded text after another one. Throws out_of_range for an id that is no token.
  std::string_view token_bytes(int32_t id) const;
  // By id, the bytes of text that a token stands for: 0 for control tokens and ids that are no token.
  // What bits per byte are counted by.
  std::vector<int32_t> text_lengths() const;
  // The token as the file spells it; empty for an id that is no token.
  std::string token_spelling(int32_t id) const;
  // True for an id between 0 and vocab_size() - 1 that stands for a token.
  bool is_token(int32_t id) const;
  // A control token.
  bool is_special(int32_t id) const;
  const std::vector<AddedToken>& added_tokens() const;
  const TokenizerParts& parts() const { return *parts_; }

 private:
  std::shared_ptr<const TokenizerParts> parts_;
};

// Decodes ids as they are generated. What push() returns never ends inside a UTF-8 character; all
// returned pieces together are exactly Tokenizer::decode of all ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false);
  StreamDecoder(const StreamDecoder& other);
  StreamDecoder& operator=(const StreamDecoder& other);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();
  std::string push(int32_t id);
  // What is left: bytes of a character that never became whole.
  std::string finish();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  struct State;
  std::unique_ptr<State> state_;
  std::string pending_;
};

}  // namespace vertebra
