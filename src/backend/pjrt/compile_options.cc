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

// CompileOptionsProto.executable_build_options (3) {num_replicas (4), num_partitions (5),
// use_spmd_partitioning (6), device_assignment (9) {replica_count (1), computation_count (2),
// computation_devices (3) {replica_device_ids (1)}}, use_shardy_partitioner (19)}. Replicas or partitions
// left out would be zero, which aborts the process.
std::string compile_options(std::span<const int> device_ids, Partitioner partitioner) {
  const bool several = device_ids.size() > 1;
  std::string build;
  add_number(build, 4, 1);
  add_number(build, 5, device_ids.size());
  if (several) add_number(build, 6, 1);
  if (several || device_ids[0] != 0) {
    std::string assignment;
    add_number(assignment, 1, 1);
    add_number(assignment, 2, device_ids.size());
    for (const int id : device_ids) {
      std::string ids, computation;
      add_varint(ids, static_cast<uint64_t>(id));
      add_message(computation, 1, ids);  // packed
      add_message(assignment, 3, computation);
    }
    add_message(build, 9, assignment);
  }
  if (several && partitioner == Partitioner::kShardy) add_number(build, 19, 1);
  std::string out;
  add_message(out, 3, build);
  return out;
}

}  // namespace vertebra::pjrt
