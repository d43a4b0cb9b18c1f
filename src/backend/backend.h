// What a backend offers: devices, buffers on them, and executables compiled from graphs. No model,
// trainer or engine file knows which backend runs it; only cli/ names a concrete one.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "tensor/tensor.h"

namespace vertebra {

// A tensor on its way from a device to the host.
class PendingTensor {
 public:
  virtual ~PendingTensor() = default;
  // Blocks until it has arrived; called once. Errors of the work that computes it appear here.
  virtual Tensor wait() = 0;
};

// Memory on a device, holding one tensor. Made by a backend; destroyed before it.
class Buffer {
 public:
  virtual ~Buffer() = default;
  // The type with actual sizes (no bounded dimensions).
  virtual const TensorType& type() const = 0;
  // Blocks until what writes the buffer is done. `copy_from` needs the buffer's own type.
  virtual Tensor to_host() const = 0;
  // The content as the work handed over so far leaves it. Does not block where the device works beside the
  // host; later runs may overwrite the buffer meanwhile.
  virtual std::unique_ptr<PendingTensor> read() const;
  virtual void copy_from(const Tensor& host) = 0;
};

struct DeviceInfo {
  std::string name;           // "cpu", "pjrt:cpu:0"
  std::string kind;           // processor or chip name
  uint64_t memory_bytes = 0;  // 0: unknown
  std::string note;           // how it was found, instruction set, versions
};

// A compiled graph.
class Executable {
 public:
  virtual ~Executable() = default;
  // inputs[i] feeds graph input i, outputs[j] receives graph output j. Where output j takes over input i,
  // pass the same Buffer for both (or any other buffer: then the input's content is given up). All buffers
  // belong to the backend that compiled. Types are checked: invalid_argument names the input. A bounded
  // dimension takes its size from the inputs' actual shapes; output buffers are given theirs. May return
  // before the work is done (Buffer::to_host waits). Steady state allocates nothing on the CPU.
  virtual void run(std::span<Buffer* const> inputs, std::span<Buffer* const> outputs) = 0;
  // Bytes of temporary memory the executable holds.
  virtual uint64_t workspace_bytes() const = 0;
  // The graph as the backend runs it (after its passes), for people.
  virtual std::string describe() const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual DeviceInfo device() const = 0;
  virtual std::unique_ptr<Executable> compile(const Graph& graph) = 0;
  // An uninitialised buffer able to hold the type (bounded dimensions: the bound).
  virtual std::unique_ptr<Buffer> allocate(const TensorType& type) = 0;
  virtual std::unique_ptr<Buffer> upload(const Tensor& host) = 0;
  // The devices that graphs run on. Above, a buffer is whole on every one of them; below, cut over them as
  // the sharding says, which must be that of the graph input or output it is used for. One tensor still:
  // type, to_host and copy_from are those of the whole.
  virtual Mesh mesh() const { return {}; }
  virtual std::unique_ptr<Buffer> allocate_sharded(const TensorType& type, const Sharding&) {
    return allocate(type);
  }
  virtual std::unique_ptr<Buffer> upload_sharded(const Tensor& host, const Sharding&) { return upload(host); }
  // True where buffers lie in the host's memory: reading them moves nothing over a bus.
  virtual bool host_memory() const { return false; }
  // True where the chip multiplies bf16 natively: the recipe's "auto" precision asks.
  virtual bool native_bf16() const = 0;
  // Peak multiply-add rate (FLOP/s) measured or stated for f32 / bf16 products, for shares of the ceiling; of
  // all devices together.
  virtual double peak_flops(DType dtype) = 0;
  // Bytes per second that the devices' memories together deliver, as their makers state it; 0: not known.
  virtual double memory_bandwidth() const { return 0; }
};

}  // namespace vertebra
