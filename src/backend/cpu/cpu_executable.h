// A compiled graph on the CPU: the kernels in order, the memory plan, and the binding of buffers and of
// bounded dimensions at each run. Made by the CPU backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/cpu_buffer.h"
#include "backend/cpu/kernel.h"
#include "backend/cpu/planner.h"

namespace vertebra::cpu {

class CpuExecutable final : public Executable {
 public:
  // The graph holds nothing but primitives and composites that have a kernel. Throws unimplemented naming the
  // op and types that no kernel takes.
  CpuExecutable(Graph graph, ThreadTeam& team);

  void run(std::span<Buffer* const> inputs, std::span<Buffer* const> outputs) override;
  uint64_t workspace_bytes() const override { return plan_.arena_bytes; }
  std::string describe() const override;
  const Graph& graph() const { return graph_; }
  const Plan& plan() const { return plan_; }

 private:
  struct Step {
    const Kernel* kernel;
    std::byte* workspace;
    size_t first_operand, operand_count, first_result, result_count;  // in references_
  };
  struct Reference {  // what references_[i] refers to
    Place place;
    TensorType declared;
  };

  void make_kernels();
  void make_references(const StoredTypes& types);
  void find_packings();
  void add_reference(const Place& place, const TensorType& type);
  std::byte* fixed_address(const Place& place) const;  // null for inputs and outputs
  void bind_inputs(std::span<Buffer* const> inputs);
  void bind_symbols(size_t input, const TensorType& type);
  void bind_outputs(std::span<Buffer* const> outputs);
  void update_sizes();
  void actual_type(const TensorType& declared, TensorType& type) const;
  std::byte* address(const Place& place) const;

  Graph graph_;
  ThreadTeam& team_;
  std::vector<std::unique_ptr<Kernel>> kernels_;  // by node id
  Plan plan_;
  std::vector<Tensor> constants_;  // by node id
  LargeMemory arena_;

  std::vector<Step> steps_;
  std::vector<TensorRef> references_;
  std::vector<Reference> sources_;
  std::vector<size_t> rebound_;  // references to inputs and outputs: addresses change from run to run
  struct Packing {
    size_t reference, input;
    DType dtype;
  };
  std::vector<Packing> packings_;  // operands that a kernel reads packed
  std::vector<size_t> bounded_;    // references with a bounded dimension

  std::vector<std::byte*> input_data_, output_data_;
  std::vector<TensorType> output_types_;
  std::vector<bool> given_up_;                // by input: an output takes it over
  std::array<int64_t, 256> symbol_sizes_{};   // of the last run; -1: not bound
  std::array<int64_t, 256> current_sizes_{};  // of this run
  std::array<int, 256> bound_by_{};           // the input that gave a symbol its size
};

}  // namespace vertebra::cpu
