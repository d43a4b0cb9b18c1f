// A tensor on a plugin's device, or cut over the devices of a mesh, as this backend's Buffer. The device
// memory comes with the first write: an upload, or the outputs of a run.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "backend/pjrt/device_mesh.h"

namespace vertebra::pjrt {

class PjrtBuffer final : public Buffer {
 public:
  // Able to hold the type at its bounds; its own type starts as that. Throws invalid_argument where the
  // sharding does not divide the shape.
  PjrtBuffer(std::shared_ptr<const DeviceMesh> mesh, const TensorType& declared, const Sharding& sharding);

  const TensorType& type() const override { return type_; }
  // Throws failed_precondition when an output of another buffer took over the content.
  Tensor to_host() const override;
  std::unique_ptr<PendingTensor> read() const override;
  // Throws invalid_argument unless the tensor fits the declared type; bounded dimensions may be smaller.
  void copy_from(const Tensor& host) override;

  const Client& client() const { return *mesh_->client; }
  const TensorType& declared() const { return declared_; }
  const Sharding& sharding() const { return sharding_; }
  // What one device holds of it.
  uint64_t bytes_per_device() const { return part_type(padded_).size_bytes(); }

  // For the executable. The device buffers of that padded type, one for each device: zeros when nothing was
  // written yet, padded anew when it has another padded size. Valid until the next call.
  const std::vector<DeviceBuffer>& input(const TensorType& padded);
  // The buffer now holds these outputs, of that padded and actual type.
  void adopt(std::vector<DeviceBuffer> outputs, const TensorType& padded, const TensorType& actual);
  // The content went into another buffer.
  void give_up();

 private:
  TensorType part_type(const TensorType& whole) const;
  std::vector<DeviceBuffer> upload(const Tensor& padded) const;
  Tensor download() const;  // of the padded type

  std::shared_ptr<const DeviceMesh> mesh_;
  TensorType declared_, type_, padded_;
  Sharding sharding_;                // without what the mesh makes void
  std::vector<DeviceBuffer> parts_;  // by device; empty: nothing was written
  bool given_up_ = false;
};

}  // namespace vertebra::pjrt
