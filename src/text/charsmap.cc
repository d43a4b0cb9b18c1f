// Every index of a walk is checked: the array comes from a stranger's file. See charsmap.h.
#include "text/charsmap.h"

#include <algorithm>

#include "base/error.h"

namespace vertebra {
namespace {

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

uint32_t read_u32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

// Unicode's own maps replace at most 12 bytes, by at most 33. A stranger's map may hold circles, which every
// place in a text would walk to its end, and replacements that make gigabytes of it.
constexpr size_t kMaxPrefixBytes = 128, kMaxReplacementBytes = 256;

// The fields of a unit: the label of the edge into it, whether a value hangs on it, the offset of its
// children.
uint32_t label(uint32_t unit) { return unit & (1u << 31 | 0xFF); }
bool has_value(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

}  // namespace

Charsmap::Charsmap(std::string_view blob, const std::string& source) {
  require(blob.size() >= 4, "{}: a character map of {} bytes; at least 4 were wanted", source, blob.size());
  const size_t size = read_u32(blob, 0);
  require(size % 4 == 0 && size >= 4 && size <= blob.size() - 4,
          "{}: the character map says its array has {} bytes; a multiple of 4 within its {} bytes was wanted",
          source, size, blob.size());
  units_.resize(size / 4);
  for (size_t i = 0; i < units_.size(); ++i) units_[i] = read_u32(blob, 4 + 4 * i);
  replacements_ = blob.substr(4 + size);
}

// Calls on_match(length, place of the replacement) for every prefix in the map, the shortest first, until it
// returns false.
template <class OnMatch>
void Charsmap::walk(std::string_view text, OnMatch on_match) const {
  size_t node = offset(units_[0]);
  const size_t end = std::min(text.size(), kMaxPrefixBytes);
  for (size_t at = 0; at < end; ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte == 0) return;
    node ^= byte;
    if (node >= units_.size() || label(units_[node]) != byte) return;
    const uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!has_value(unit)) continue;
    if (node >= units_.size() || !on_match(at + 1, units_[node] & ~(1u << 31))) return;
  }
}

std::optional<Charsmap::Match> Charsmap::match(size_t length, uint32_t at) const {
  if (length == 0 || at >= replacements_.size()) return std::nullopt;
  const std::string_view rest = std::string_view(replacements_).substr(at, kMaxReplacementBytes + 1);
  const std::string_view replacement = rest.substr(0, rest.find('\0'));
  if (replacement.size() > kMaxReplacementBytes) return std::nullopt;
  return Match{length, replacement};
}

std::optional<Charsmap::Match> Charsmap::longest(std::string_view text) const {
  size_t length = 0;
  uint32_t place = 0;
  walk(text, [&](size_t n, uint32_t at) {
    length = n;
    place = at;
    return true;
  });
  return match(length, place);
}

std::optional<Charsmap::Match> Charsmap::shortest(std::string_view text) const {
  size_t length = 0;
  uint32_t place = 0;
  walk(text, [&](size_t n, uint32_t at) {
    length = n;
    place = at;
    return false;
  });
  return match(length, place);
}

std::string decode_base64(std::string_view text, const std::string& what) {
  std::string out;
  out.reserve(text.size() / 4 * 3);
  while (text.ends_with('=')) text.remove_suffix(1);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const size_t value = kBase64.find(c);
    require(value != kBase64.npos, "{} is not base64: it has the character '{}'", what, c);
    bits = bits << 6 | static_cast<uint32_t>(value);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out += static_cast<char>(bits >> count & 0xFF);
    }
  }
  return out;
}

std::string encode_base64(std::string_view bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    uint32_t bits = 0;
    const size_t count = std::min<size_t>(3, bytes.size() - at);
    for (size_t i = 0; i < 3; ++i)
      bits = bits << 8 | (i < count ? static_cast<unsigned char>(bytes[at + i]) : 0);
    for (size_t i = 0; i < 4; ++i) out += i <= count ? kBase64[bits >> (18 - 6 * i) & 63] : '=';
  }
  return out;
}

}  // namespace vertebra
