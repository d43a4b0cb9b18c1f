#include "data/tar_stream.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace vertebra {
namespace {

constexpr size_t kBlock = 512;
constexpr uint64_t kMaxExtensionBytes = 1 << 20;  // pax records and long names
constexpr uint64_t kMaxMemberBytes = uint64_t{1} << 50;

std::string_view text_field(std::string_view block, size_t offset, size_t size) {
  const std::string_view field = block.substr(offset, size);
  return field.substr(0, std::min(field.find('\0'), field.size()));
}

// Octal digits in spaces and zeros, or base 256 when the first byte's high bit is set (GNU).
std::optional<uint64_t> number_field(std::string_view block, size_t offset, size_t size) {
  std::string_view field = block.substr(offset, size);
  uint64_t value = 0;
  if ((static_cast<unsigned char>(field[0]) & 0x80) != 0) {
    for (size_t i = 0; i < field.size(); ++i) {
      if (value >> 55 != 0) return std::nullopt;
      value = (value << 8) | (static_cast<unsigned char>(field[i]) & (i == 0 ? 0x7f : 0xff));
    }
    return value;
  }
  field = text_field(block, offset, size);
  while (!field.empty() && field.front() == ' ') field.remove_prefix(1);
  while (!field.empty() && field.back() == ' ') field.remove_suffix(1);
  for (const char c : field) {
    if (c < '0' || c > '7' || value >> 60 != 0) return std::nullopt;
    value = value * 8 + static_cast<uint64_t>(c - '0');
  }
  return value;
}

bool checksum_matches(std::string_view block) {
  uint64_t sum = 0;
  for (size_t i = 0; i < kBlock; ++i)
    sum += i >= 148 && i < 156 ? uint64_t{' '} : static_cast<unsigned char>(block[i]);
  return number_field(block, 148, 8) == sum;
}

}  // namespace

TarStream::TarStream(std::unique_ptr<ByteStream> source, std::string name)
    : source_(std::move(source)), name_(std::move(name)) {}

void TarStream::read_exactly(char* out, size_t size) {
  while (size > 0) {
    const size_t got = source_->read(out, size);
    require(got > 0, Code::kDataLoss,
            "'{}' ends at byte {} without the end mark of a tar archive; get it again", name_, position_);
    out += got;
    size -= got;
    position_ += got;
  }
}

void TarStream::skip(uint64_t size_bytes) {
  std::array<char, 1 << 14> scratch;
  while (size_bytes > 0) {
    const size_t part = static_cast<size_t>(std::min<uint64_t>(size_bytes, scratch.size()));
    read_exactly(scratch.data(), part);
    size_bytes -= part;
  }
}

std::string TarStream::read_text(uint64_t size_bytes) {
  require(size_bytes <= kMaxExtensionBytes, Code::kDataLoss,
          "'{}': a tar extension header of {} bytes near byte {}, at most {} are read", name_, size_bytes,
          position_, kMaxExtensionBytes);
  std::string out(static_cast<size_t>(size_bytes), '\0');
  read_exactly(out.data(), out.size());
  skip((kBlock - size_bytes % kBlock) % kBlock);
  return out;
}

// Records "LENGTH key=value\n" where LENGTH counts the whole record.
void TarStream::read_pax(const std::string& records) {
  std::string_view rest = records;
  while (!rest.empty() && rest.front() != '\0') {
    size_t length = 0;
    const auto parsed = std::from_chars(rest.data(), rest.data() + rest.size(), length);
    const size_t digits = static_cast<size_t>(parsed.ptr - rest.data());
    require(parsed.ec == std::errc() && length > digits + 1 && length <= rest.size() && *parsed.ptr == ' ',
            Code::kDataLoss, "'{}': a broken pax header near byte {}", name_, position_);
    std::string_view record = rest.substr(digits + 1, length - digits - 2);
    rest.remove_prefix(length);
    const size_t equals = std::min(record.find('='), record.size());
    const std::string_view key = record.substr(0, equals);
    const std::string_view value = record.substr(std::min(equals + 1, record.size()));
    if (key == "path") long_name_ = value;
    if (key == "size") {
      const auto end = value.data() + value.size();
      const auto size = std::from_chars(value.data(), end, pax_size_);
      require(size.ec == std::errc() && size.ptr == end && pax_size_ >= 0, Code::kDataLoss,
              "'{}': a pax header near byte {} gives '{}' as a size", name_, position_, value);
    }
  }
}

bool TarStream::next() {
  skip(left_ + padding_);
  left_ = padding_ = 0;
  for (;;) {
    std::array<char, kBlock> bytes;
    read_exactly(bytes.data(), bytes.size());
    const std::string_view block(bytes.data(), bytes.size());
    if (block.find_first_not_of('\0') == std::string_view::npos) return false;
    require(checksum_matches(block), Code::kDataLoss,
            "'{}': no tar header at byte {}; the archive is damaged", name_, position_ - kBlock);
    const auto header_size = number_field(block, 124, 12);
    require(header_size.has_value() && *header_size < kMaxMemberBytes, Code::kDataLoss,
            "'{}': the tar header at byte {} has no usable size", name_, position_ - kBlock);
    uint64_t size = *header_size;
    const char type = block[156];
    if (type == 'L') {
      long_name_ = read_text(size);
      long_name_.resize(std::min(long_name_.find('\0'), long_name_.size()));
      continue;
    }
    if (type == 'x') {
      read_pax(read_text(size));
      continue;
    }
    if (pax_size_ >= 0) size = static_cast<uint64_t>(std::exchange(pax_size_, -1));
    require(size < kMaxMemberBytes, Code::kDataLoss, "'{}': a member of {} bytes near byte {}", name_, size,
            position_);
    std::string member = std::exchange(long_name_, {});
    if (member.empty()) {
      const std::string_view prefix = block.substr(257, 5) == "ustar" ? text_field(block, 345, 155) : "";
      member = text_field(block, 0, 100);
      if (!prefix.empty() && block[262] == '\0') member = std::string(prefix) + "/" + member;
    }
    const uint64_t padding = (kBlock - size % kBlock) % kBlock;
    if (type == '0' || type == '\0' || type == '7') {
      member_ = std::move(member);
      left_ = size;
      padding_ = padding;
      return true;
    }
    // Folders and links carry no content; anything else (global headers, sparse maps) is passed over.
    const bool no_content = type >= '1' && type <= '6';
    if (!no_content) skip(size + padding);
  }
}

size_t TarStream::read(char* out, size_t size) {
  const size_t part = static_cast<size_t>(std::min<uint64_t>(left_, size));
  if (part == 0) return 0;
  const size_t got = source_->read(out, part);
  require(got > 0, Code::kDataLoss, "'{}' ends inside its member '{}'; get the archive again", name_,
          member_);
  left_ -= got;
  position_ += got;
  return got;
}

}  // namespace vertebra
