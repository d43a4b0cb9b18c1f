#include "backend/pjrt/collectives.h"

#include <algorithm>
#include <array>
#include <map>

#include "backend/pjrt/pjrt_executable.h"
#include "backend/pjrt/wire_reader.h"
#include "base/error.h"

namespace vertebra::pjrt {
namespace {

// Numbers of the fields of XLA's messages; they never change their meaning.
namespace module_field {
constexpr uint64_t kModule = 1, kComputation = 3;  // of the module with its configuration; of the module
}
namespace computation_field {
constexpr uint64_t kInstruction = 2;
}
namespace instruction_field {
constexpr uint64_t kOpcode = 2, kShape = 3, kId = 35, kOperands = 36;
// Who talks to whom, in the forms that came one after the other: groups written out; groups written out or
// counted; counted; axes of a mesh.
constexpr uint64_t kGroups = 49, kDeviceList = 87, kCounted = 92, kMeshAxes = 93;
}  // namespace instruction_field
namespace shape_field {
constexpr uint64_t kElement = 2, kSizes = 3, kTuple = 4;
}

// By XLA's number of an element type; 0: takes no place.
int64_t element_bytes(uint64_t type) {
  constexpr std::array<int64_t, 17> kBytes = {0, 1, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 0, 0, 8, 2};
  constexpr uint64_t kToken = 17, kComplex128 = 18;
  if (type < kBytes.size()) return kBytes[type];
  if (type == kToken) return 0;
  return type == kComplex128 ? 16 : 1;  // the others have 8 bits or fewer
}

int64_t shape_bytes(std::string_view shape) {
  int64_t element = 0, parts = 0;
  std::vector<int64_t> sizes;
  for (const WireField& field : read_message(shape)) {
    if (field.number == shape_field::kElement) element = element_bytes(field.value);
    if (field.number == shape_field::kSizes) append_numbers(field, sizes);
    if (field.number == shape_field::kTuple) parts += shape_bytes(field.bytes);
  }
  for (const int64_t size : sizes) element *= size;
  return element + parts;
}

int64_t first_value(std::string_view message, uint64_t number) {
  for (const WireField& field : read_message(message)) {
    if (field.number == number) return static_cast<int64_t>(field.value);
  }
  return 0;
}

// {groups, devices of a group}
int64_t counted_size(std::string_view message) { return first_value(message, 2); }

// {devices of one group}
int64_t written_size(std::string_view group) {
  std::vector<int64_t> ids;
  for (const WireField& field : read_message(group)) {
    if (field.number == 1) append_numbers(field, ids);
  }
  return static_cast<int64_t>(ids.size());
}

// {mesh {axis {name, size}}, axis used {number, part of it {before, size}}}
int64_t mesh_axes_size(std::string_view message) {
  std::vector<int64_t> lengths;
  int64_t out = 1;
  for (const WireField& field : read_message(message)) {
    if (field.number == 1) {
      for (const WireField& axis : read_message(field.bytes)) {
        if (axis.number == 1) lengths.push_back(first_value(axis.bytes, 2));
      }
    }
    if (field.number != 2) continue;
    size_t index = 0;
    int64_t part = 0;
    for (const WireField& used : read_message(field.bytes)) {
      if (used.number == 1) index = used.value;
      if (used.number == 2) part = first_value(used.bytes, 2);
    }
    if (part == 0 && index < lengths.size()) part = lengths[index];
    out *= std::max<int64_t>(part, 1);
  }
  return out;
}

int64_t group_size(const WireField& field) {
  switch (field.number) {
    case instruction_field::kGroups:
      return written_size(field.bytes);
    case instruction_field::kCounted:
      return counted_size(field.bytes);
    case instruction_field::kMeshAxes:
      return mesh_axes_size(field.bytes);
    case instruction_field::kDeviceList:
      for (const WireField& inner : read_message(field.bytes)) {
        if (inner.number == 1) return written_size(inner.bytes);
        if (inner.number == 2) return counted_size(inner.bytes);
      }
      return 0;
    default:
      return 0;
  }
}

struct Instruction {
  std::string opcode;
  int64_t id = 0, bytes = 0, devices = 0;
  std::vector<int64_t> operands;
};

Instruction read_instruction(std::string_view message) {
  Instruction out;
  for (const WireField& field : read_message(message)) {
    if (field.number == instruction_field::kOpcode) out.opcode = field.bytes;
    if (field.number == instruction_field::kShape) out.bytes = shape_bytes(field.bytes);
    if (field.number == instruction_field::kId) out.id = static_cast<int64_t>(field.value);
    if (field.number == instruction_field::kOperands) append_numbers(field, out.operands);
    if (const int64_t size = group_size(field); size > 0) out.devices = size;
  }
  return out;
}

using Counts = std::map<std::pair<std::string, int64_t>, Collective>;

// In pieces "all-gather-start" and "all-gather-done" the first counts; it hands on its operands beside the
// results.
void count_computation(std::string_view message, Counts& counts) {
  constexpr std::array<std::string_view, 5> kKinds = {"all-reduce", "all-gather", "reduce-scatter",
                                                      "all-to-all", "collective-permute"};
  std::map<int64_t, int64_t> bytes_of;
  for (const WireField& field : read_message(message)) {
    if (field.number != computation_field::kInstruction) continue;
    Instruction instruction = read_instruction(field.bytes);
    bytes_of[instruction.id] = instruction.bytes;
    std::string_view kind = instruction.opcode;
    const bool starts = kind.ends_with("-start");
    if (starts) kind.remove_suffix(6);
    if (std::find(kKinds.begin(), kKinds.end(), kind) == kKinds.end()) continue;
    int64_t in = 0;
    for (const int64_t operand : instruction.operands) in += bytes_of[operand];
    const bool hands_on = starts && kind != "all-reduce";
    Collective& place = counts[{std::string(kind), instruction.devices}];
    place.kind = kind;
    place.devices = instruction.devices;
    ++place.count;
    place.bytes += std::max(in, hands_on ? instruction.bytes - in : instruction.bytes);
  }
}

void count_program(std::string_view program, std::string_view format, Counts& counts) {
  require(format == "hlo" || format == "hlo_with_config", Code::kUnimplemented,
          "the plugin gives its compiled program as '{}'; 'hlo' and 'hlo_with_config' are known", format);
  std::string_view module = program;
  if (format == "hlo_with_config") {
    for (const WireField& field : read_message(program)) {
      if (field.number == module_field::kModule) module = field.bytes;
    }
  }
  for (const WireField& field : read_message(module)) {
    if (field.number == module_field::kComputation) count_computation(field.bytes, counts);
  }
}

std::vector<Collective> in_order(const Counts& counts) {
  std::vector<Collective> out;
  for (const auto& [key, each] : counts) out.push_back(each);
  return out;
}

}  // namespace

std::vector<Collective> read_collectives(std::string_view program, std::string_view format) {
  Counts counts;
  count_program(program, format, counts);
  return in_order(counts);
}

std::vector<Collective> collectives_of(const Executable& executable) {
  const auto* compiled = dynamic_cast<const PjrtExecutable*>(&executable);
  require(compiled != nullptr, "collectives are read from executables of a PJRT backend");
  Counts counts;
  for (const auto& program : compiled->optimized_programs())
    count_program(program.code, program.format, counts);
  return in_order(counts);
}

}  // namespace vertebra::pjrt
