// How an op runs on the CPU: a Kernel is made once per node at compile time (attributes read, sizes
// checked, tables built) and then run any number of times without allocating. SIMD code lives in
// kernels/ (compiled per instruction set); the Kernel classes around it split the work over the team.
//
// Rules that keep the bits the same: work is split over outputs, or over chunks whose size the shape
// alone decides; sums run in a fixed order; nothing depends on the number of threads, and a row's
// result never on how many other rows there are.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>

#include "base/thread_team.h"
#include "graph/graph.h"

namespace vertebra {
class PackedMatrix;
}

namespace vertebra::cpu {

// An operand or result during a run: dense, row-major, 64-byte aligned, with actual sizes (a bounded
// dimension has its size of this run) and the element type it has in memory (storage.h).
struct TensorRef {
  void* data = nullptr;
  TensorType type;
  const PackedMatrix* packed = nullptr;  // the same matrix as Kernel::packs asked for it, where one is kept
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

struct KernelCall {
  std::span<const TensorRef> operands;
  std::span<const TensorRef> results;
  std::byte* workspace;  // workspace_bytes() bytes, 64-byte aligned, content undefined
  ThreadTeam& team;
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  // Temporary memory of one run with a team of that size, for the largest (bound) shapes.
  virtual size_t workspace_bytes(int threads) const {
    (void)threads;
    return 0;
  }
  // True if the result may be written over the operand's memory (element i of the result is written after
  // everything that reads element i of the operand).
  virtual bool can_share(int operand, int result) const {
    (void)operand;
    (void)result;
    return false;
  }
  // The element type in which the kernel would rather read the operand, a matrix [N, K], packed as gemm's B.
  // The executable keeps graph inputs that no output takes over in that form too, packed anew when they
  // change.
  virtual std::optional<DType> packs(int operand) const {
    (void)operand;
    return std::nullopt;
  }
  // True if all that the kernel does with this f32 operand is to round it to bf16: it may then come as bf16.
  virtual bool rounds_operand(int operand) const {
    (void)operand;
    return false;
  }
  // True if the kernel can write this f32 result rounded to bf16. The call's type of the result says whether
  // it shall.
  virtual bool can_round_result(int result) const {
    (void)result;
    return false;
  }
  virtual void run(const KernelCall& call) const = 0;
};

// Makes the kernel of a node, or null when it does not support the node's types or attributes: a composite
// is then decomposed; a primitive must be supported.
using KernelFactory = std::unique_ptr<Kernel> (*)(const Node& node);

// kernel_list.def: one line per op that has a kernel, VERTEBRA_CPU_KERNEL(op_name, factory_function).
KernelFactory find_kernel_factory(std::string_view op);  // null when there is none

}  // namespace vertebra::cpu
