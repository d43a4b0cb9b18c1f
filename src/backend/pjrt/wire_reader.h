// Walks a protocol buffer without its schema: the fields of one message, in order.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace vertebra::pjrt {

struct WireField {
  uint64_t number = 0;
  uint64_t value = 0;      // of a varint
  std::string_view bytes;  // of a text, message or packed list
};

// Throws data_loss when the message is cut off or no message.
std::vector<WireField> read_message(std::string_view message);
// The numbers of a repeated field, packed or one by one.
void append_numbers(const WireField& field, std::vector<int64_t>& out);

}  // namespace vertebra::pjrt
