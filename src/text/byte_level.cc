// Printable Latin-1 bytes spell themselves, the other 68 take U+0100 upwards in order; see byte_level.h.
#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace vertebra {
namespace {

constexpr int kSpellings = 0x144;

constexpr bool spells_itself(int b) {
  return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
}

constexpr std::array<char16_t, 256> char_of_byte() {
  std::array<char16_t, 256> table{};
  char16_t next = 0x100;
  for (int b = 0; b < 256; ++b) table[b] = spells_itself(b) ? static_cast<char16_t>(b) : next++;
  return table;
}

constexpr std::array<int16_t, kSpellings> byte_of_char() {
  std::array<int16_t, kSpellings> table{};
  table.fill(-1);
  const auto chars = char_of_byte();
  for (int b = 0; b < 256; ++b) table[chars[b]] = static_cast<int16_t>(b);
  return table;
}

constexpr auto kCharOfByte = char_of_byte();
constexpr auto kByteOfChar = byte_of_char();

}  // namespace

char32_t byte_level_char(unsigned char byte) { return kCharOfByte[byte]; }

std::string spell_bytes(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) append_utf8(out, kCharOfByte[static_cast<unsigned char>(c)]);
  return out;
}

std::optional<std::string> unspell_bytes(std::string_view spelling) {
  std::string out;
  out.reserve(spelling.size());
  const char* p = spelling.data();
  const char* end = p + spelling.size();
  while (p < end) {
    const Utf8Char c = decode_utf8(p, end);
    if (!c.valid || c.code_point >= kSpellings || kByteOfChar[c.code_point] < 0) return std::nullopt;
    out += static_cast<char>(kByteOfChar[c.code_point]);
    p += c.length;
  }
  return out;
}

}  // namespace vertebra
