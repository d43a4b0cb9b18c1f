#include "backend/pjrt/pjrt_buffer.h"

#include "backend/bounded_types.h"
#include "backend/pjrt/bounded_shapes.h"
#include "base/error.h"

namespace vertebra::pjrt {

PjrtBuffer::PjrtBuffer(std::shared_ptr<Client> client, DeviceHandle* device, const TensorType& declared)
    : client_(std::move(client)),
      device_(device),
      declared_(declared),
      type_(at_bounds(declared)),
      padded_(type_) {}

Tensor PjrtBuffer::to_host() const {
  require(!given_up_, Code::kFailedPrecondition,
          "a buffer of type {} is read after an output took over its content", type_.to_string());
  if (!memory_.defined()) return Tensor::zeros(type_);
  return resized(memory_.start_download(padded_)->wait(), type_.shape);
}

std::unique_ptr<PendingTensor> PjrtBuffer::read() const {
  if (given_up_ || !memory_.defined() || padded_ != type_) return Buffer::read();
  return memory_.start_download(padded_);
}

void PjrtBuffer::copy_from(const Tensor& host) {
  require(fits(host.type(), declared_), "a tensor of type {} cannot be copied into a buffer of type {}",
          host.type().to_string(), declared_.to_string());
  const TensorType actual = at_bounds(host.type());
  const TensorType padded = padded_type(actual, declared_);
  memory_ = DeviceBuffer::upload(client_, device_, resized(host, padded.shape));
  type_ = actual;
  padded_ = padded;
  given_up_ = false;
}

BufferHandle* PjrtBuffer::input(const TensorType& padded) {
  require(!given_up_, Code::kFailedPrecondition,
          "a buffer of type {} is used after an output took over its content", type_.to_string());
  if (!memory_.defined()) {
    memory_ = DeviceBuffer::upload(client_, device_, Tensor::zeros(padded));
    padded_ = padded;
  } else if (padded_ != padded) {
    memory_ = DeviceBuffer::upload(client_, device_, resized(to_host(), padded.shape));
    padded_ = padded;
  }
  return memory_.handle();
}

void PjrtBuffer::adopt(DeviceBuffer output, const TensorType& padded, const TensorType& actual) {
  memory_ = std::move(output);
  padded_ = padded;
  type_ = actual;
  given_up_ = false;
}

void PjrtBuffer::give_up() {
  memory_ = DeviceBuffer();
  given_up_ = true;
}

}  // namespace vertebra::pjrt
