#include "backend/pjrt/wire_reader.h"

#include "base/error.h"

namespace vertebra::pjrt {
namespace {

// Takes `count` bytes from the front.
std::string_view take(std::string_view& text, uint64_t count) {
  require(count <= text.size(), Code::kDataLoss, "a protocol buffer is cut off");
  const std::string_view out = text.substr(0, count);
  text.remove_prefix(count);
  return out;
}

uint64_t take_varint(std::string_view& text) {
  uint64_t out = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    const auto byte = static_cast<uint8_t>(take(text, 1)[0]);
    if (shift < 64) out |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return out;
  }
  fail(Code::kDataLoss, "a protocol buffer has a number of more than ten bytes");
}

}  // namespace

std::vector<WireField> read_message(std::string_view message) {
  enum Kind : uint64_t { kVarint = 0, kEightBytes = 1, kBytes = 2, kFourBytes = 5 };
  std::vector<WireField> out;
  while (!message.empty()) {
    const uint64_t key = take_varint(message);
    WireField& field = out.emplace_back();
    field.number = key >> 3;
    switch (key & 7) {
      case kVarint:
        field.value = take_varint(message);
        break;
      case kEightBytes:
        take(message, 8);
        break;
      case kBytes:
        field.bytes = take(message, take_varint(message));
        break;
      case kFourBytes:
        take(message, 4);
        break;
      default:
        fail(Code::kDataLoss, "a protocol buffer has a field of kind {}", key & 7);
    }
  }
  return out;
}

void append_numbers(const WireField& field, std::vector<int64_t>& out) {
  if (field.bytes.data() == nullptr) {
    out.push_back(static_cast<int64_t>(field.value));
    return;
  }
  for (std::string_view rest = field.bytes; !rest.empty();)
    out.push_back(static_cast<int64_t>(take_varint(rest)));
}

}  // namespace vertebra::pjrt
