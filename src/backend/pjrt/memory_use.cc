#include "backend/pjrt/memory_use.h"

#include <fmt/format.h>

#include <algorithm>

namespace vertebra::pjrt {
namespace {

std::string gigabytes(uint64_t bytes) { return fmt::format("{:.3g} GB", static_cast<double>(bytes) / 1e9); }

}  // namespace

std::string MemoryUse::to_string() const {
  std::string out =
      fmt::format("{} on each device ({} of inputs, {} of results, {} of temporary memory)",
                  gigabytes(total()), gigabytes(inputs), gigabytes(results), gigabytes(temporary));
  if (device == 0) return out;
  out += fmt::format(", which has {}. What would fit: ", gigabytes(device));
  const uint64_t fixed = inputs + results;
  if (fixed >= device)
    return out + fmt::format(
                     "parameters and optimizer state of at most {}: a smaller model, or more devices in "
                     "[mesh] (fsdp, tensor)",
                     gigabytes(device));
  // Temporary memory is activations for the most part, and these grow with the tokens of a batch. How much it
  // is the compiler may not have told; and where all of it would fit, something else holds memory.
  const std::string rows = temporary == 0 || fits()
                               ? "fewer rows of a batch, or shorter ones"
                               : fmt::format("about {:.0f} % of the batch's rows or of its length",
                                             std::max(1.0, 100 * static_cast<double>(device - fixed) /
                                                               static_cast<double>(temporary)));
  return out + rows + "; or rematerialize = true, or more devices in [mesh]";
}

MemoryUse memory_use(const Graph& graph, const DeviceMesh& mesh, uint64_t temporary) {
  MemoryUse out;
  out.temporary = temporary;
  out.device = mesh.memory_bytes;
  const auto part = [&](const TensorType& type, const Sharding& sharding) {
    return TensorType{type.dtype, shard_shape(type.shape, on_mesh(sharding, mesh.mesh), mesh.mesh, "a value")}
        .size_bytes();
  };
  for (const auto& input : graph.inputs()) out.inputs += part(input.value.type(), input.sharding);
  for (const auto& output : graph.outputs()) {
    if (output.donated_input < 0) out.results += part(output.value.type(), output.sharding);
  }
  return out;
}

}  // namespace vertebra::pjrt
