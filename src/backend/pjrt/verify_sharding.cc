#include "backend/pjrt/verify_sharding.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "backend/pjrt/sharding_text.h"
#include "base/error.h"

namespace vertebra::pjrt {
namespace {

using Ints = std::vector<int64_t>;

int64_t product(const Ints& values) {
  return std::accumulate(values.begin(), values.end(), int64_t{1}, std::multiplies<>());
}

// Takes `token` from the front.
bool take(std::string_view& text, std::string_view token) {
  if (!text.starts_with(token)) return false;
  text.remove_prefix(token.size());
  return true;
}

// Takes "1,2,3" and the closing bracket.
bool take_numbers(std::string_view& text, char close, Ints& out) {
  const size_t end = text.find(close);
  if (end == std::string_view::npos) return false;
  if (!parse_list(fmt::format("[{}]", text.substr(0, end)), out) || out.empty()) return false;
  text.remove_prefix(end + 1);
  return true;
}

// `#sdy.sharding<@mesh, [{"data", "fsdp"}, {}]>`
bool parse_shardy(std::string_view text, Sharding& out) {
  if (!take(text, "#sdy.sharding<@mesh, [")) return false;
  if (text == "]>") return true;
  while (take(text, "{")) {
    auto& dim = out.dims.emplace_back();
    while (!take(text, "}")) {
      const auto* const axis = std::find_if(kMeshAxes.begin(), kMeshAxes.end(), [&](MeshAxis each) {
        return text.starts_with(fmt::format("\"{}\"", mesh_axis_name(each)));
      });
      if (axis == kMeshAxes.end()) return false;
      dim.push_back(*axis);
      take(text, fmt::format("\"{}\"", mesh_axis_name(*axis)));
      if (!take(text, ", ") && !text.starts_with("}")) return false;
    }
    if (!take(text, ", ")) return text == "]>";
  }
  return false;
}

std::string wrong_shardy(std::string_view text, const Mesh& mesh, const ParsedType& type) {
  Sharding sharding;
  if (!parse_shardy(text, sharding)) return "it is malformed, or names an axis that no mesh has";
  if (sharding.dims.size() != type.sizes.size())
    return fmt::format("it has {} dimensions, the value {}", sharding.dims.size(), type.sizes.size());
  std::vector<MeshAxis> used;
  for (size_t i = 0; i < sharding.dims.size(); ++i) {
    for (const MeshAxis axis : sharding.dims[i]) {
      if (mesh.size(axis) == 1) return fmt::format("the mesh has no axis '{}'", mesh_axis_name(axis));
      if (std::find(used.begin(), used.end(), axis) != used.end())
        return fmt::format("it uses the axis '{}' twice", mesh_axis_name(axis));
      used.push_back(axis);
    }
    if (type.sizes[i] % parts(sharding, mesh, static_cast<int>(i)) != 0)
      return fmt::format("it does not divide dimension {} of {}", i, type.sizes[i]);
  }
  return "";
}

// `"{devices=[4,1,2]<=[2,4]T(1,0) last_tile_dim_replicate}"`
std::string wrong_gspmd(std::string_view text, const Mesh& mesh, const ParsedType& type) {
  if (text == "\"{replicated}\"") return "";
  Ints grid, sizes, order;
  bool well_formed = take(text, "\"{devices=[") && take_numbers(text, ']', grid) && take(text, "<=[") &&
                     take_numbers(text, ']', sizes);
  if (well_formed && take(text, "T(")) well_formed = take_numbers(text, ')', order);
  const bool copies = well_formed && take(text, " last_tile_dim_replicate");
  if (!well_formed || text != "}\"") return "it is malformed";
  if (grid.size() != type.sizes.size() + (copies ? 1 : 0))
    return fmt::format("its grid has {} dimensions, the value {}", grid.size(), type.sizes.size());
  if (product(grid) != mesh.devices() || product(sizes) != mesh.devices())
    return fmt::format("it is not of {} devices", mesh.devices());
  std::sort(order.begin(), order.end());
  for (size_t i = 0; i < order.size(); ++i) {
    if (order.size() != sizes.size() || order[i] != static_cast<int64_t>(i))
      return "its order of axes is none";
  }
  for (size_t i = 0; i < type.sizes.size(); ++i) {
    if (grid[i] < 1 || type.sizes[i] % grid[i] != 0)
      return fmt::format("it does not divide dimension {} of {}", i, type.sizes[i]);
  }
  return "";
}

}  // namespace

std::string wrong_sharding(std::string_view text, Partitioner partitioner, const Mesh& mesh,
                           const ParsedType& type) {
  return partitioner == Partitioner::kShardy ? wrong_shardy(text, mesh, type) : wrong_gspmd(text, mesh, type);
}

std::string wrong_mesh(const ParsedOperation& operation, const Mesh& mesh) {
  const std::string *name = operation.attribute("sym_name"), *axes = operation.attribute("mesh");
  if (operation.name != "sdy.mesh" || name == nullptr || *name != "\"mesh\"" || axes == nullptr)
    return "an operation sdy.mesh called mesh is wanted";
  return mesh_operation(mesh).find("mesh = " + *axes + ",") == std::string::npos
             ? fmt::format("the devices are {}", mesh.to_string())
             : "";
}

}  // namespace vertebra::pjrt
