// Builds the two-stage class table once from the generated ranges; see unicode.h.
#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <map>
#include <vector>

namespace vertebra {
namespace {

struct ClassRange {
  uint32_t first, last;
  CharClass char_class;
};

constexpr ClassRange kRanges[] = {
#include "text/unicode_ranges.inc"
};

// White_Space of Unicode, which is \s in the regular expression engines of the peers.
constexpr ClassRange kSpaces[] = {{0x09, 0x0D, CharClass::kSpace},     {0x20, 0x20, CharClass::kSpace},
                                  {0x85, 0x85, CharClass::kSpace},     {0xA0, 0xA0, CharClass::kSpace},
                                  {0x1680, 0x1680, CharClass::kSpace}, {0x2000, 0x200A, CharClass::kSpace},
                                  {0x2028, 0x2029, CharClass::kSpace}, {0x202F, 0x202F, CharClass::kSpace},
                                  {0x205F, 0x205F, CharClass::kSpace}, {0x3000, 0x3000, CharClass::kSpace}};

constexpr uint32_t kCodePoints = 0x110000;
constexpr uint32_t kBlock = 128;

// Most blocks of 128 code points are uniform, so the second stage stays in a few cache lines for
// the text of one script.
struct ClassTable {
  std::vector<uint16_t> block_of;
  std::vector<CharClass> classes;

  ClassTable() {
    std::vector<CharClass> flat(kCodePoints, CharClass::kOther);
    const auto fill = [&](const ClassRange& r) {
      std::fill(flat.begin() + r.first, flat.begin() + r.last + 1, r.char_class);
    };
    std::ranges::for_each(kRanges, fill);
    std::ranges::for_each(kSpaces, fill);
    std::map<std::vector<CharClass>, uint16_t> known;
    for (uint32_t first = 0; first < kCodePoints; first += kBlock) {
      std::vector<CharClass> block(flat.begin() + first, flat.begin() + first + kBlock);
      const auto [it, fresh] = known.try_emplace(block, static_cast<uint16_t>(known.size()));
      if (fresh) classes.insert(classes.end(), block.begin(), block.end());
      block_of.push_back(it->second);
    }
  }
};

const ClassTable& class_table() {
  static const ClassTable table;
  return table;
}

constexpr std::array<uint8_t, 256> ascii_classes() {
  std::array<uint8_t, 256> classes{};
  for (int c = 0; c < 256; ++c) {
    CharClass value = CharClass::kOther;
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) value = CharClass::kLetter;
    if (c >= '0' && c <= '9') value = CharClass::kNumber;
    if ((c >= 9 && c <= 13) || c == ' ') value = CharClass::kSpace;
    classes[c] = c < 0x80 ? static_cast<uint8_t>(value) : 255;
  }
  return classes;
}

bool is_continuation(unsigned char c) { return (c & 0xC0) == 0x80; }

// Bounds of the second byte by lead byte: they exclude overlong forms, surrogates, > U+10FFFF.
unsigned char second_min(unsigned char lead) { return lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80; }
unsigned char second_max(unsigned char lead) { return lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF; }

int sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return 2;
  if (lead >= 0xE0 && lead <= 0xEF) return 3;
  if (lead >= 0xF0 && lead <= 0xF4) return 4;
  return 0;
}

}  // namespace

constinit const std::array<uint8_t, 256> kAsciiClass = ascii_classes();

Utf8Char decode_utf8(const char* p, const char* end) {
  const auto* b = reinterpret_cast<const unsigned char*>(p);
  const unsigned char lead = b[0];
  if (lead < 0x80) return {lead, 1, true};
  const int length = sequence_length(lead);
  const Utf8Char broken{lead, 1, false};
  if (length == 0 || end - p < length || b[1] < second_min(lead) || b[1] > second_max(lead)) return broken;
  if (length == 2) return {(lead & 0x1Fu) << 6 | (b[1] & 0x3Fu), 2, true};
  if (!is_continuation(b[2])) return broken;
  if (length == 3) return {(lead & 0x0Fu) << 12 | (b[1] & 0x3Fu) << 6 | (b[2] & 0x3Fu), 3, true};
  if (!is_continuation(b[3])) return broken;
  return {(lead & 0x07u) << 18 | (b[1] & 0x3Fu) << 12 | (b[2] & 0x3Fu) << 6 | (b[3] & 0x3Fu), 4, true};
}

size_t last_utf8_char(std::string_view text) {
  const char* const end = text.data() + text.size();
  for (size_t back = 1; back <= 4 && back <= text.size(); ++back) {
    const Utf8Char c = decode_utf8(end - back, end);
    if (c.valid && c.length == static_cast<int>(back)) return text.size() - back;
  }
  return text.size() - 1;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

size_t complete_utf8_prefix(std::string_view bytes) {
  const size_t n = bytes.size();
  for (size_t back = 1; back <= 3 && back <= n; ++back) {
    const auto lead = static_cast<unsigned char>(bytes[n - back]);
    if (is_continuation(lead)) continue;
    const int length = sequence_length(lead);
    if (length <= static_cast<int>(back)) return n;  // complete, ASCII, or never a lead byte
    if (back >= 2) {
      const auto second = static_cast<unsigned char>(bytes[n - back + 1]);
      if (second < second_min(lead) || second > second_max(lead)) return n;
    }
    return n - back;
  }
  return n;
}

CharClass char_class(char32_t code_point) {
  if (code_point >= kCodePoints) return CharClass::kOther;
  static const ClassTable& table = class_table();
  return table.classes[table.block_of[code_point / kBlock] * kBlock + code_point % kBlock];
}

bool is_word_char(char32_t c) {
  const CharClass known = char_class(c);
  if (known == CharClass::kLetter || known == CharClass::kMark) return true;
  if (c == 0x200C || c == 0x200D) return true;
  // Other_Alphabetic beyond letters and marks: circled and squared Latin letters.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
      (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  // Digits that Unicode 15 and 16 brought, which utf8proc may not know.
  static constexpr char32_t kNewDigits[] = {0x10D40, 0x116D0, 0x116DA, 0x11BF0, 0x11F50,
                                            0x16130, 0x16D70, 0x1CCF0, 0x1E4F0, 0x1E5F1};
  for (const char32_t zero : kNewDigits) {
    if (c >= zero && c < zero + 10) return true;
  }
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_PC;
}

}  // namespace vertebra
