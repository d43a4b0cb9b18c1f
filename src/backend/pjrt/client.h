// A plugin's client and its devices. Holds the order of destruction: buffers and executables keep the client
// alive, so it goes last. Made by the backend; one per plugin and process.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "backend/pjrt/plugin.h"
#include "tensor/tensor.h"

namespace vertebra::pjrt {

struct DeviceDescription {
  int id = 0;
  std::string kind;
  uint64_t memory_bytes = 0;  // 0: the plugin does not say
};

ElementType element_type(DType dtype);

class Client {
 public:
  // `devices`: as many are needed; of use where the host pretends to be any number (vendors.h).
  explicit Client(std::shared_ptr<Plugin> plugin, int64_t devices = 1);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const Plugin& plugin() const { return *plugin_; }
  ClientHandle* handle() const { return client_; }
  const std::string& platform_name() const { return platform_name_; }
  const std::string& platform_version() const { return platform_version_; }
  const std::vector<DeviceDescription>& devices() const { return descriptions_; }
  DeviceHandle* device(size_t index) const { return devices_.at(index); }

 private:
  void describe_devices();
  std::shared_ptr<Plugin> plugin_;
  ClientHandle* client_ = nullptr;
  std::string platform_name_, platform_version_;
  std::vector<DeviceHandle*> devices_;
  std::vector<DeviceDescription> descriptions_;
};

// A copy from the device under way; waits in the destructor, since the plugin writes into the tensor.
class Download final : public PendingTensor {
 public:
  Download(std::shared_ptr<Client> client, const TensorType& type)
      : client_(std::move(client)), host_(type) {}
  Download(const Download&) = delete;
  Download& operator=(const Download&) = delete;
  ~Download() override;
  Tensor wait() override;

 private:
  friend class DeviceBuffer;
  std::shared_ptr<Client> client_;
  Tensor host_;
  EventHandle* done_ = nullptr;
};

// A buffer of the plugin; destroyed with this. Shared by nobody.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::shared_ptr<Client> client, BufferHandle* handle)
      : client_(std::move(client)), handle_(handle) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  // Copies a dense tensor (static shape) to the device; the host memory is free afterwards.
  static DeviceBuffer upload(const std::shared_ptr<Client>& client, DeviceHandle* device, const Tensor& host);
  // `type` is the buffer's own. The buffer may be destroyed meanwhile.
  std::unique_ptr<Download> start_download(const TensorType& type) const;

  bool defined() const { return handle_ != nullptr; }
  BufferHandle* handle() const { return handle_; }

 private:
  std::shared_ptr<Client> client_;
  BufferHandle* handle_ = nullptr;
};

}  // namespace vertebra::pjrt
