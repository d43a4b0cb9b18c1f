#include "backend/pjrt/compile_options.h"

#include <cstdint>

namespace vertebra::pjrt {
namespace {

// Protocol buffer wire format: a field's key is number * 8 + kind, kind 0 a varint, 2 bytes with their
// length.
void add_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(0x80 | (value & 0x7f));
  out += static_cast<char>(value);
}
void add_number(std::string& out, int field, uint64_t value) {
  add_varint(out, static_cast<uint64_t>(field) << 3);
  add_varint(out, value);
}
void add_message(std::string& out, int field, const std::string& message) {
  add_varint(out, (static_cast<uint64_t>(field) << 3) | 2);
  add_varint(out, message.size());
  out += message;
}

}  // namespace

// CompileOptionsProto.executable_build_options (3) {num_replicas (4), num_partitions (5), device_assignment
// (9) {replica_count (1), computation_count (2), computation_devices (3) {replica_device_ids (1)}}}. Replicas
// or partitions left out would be zero, which aborts the process.
std::string compile_options(int device_id) {
  std::string build;
  add_number(build, 4, 1);
  add_number(build, 5, 1);
  if (device_id != 0) {
    std::string ids, computation, assignment;
    add_varint(ids, static_cast<uint64_t>(device_id));
    add_message(computation, 1, ids);  // packed
    add_number(assignment, 1, 1);
    add_number(assignment, 2, 1);
    add_message(assignment, 3, computation);
    add_message(build, 9, assignment);
  }
  std::string out;
  add_message(out, 3, build);
  return out;
}

}  // namespace vertebra::pjrt
