#include "backend/pjrt/sharding_text.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.h"

namespace vertebra::pjrt {
namespace {

std::string quoted(const std::vector<MeshAxis>& axes) {
  std::vector<std::string> names;
  for (const MeshAxis axis : axes) names.push_back(fmt::format("\"{}\"", mesh_axis_name(axis)));
  return fmt::format("{{{}}}", fmt::join(names, ", "));
}

// GSPMD wants the grid of parts with, last, the copies of each, and how the devices 0 .. n-1 fill it: the
// mesh's own grid, its axes moved to where they are used.
std::string tiles(const Sharding& sharding, int rank, const Mesh& mesh) {
  const std::vector<MeshAxis> axes = mesh.axes();
  std::vector<int64_t> grid, sizes;
  std::vector<size_t> order;
  const auto place = [&](MeshAxis axis) {
    const auto it = std::find(axes.begin(), axes.end(), axis);
    VERTEBRA_CHECK(it != axes.end(), "a sharding names an axis that the mesh lacks");
    order.push_back(static_cast<size_t>(it - axes.begin()));
  };
  for (int dim = 0; dim < rank; ++dim) {
    grid.push_back(parts(sharding, mesh, dim));
    if (static_cast<size_t>(dim) >= sharding.dims.size()) continue;
    for (const MeshAxis axis : sharding.dims[static_cast<size_t>(dim)]) place(axis);
  }
  int64_t copies = 1;
  for (const MeshAxis axis : axes) {
    sizes.push_back(mesh.size(axis));
    if (std::find(order.begin(), order.end(), sizes.size() - 1) != order.end()) continue;
    copies *= mesh.size(axis);
    place(axis);
  }
  if (copies > 1) grid.push_back(copies);
  const std::string filling = std::is_sorted(order.begin(), order.end())
                                  ? fmt::format("[{}]", mesh.devices())
                                  : fmt::format("[{}]T({})", fmt::join(sizes, ","), fmt::join(order, ","));
  return fmt::format("{{devices=[{}]<={}{}}}", fmt::join(grid, ","), filling,
                     copies > 1 ? " last_tile_dim_replicate" : "");
}

}  // namespace

std::string mesh_operation(const Mesh& mesh) {
  std::vector<std::string> axes;
  for (const MeshAxis axis : mesh.axes())
    axes.push_back(fmt::format("\"{}\"={}", mesh_axis_name(axis), mesh.size(axis)));
  return fmt::format("\"sdy.mesh\"() <{{mesh = #sdy.mesh<[{}]>, sym_name = \"mesh\"}}> : () -> ()\n",
                     fmt::join(axes, ", "));
}

std::string sharding_text(const Sharding& sharding, int rank, const Mesh& mesh, Partitioner partitioner) {
  const Sharding effective = on_mesh(sharding, mesh);
  if (partitioner == Partitioner::kGspmd) {
    return fmt::format("\"{}\"", effective.is_replicated() ? "{replicated}" : tiles(effective, rank, mesh));
  }
  std::vector<std::string> dims(static_cast<size_t>(rank), "{}");
  for (size_t i = 0; i < effective.dims.size(); ++i) dims[i] = quoted(effective.dims[i]);
  return fmt::format("#sdy.sharding<@mesh, [{}]>", fmt::join(dims, ", "));
}

std::string_view sharding_name(Partitioner partitioner) {
  return partitioner == Partitioner::kShardy ? "sdy.sharding" : "mhlo.sharding";
}

std::string sharding_attribute(const Sharding& sharding, int rank, const Mesh& mesh,
                               Partitioner partitioner) {
  return fmt::format("{} = {}", sharding_name(partitioner), sharding_text(sharding, rank, mesh, partitioner));
}

}  // namespace vertebra::pjrt
