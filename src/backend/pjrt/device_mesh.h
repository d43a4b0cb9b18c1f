// The devices of a backend: one, or as many as its mesh has, in the mesh's order.
#pragma once

#include <memory>
#include <vector>

#include "backend/pjrt/client.h"
#include "graph/sharding.h"

namespace vertebra::pjrt {

struct DeviceMesh {
  std::shared_ptr<Client> client;
  Mesh mesh;
  std::vector<size_t> devices;  // places in Client::devices()
  uint64_t memory_bytes = 0;    // of one device; 0: unknown

  size_t size() const { return devices.size(); }
  DeviceHandle* device(size_t i) const { return client->device(devices[i]); }
  std::vector<int> ids() const {
    std::vector<int> out;
    for (const size_t i : devices) out.push_back(client->devices()[i].id);
    return out;
  }
};

}  // namespace vertebra::pjrt
