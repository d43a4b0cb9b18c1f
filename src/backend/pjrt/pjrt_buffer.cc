#include "backend/pjrt/pjrt_buffer.h"

#include <set>

#include "backend/bounded_types.h"
#include "backend/pjrt/bounded_shapes.h"
#include "backend/pjrt/device_type.h"
#include "backend/pjrt/shards.h"
#include "base/error.h"

namespace vertebra::pjrt {

PjrtBuffer::PjrtBuffer(std::shared_ptr<const DeviceMesh> mesh, const TensorType& declared,
                       const Sharding& sharding)
    : mesh_(std::move(mesh)),
      declared_(declared),
      type_(at_bounds(declared)),
      padded_(type_),
      sharding_(on_mesh(sharding, mesh_->mesh)) {
  const Shape part =
      shard_shape(declared.shape, sharding_, mesh_->mesh, "a buffer of type " + declared.to_string());
  require(
      !is_block_quantized(declared.dtype) || part[part.rank() - 1] % block_size(declared.dtype).elements == 0,
      "a buffer of type {}: rows cut into parts of {} elements, which are no whole blocks of {}: another "
      "mesh, or "
      "weights that are not quantized",
      declared.to_string(), part[part.rank() - 1], block_size(declared.dtype).elements);
}

TensorType PjrtBuffer::part_type(const TensorType& whole) const {
  return device_type({whole.dtype, shard_shape(whole.shape, sharding_, mesh_->mesh, "a buffer")});
}

Tensor PjrtBuffer::to_host() const {
  require(!given_up_, Code::kFailedPrecondition,
          "a buffer of type {} is read after an output took over its content", type_.to_string());
  if (parts_.empty()) return Tensor::zeros(type_);
  return resized(download(), type_.shape);
}

std::unique_ptr<PendingTensor> PjrtBuffer::read() const {
  const bool as_it_lies = padded_ == type_ && sharding_.is_replicated() && device_type(type_) == type_;
  if (given_up_ || parts_.empty() || !as_it_lies) return Buffer::read();
  return parts_[0].start_download(padded_);
}

Tensor PjrtBuffer::download() const {
  const TensorType part = part_type(padded_);
  if (sharding_.is_replicated()) return from_device(parts_[0].start_download(part)->wait(), padded_);
  Tensor whole(device_type(padded_));
  std::vector<std::pair<std::vector<int64_t>, std::unique_ptr<Download>>> copies;
  std::set<std::vector<int64_t>> seen;  // the same part may lie on several devices
  for (size_t i = 0; i < parts_.size(); ++i) {
    const std::vector<int64_t> start =
        shard_start(whole.shape(), sharding_, mesh_->mesh, static_cast<int64_t>(i));
    if (seen.insert(start).second) copies.emplace_back(start, parts_[i].start_download(part));
  }
  for (const auto& [start, copy] : copies) put_part(whole, start, copy->wait());
  return from_device(whole, padded_);
}

std::vector<DeviceBuffer> PjrtBuffer::upload(const Tensor& padded) const {
  const Shape part = part_type(padded.type()).shape;
  const Tensor bytes = as_on_device(padded);
  std::vector<DeviceBuffer> out;
  for (size_t i = 0; i < mesh_->size(); ++i) {
    const std::vector<int64_t> start =
        shard_start(bytes.shape(), sharding_, mesh_->mesh, static_cast<int64_t>(i));
    out.push_back(DeviceBuffer::upload(mesh_->client, mesh_->device(i), take_part(bytes, start, part)));
  }
  return out;
}

void PjrtBuffer::copy_from(const Tensor& host) {
  require(fits(host.type(), declared_), "a tensor of type {} cannot be copied into a buffer of type {}",
          host.type().to_string(), declared_.to_string());
  const TensorType actual = at_bounds(host.type());
  const TensorType padded = padded_type(actual, declared_);
  parts_ = upload(resized(host, padded.shape));
  type_ = actual;
  padded_ = padded;
  given_up_ = false;
}

const std::vector<DeviceBuffer>& PjrtBuffer::input(const TensorType& padded) {
  require(!given_up_, Code::kFailedPrecondition,
          "a buffer of type {} is used after an output took over its content", type_.to_string());
  if (parts_.empty()) {
    parts_ = upload(Tensor::zeros(padded));
    padded_ = padded;
  } else if (padded_ != padded) {
    parts_ = upload(resized(to_host(), padded.shape));
    padded_ = padded;
  }
  return parts_;
}

void PjrtBuffer::adopt(std::vector<DeviceBuffer> outputs, const TensorType& padded,
                       const TensorType& actual) {
  parts_ = std::move(outputs);
  padded_ = padded;
  type_ = actual;
  given_up_ = false;
}

void PjrtBuffer::give_up() {
  parts_.clear();
  given_up_ = true;
}

}  // namespace vertebra::pjrt
