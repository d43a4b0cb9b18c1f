// A graph compiled by a plugin: one executable per combination of padded sizes of its bounded dimensions,
// made when first needed. Binds buffers at each run. Made by the backend.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/pjrt/compiler.h"
#include "backend/pjrt/memory_use.h"
#include "backend/pjrt/pad_bounded.h"
#include "backend/pjrt/pjrt_buffer.h"

namespace vertebra::pjrt {

class PjrtExecutable final : public Executable {
 public:
  // The graph holds primitives only. Without bounded dimensions it is compiled now, otherwise when run.
  PjrtExecutable(std::shared_ptr<const DeviceMesh> mesh, std::shared_ptr<Compiler> compiler, Graph graph);
  ~PjrtExecutable() override;

  // Returns when the work is queued; an error on the device is thrown by the next run or by Buffer::to_host.
  void run(std::span<Buffer* const> inputs, std::span<Buffer* const> outputs) override;
  uint64_t workspace_bytes() const override;
  std::string describe() const override;
  // What the compiler made of each combination of padded sizes that has run; of a graph without bounded
  // dimensions, of that.
  std::vector<LoadedExecutable::OptimizedProgram> optimized_programs() const;

 private:
  struct Variant {  // for one combination of padded sizes
    std::unique_ptr<LoadedExecutable> executable;
    std::vector<TensorType> inputs, outputs;  // padded
    std::string module;
    MemoryUse memory;
  };
  using Sizes = std::vector<int64_t>;  // in the order of symbols_

  Variant& variant(const Sizes& padded);
  template <class Work>
  static auto with_memory_told(const MemoryUse& memory, Work&& work);
  std::vector<PjrtBuffer*> check_inputs(std::span<Buffer* const> inputs, Sizes& actual) const;
  void bind_symbols(size_t input, const TensorType& type, Sizes& actual, std::vector<int>& bound_by) const;
  std::vector<PjrtBuffer*> check_outputs(std::span<PjrtBuffer* const> inputs,
                                         std::span<Buffer* const> outputs, const Sizes& actual) const;
  void check_placed(const PjrtBuffer& buffer, const Sharding& wanted, std::string_view role,
                    std::string_view name) const;
  TensorType actual_type(const TensorType& declared, const Sizes& actual) const;
  const std::vector<DeviceBuffer>& size_scalar(int64_t size);
  // Arguments and results by device; results come as handles to adopt.
  std::vector<std::vector<BufferHandle*>> execute(const Variant& chosen,
                                                  const std::vector<std::vector<BufferHandle*>>& arguments);
  void wait_for_oldest();

  std::shared_ptr<const DeviceMesh> mesh_;
  std::shared_ptr<Client> client_;
  std::shared_ptr<Compiler> compiler_;
  Graph graph_;
  std::vector<Symbol> symbols_;
  std::vector<bool> given_up_;  // by input: an output takes it over
  std::map<Sizes, Variant> variants_;
  std::map<int64_t, std::vector<DeviceBuffer>> size_scalars_;  // on every device
  std::deque<std::vector<EventHandle*>> running_;  // completion, by device, of runs that were not waited for
};

}  // namespace vertebra::pjrt
