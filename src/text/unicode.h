// UTF-8 decoding that tolerates broken bytes, and the character classes that the pre-tokenizer
// patterns are made of (letter, number, space). Owns no text; called by the scanners, the
// normalizer, the added tokens and the streaming decoder.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace vertebra {

// The classes of the GPT patterns: \p{L}, \p{N}, \s; a mark (\p{M}) counts as "other" there.
enum class CharClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3, kMark = 4 };

// One character at the front of [p, end): its code point and length in bytes. A byte that does not
// begin a well-formed sequence (overlong, surrogate, above U+10FFFF, cut off) is `valid` = false,
// length 1, code point = the byte.
struct Utf8Char {
  char32_t code_point = 0;
  int length = 1;
  bool valid = false;
};
Utf8Char decode_utf8(const char* p, const char* end);

// Begin of the last character of a non-empty text (of the last byte where it is broken).
size_t last_utf8_char(std::string_view text);

void append_utf8(std::string& out, char32_t code_point);

// Length of the longest prefix of `bytes` that does not end inside a character which further bytes
// could still complete. Broken bytes count as complete: waiting would not mend them.
size_t complete_utf8_prefix(std::string_view bytes);

// Calls valid(part) for maximal well-formed runs; broken bytes are appended to `out`.
template <class OnValid>
void for_valid_runs(std::string_view text, std::string& out, OnValid valid) {
  const char* const end = text.data() + text.size();
  const char* run = text.data();
  for (const char* p = run; p < end;) {
    const Utf8Char c = decode_utf8(p, end);
    if (!c.valid) {
      if (p > run) valid(std::string_view(run, p - run));
      out += *p;
      run = p + 1;
    }
    p += c.length;
  }
  if (end > run) valid(std::string_view(run, end - run));
}

CharClass char_class(char32_t code_point);
// \w of Unicode: letters, marks, decimal and letter numbers, connectors, joiners.
bool is_word_char(char32_t code_point);

// Class per ASCII byte; 255 for bytes from 0x80 (decode those).
extern const std::array<uint8_t, 256> kAsciiClass;

}  // namespace vertebra
