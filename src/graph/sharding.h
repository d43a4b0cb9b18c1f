// A mesh of devices, and how a tensor lies on it. Graph inputs and outputs carry a Sharding; the backend
// knows the Mesh. What part of a model goes where is models/sharding.h.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/shape.h"

namespace vertebra {

// Slowest first: devices that differ only in `tensor` are neighbours, and talk the most.
enum class MeshAxis : uint8_t { kData, kFsdp, kTensor };
inline constexpr std::array kMeshAxes = {MeshAxis::kData, MeshAxis::kFsdp, MeshAxis::kTensor};
std::string_view mesh_axis_name(MeshAxis axis);  // "data", "fsdp", "tensor"

// Devices in a grid, numbered row by row: data x fsdp x tensor.
struct Mesh {
  int64_t data = 1;    // copies of the model, each with its share of the batch
  int64_t fsdp = 1;    // shares of the batch, and of every parameter (fully sharded data parallel)
  int64_t tensor = 1;  // shares of heads, feed-forward width and vocabulary

  int64_t size(MeshAxis axis) const;
  int64_t devices() const { return data * fsdp * tensor; }
  std::vector<MeshAxis> axes() const;  // those longer than 1
  // Where device `device` stands along an axis.
  int64_t coordinate(int64_t device, MeshAxis axis) const;
  std::string to_string() const;  // "data 2, tensor 4"; "one device"
  bool operator==(const Mesh&) const = default;
};

// For each dimension of a tensor the mesh axes that it is cut along, the slowest first. Dimensions left out
// at the end are whole; no dimension cut: every device holds all of it.
struct Sharding {
  std::vector<std::vector<MeshAxis>> dims;

  bool is_replicated() const;
  std::string to_string() const;  // "[data fsdp, -]"
  bool operator==(const Sharding&) const = default;
};

// The same without what the mesh makes void: axes of length 1, whole dimensions at the end. Two shardings lie
// alike on a mesh when these are equal.
Sharding on_mesh(const Sharding& sharding, const Mesh& mesh);
// Into how many parts dimension `dim` is cut.
int64_t parts(const Sharding& sharding, const Mesh& mesh, int dim);
// One device's part. Throws invalid_argument naming `what`, dimension and mesh axes where one does not divide
// the other, or where a sharding has more dimensions than the shape or an axis twice; unimplemented for a
// bounded dimension.
Shape shard_shape(const Shape& shape, const Sharding& sharding, const Mesh& mesh, std::string_view what);
// Where that part begins, for each dimension. The sharding fits the shape.
std::vector<int64_t> shard_start(const Shape& shape, const Sharding& sharding, const Mesh& mesh,
                                 int64_t device);

}  // namespace vertebra
