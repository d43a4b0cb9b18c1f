// A tensor on a plugin's device, as this backend's Buffer. The device memory comes with the first write: an
// upload, or the outputs of a run.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/pjrt/client.h"

namespace vertebra::pjrt {

class PjrtBuffer final : public Buffer {
 public:
  // Able to hold the type at its bounds; its own type starts as that.
  PjrtBuffer(std::shared_ptr<Client> client, DeviceHandle* device, const TensorType& declared);

  const TensorType& type() const override { return type_; }
  // Throws failed_precondition when an output of another buffer took over the content.
  Tensor to_host() const override;
  std::unique_ptr<PendingTensor> read() const override;
  // Throws invalid_argument unless the tensor fits the declared type; bounded dimensions may be smaller.
  void copy_from(const Tensor& host) override;

  const Client& client() const { return *client_; }
  const TensorType& declared() const { return declared_; }

  // For the executable. The device buffer of that padded type: zeros when nothing was written yet, padded
  // anew when it has another padded size.
  BufferHandle* input(const TensorType& padded);
  // The buffer now holds that output, of that padded and actual type.
  void adopt(DeviceBuffer output, const TensorType& padded, const TensorType& actual);
  // The content went into another buffer.
  void give_up();

 private:
  std::shared_ptr<Client> client_;
  DeviceHandle* device_;
  TensorType declared_, type_, padded_;
  DeviceBuffer memory_;
  bool given_up_ = false;
};

}  // namespace vertebra::pjrt
