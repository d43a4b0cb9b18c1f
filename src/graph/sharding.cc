#include "graph/sharding.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/error.h"

namespace vertebra {

std::string_view mesh_axis_name(MeshAxis axis) {
  constexpr std::array<std::string_view, kMeshAxes.size()> kNames = {"data", "fsdp", "tensor"};
  return kNames[static_cast<size_t>(axis)];
}

int64_t Mesh::size(MeshAxis axis) const {
  switch (axis) {
    case MeshAxis::kData:
      return data;
    case MeshAxis::kFsdp:
      return fsdp;
    case MeshAxis::kTensor:
      return tensor;
  }
  return 1;
}

std::vector<MeshAxis> Mesh::axes() const {
  std::vector<MeshAxis> out;
  for (const MeshAxis axis : kMeshAxes) {
    if (size(axis) > 1) out.push_back(axis);
  }
  return out;
}

int64_t Mesh::coordinate(int64_t device, MeshAxis axis) const {
  switch (axis) {
    case MeshAxis::kData:
      return device / (fsdp * tensor);
    case MeshAxis::kFsdp:
      return device / tensor % fsdp;
    case MeshAxis::kTensor:
      return device % tensor;
  }
  return 0;
}

std::string Mesh::to_string() const {
  std::vector<std::string> out;
  for (const MeshAxis axis : axes()) out.push_back(fmt::format("{} {}", mesh_axis_name(axis), size(axis)));
  return out.empty() ? "one device" : fmt::format("{}", fmt::join(out, ", "));
}

bool Sharding::is_replicated() const {
  return std::all_of(dims.begin(), dims.end(), [](const auto& axes) { return axes.empty(); });
}

std::string Sharding::to_string() const {
  std::vector<std::string> out;
  for (const auto& axes : dims) {
    std::vector<std::string_view> names;
    for (const MeshAxis axis : axes) names.push_back(mesh_axis_name(axis));
    out.push_back(names.empty() ? "-" : fmt::format("{}", fmt::join(names, " ")));
  }
  return fmt::format("[{}]", fmt::join(out, ", "));
}

Sharding on_mesh(const Sharding& sharding, const Mesh& mesh) {
  Sharding out = sharding;
  for (auto& axes : out.dims) std::erase_if(axes, [&](MeshAxis axis) { return mesh.size(axis) == 1; });
  while (!out.dims.empty() && out.dims.back().empty()) out.dims.pop_back();
  return out;
}

int64_t parts(const Sharding& sharding, const Mesh& mesh, int dim) {
  int64_t out = 1;
  if (static_cast<size_t>(dim) >= sharding.dims.size()) return out;
  for (const MeshAxis axis : sharding.dims[static_cast<size_t>(dim)]) out *= mesh.size(axis);
  return out;
}

Shape shard_shape(const Shape& shape, const Sharding& sharding, const Mesh& mesh, std::string_view what) {
  require(static_cast<int>(sharding.dims.size()) <= shape.rank(),
          "{}: the sharding {} has more dimensions than the shape {}", what, sharding.to_string(),
          shape.to_string());
  Shape out = shape;
  std::set<MeshAxis> used;
  for (size_t i = 0; i < sharding.dims.size(); ++i) {
    const int dim = static_cast<int>(i);
    for (const MeshAxis axis : sharding.dims[i])
      require(used.insert(axis).second, "{}: the sharding {} uses the mesh axis '{}' twice", what,
              sharding.to_string(), mesh_axis_name(axis));
    const int64_t ways = parts(sharding, mesh, dim);
    if (ways == 1) continue;
    require(shape.dim(dim).symbol == 0, Code::kUnimplemented,
            "{}: dimension {} of {} is bounded and cannot be cut over the mesh", what, dim,
            shape.to_string());
    require(shape[dim] % ways == 0,
            "{}: dimension {} of {} is no multiple of {}, the devices of the mesh axis {}", what, dim,
            shape.to_string(), ways, Sharding{{sharding.dims[i]}}.to_string());
    out.set_dim(dim, shape[dim] / ways);
  }
  return out;
}

std::vector<int64_t> shard_start(const Shape& shape, const Sharding& sharding, const Mesh& mesh,
                                 int64_t device) {
  std::vector<int64_t> out(static_cast<size_t>(shape.rank()), 0);
  for (size_t i = 0; i < sharding.dims.size(); ++i) {
    int64_t part = 0;
    for (const MeshAxis axis : sharding.dims[i])
      part = part * mesh.size(axis) + mesh.coordinate(device, axis);
    const int dim = static_cast<int>(i);
    out[i] = part * (shape[dim] / parts(sharding, mesh, dim));
  }
  return out;
}

}  // namespace vertebra
