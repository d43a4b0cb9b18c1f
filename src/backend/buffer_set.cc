#include "backend/buffer_set.h"

#include "base/error.h"

namespace vertebra {

Buffer& BufferSet::set(std::string name, std::unique_ptr<Buffer> buffer) {
  auto& place = buffers_[std::move(name)];
  place = std::move(buffer);
  return *place;
}

Buffer* BufferSet::find(std::string_view name) const {
  const auto it = buffers_.find(name);
  return it == buffers_.end() ? nullptr : it->second.get();
}

Buffer& BufferSet::at(std::string_view name) const {
  Buffer* found = find(name);
  require(found != nullptr, Code::kNotFound, "there is no buffer named '{}'", name);
  return *found;
}

BoundExecutable::BoundExecutable(Backend& backend, const Graph& graph, BufferSet& buffers,
                                 const BufferSet* shared)
    : executable_(backend.compile(graph)) {
  const auto find_or_allocate = [&](const std::string& name, const TensorType& type,
                                    const Sharding& sharding) {
    if (Buffer* found = buffers.find(name)) return found;
    if (Buffer* found = shared == nullptr ? nullptr : shared->find(name)) return found;
    return &buffers.set(name, backend.allocate_sharded(type, sharding));
  };
  for (const auto& input : graph.inputs())
    inputs_.push_back(find_or_allocate(input.name, input.value.type(), input.sharding));
  for (const auto& output : graph.outputs()) {
    outputs_.push_back(output.donated_input >= 0
                           ? inputs_[static_cast<size_t>(output.donated_input)]
                           : find_or_allocate(output.name, output.value.type(), output.sharding));
  }
}

}  // namespace vertebra
