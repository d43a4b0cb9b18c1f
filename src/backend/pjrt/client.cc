#include "backend/pjrt/client.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"

namespace vertebra::pjrt {

ElementType element_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ElementType::kF32;
    case DType::kBF16:
      return ElementType::kBF16;
    case DType::kF16:
      return ElementType::kF16;
    case DType::kF64:
      return ElementType::kF64;
    case DType::kI64:
      return ElementType::kS64;
    case DType::kI32:
      return ElementType::kS32;
    case DType::kU32:
      return ElementType::kU32;
    case DType::kI8:
      return ElementType::kS8;
    case DType::kU8:
      return ElementType::kU8;
    case DType::kBool:
      return ElementType::kPred;
    default:
      return ElementType::kInvalid;
  }
}

Client::Client(std::shared_ptr<Plugin> plugin, int64_t devices) : plugin_(std::move(plugin)) {
  std::vector<NamedValue> options;
  for (const CreateOption& option : plugin_->vendor().create_options) {
    NamedValue value = {};
    value.header.struct_size = sizeof(NamedValue);
    value.name = option.name.data();
    value.name_size = option.name.size();
    value.type = NamedValue::kInt64;
    value.int64_value = option.counts_devices ? std::max(devices, option.value) : option.value;
    value.value_size = 1;
    options.push_back(value);
  }
  ClientCreateArgs args = {};
  args.create_options = options.data();
  args.num_options = options.size();
  plugin_->call(Slot::kClientCreate, args, "start the plugin");
  require(args.client != nullptr, Code::kInternal, "the plugin {} made no client", plugin_->file().string());
  client_ = args.client;
  const auto text = [&](Slot slot) -> std::string {
    if (!plugin_->has(slot)) return "";
    ClientTextArgs text_args = {{}, client_, nullptr, 0};
    plugin_->call(slot, text_args, "read the platform's name");
    return {text_args.text, text_args.text_size};
  };
  platform_name_ = text(Slot::kClientPlatformName);
  platform_version_ = text(Slot::kClientPlatformVersion);
  describe_devices();
}

Client::~Client() {
  if (client_ != nullptr)
    plugin_->call_quietly(Slot::kClientDestroy, ClientArgs{{}, client_}, "stop the plugin");
}

void Client::describe_devices() {
  ClientDevicesArgs args = {{}, client_, nullptr, 0};
  plugin_->call(Slot::kClientAddressableDevices, args, "list the devices");
  for (size_t i = 0; i < args.num_devices; ++i) {
    devices_.push_back(args.devices[i]);
    DeviceDescriptionArgs description = {{}, args.devices[i], nullptr};
    plugin_->call(Slot::kDeviceGetDescription, description, "describe a device");
    DescriptionIdArgs id = {{}, description.description, 0};
    plugin_->call(Slot::kDescriptionId, id, "describe a device");
    DescriptionTextArgs kind = {{}, description.description, nullptr, 0};
    plugin_->call(Slot::kDescriptionKind, kind, "describe a device");
    DeviceDescription out = {id.id, std::string(kind.text, kind.text_size), 0};
    if (plugin_->has(Slot::kDeviceMemoryStats)) {
      DeviceMemoryStatsArgs stats = {};
      stats.device = args.devices[i];
      try {
        plugin_->call(Slot::kDeviceMemoryStats, stats, "read a device's memory");
        if (stats.bytes_limit.is_set && stats.bytes_limit.value > 0)
          out.memory_bytes = static_cast<uint64_t>(stats.bytes_limit.value);
      } catch (const Error&) {  // "not known" is an answer: many plugins, the CPU's among them, have no other
      }
    }
    descriptions_.push_back(std::move(out));
  }
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : client_(std::move(other.client_)), handle_(std::exchange(other.handle_, nullptr)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(client_, other.client_);
  std::swap(handle_, other.handle_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (handle_ != nullptr)
    client_->plugin().call_quietly(Slot::kBufferDestroy, BufferArgs{{}, handle_}, "free a buffer");
}

DeviceBuffer DeviceBuffer::upload(const std::shared_ptr<Client>& client, DeviceHandle* device,
                                  const Tensor& host) {
  VERTEBRA_CHECK(element_type(host.dtype()) != ElementType::kInvalid, "a type that no device knows");
  const std::vector<int64_t> sizes = host.shape().sizes();
  static const std::byte nothing{};  // a tensor without elements may have no memory
  BufferFromHostArgs args = {};
  args.client = client->handle();
  args.data = host.raw() != nullptr ? host.raw() : &nothing;
  args.type = element_type(host.dtype());
  args.dims = sizes.data();
  args.num_dims = sizes.size();
  args.host_buffer_semantics = HostBufferSemantics::kImmutableOnlyDuringCall;
  args.device = device;
  client->plugin().call(Slot::kBufferFromHostBuffer, args, "copy a tensor to the device");
  DeviceBuffer out(client, args.buffer);
  client->plugin().await(args.done_with_host_buffer, "copy a tensor to the device");
  return out;
}

std::unique_ptr<Download> DeviceBuffer::start_download(const TensorType& type) const {
  auto out = std::make_unique<Download>(client_, type);
  if (type.size_bytes() == 0) return out;
  std::vector<int64_t> minor_to_major;
  for (int axis = type.shape.rank(); axis-- > 0;) minor_to_major.push_back(axis);
  Padded<MemoryLayout> layout;
  client_->plugin().set_size(layout);
  layout.value.tiled.header.struct_size = sizeof(MemoryLayout::Tiled);
  layout.value.tiled.minor_to_major = minor_to_major.data();
  layout.value.tiled.minor_to_major_size = minor_to_major.size();
  BufferToHostArgs args = {};
  args.source = handle_;
  args.host_layout = &layout.value;
  args.destination = out->host_.raw();
  args.destination_size = out->host_.size_bytes();
  client_->plugin().call(Slot::kBufferToHostBuffer, args, "copy a tensor from the device");
  out->done_ = args.event;
  return out;
}

Tensor Download::wait() {
  if (done_ != nullptr)
    client_->plugin().await(std::exchange(done_, nullptr), "compute a tensor on the device");
  return std::move(host_);
}

Download::~Download() {
  try {
    wait();
  } catch (const std::exception& error) {  // nobody asked for this tensor any more
    log_debug("{}", error.what());
  }
}

}  // namespace vertebra::pjrt
