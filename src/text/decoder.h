// The `decoder` section of a tokenizer.json: what a token adds to decoded text. Everything it does is told
// token by token, so that streaming gives what decoding all ids at once gives. Called by the tokenizer.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace vertebra {

class Decoder {
 public:
  // ByteLevel, Metaspace, ByteFallback, Replace, Fuse, Strip, WordPiece, BPEDecoder and Sequence of these.
  // null: bytes for a byte-level model, else tokens with spaces between them. Throws unimplemented for other
  // types and for a step that would have to look beyond one token, invalid_argument for malformed ones.
  static Decoder from_json(const Json& section, bool byte_level, std::string_view source);

  // What a token adds to the text, as the first one or as another. Byte tokens add their byte.
  struct Text {
    std::string bytes;
    bool space_after = false;  // where another token follows
  };
  Text text(std::string_view spelling, bool first) const;
  // True where the first token's text can differ.
  bool first_differs() const;
  // True where the spelling of an added token is its text.
  bool keeps_added() const { return byte_level_only_; }

  // What is taken off the beginning of the whole text: at most `count` times `content`.
  struct Strip {
    std::string content;
    int count = 0;
  };
  const Strip& strip() const { return strip_; }

  struct Step;  // in decoder.cc

 private:
  void parse_into(const Json& section, const std::string& source, int depth);

  std::vector<std::shared_ptr<const Step>> steps_;
  bool fused_ = false, byte_level_only_ = false;
  Strip strip_;
};

}  // namespace vertebra
