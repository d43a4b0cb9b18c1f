// Kernels that move elements without computing: broadcast_in_dim, transpose, slice, concatenate, pad, iota.
// (reshape is an alias of its operand: planner.h.)
#include <cstring>

#include "backend/cpu/kernel.h"
#include "backend/cpu/ops/strided_copy.h"
#include "graph/op.h"

namespace vertebra::cpu {
namespace {

using Ints = std::vector<int64_t>;

std::byte* offset_by(const TensorRef& tensor, int64_t elements) {
  return static_cast<std::byte*>(tensor.data) +
         elements * static_cast<int64_t>(dtype_size(tensor.type.dtype));
}

class BroadcastInDim final : public Kernel {
 public:
  explicit BroadcastInDim(const Node& node) : dims_(node.attrs.get<Ints>("dims")) {}
  void run(const KernelCall& call) const override {
    const TensorRef &a = call.operands[0], &out = call.results[0];
    const Strides from = dense_strides(a.type.shape), to = dense_strides(out.type.shape);
    Strides mapped{};
    for (size_t i = 0; i < dims_.size(); ++i) {
      const bool stretched = a.type.shape[static_cast<int>(i)] == 1;
      mapped[static_cast<size_t>(dims_[i])] = stretched ? 0 : from[i];
    }
    StridedCopy copy;
    for (int axis = 0; axis < out.type.shape.rank(); ++axis) {
      const auto i = static_cast<size_t>(axis);
      copy.add_axis(out.type.shape[axis], mapped[i], to[i]);
    }
    run_strided_copy(copy, a.data, out.data, dtype_size(a.type.dtype), call.team);
  }

 private:
  Ints dims_;
};

class Transpose final : public Kernel {
 public:
  explicit Transpose(const Node& node) : permutation_(node.attrs.get<Ints>("permutation")) {}
  void run(const KernelCall& call) const override {
    const TensorRef &a = call.operands[0], &out = call.results[0];
    const Strides from = dense_strides(a.type.shape), to = dense_strides(out.type.shape);
    StridedCopy copy;
    for (size_t i = 0; i < permutation_.size(); ++i)
      copy.add_axis(out.type.shape[static_cast<int>(i)], from[static_cast<size_t>(permutation_[i])], to[i]);
    run_strided_copy(copy, a.data, out.data, dtype_size(a.type.dtype), call.team);
  }

 private:
  Ints permutation_;
};

class Slice final : public Kernel {
 public:
  explicit Slice(const Node& node) : starts_(node.attrs.get<Ints>("starts")) {}
  void run(const KernelCall& call) const override {
    const TensorRef &a = call.operands[0], &out = call.results[0];
    const Strides from = dense_strides(a.type.shape), to = dense_strides(out.type.shape);
    StridedCopy copy;
    int64_t start = 0;
    for (size_t i = 0; i < starts_.size(); ++i) {
      copy.add_axis(out.type.shape[static_cast<int>(i)], from[i], to[i]);
      start += starts_[i] * from[i];
    }
    run_strided_copy(copy, offset_by(a, start), out.data, dtype_size(a.type.dtype), call.team);
  }

 private:
  Ints starts_;
};

class Concatenate final : public Kernel {
 public:
  explicit Concatenate(const Node& node) : axis_(static_cast<int>(node.attrs.get<int64_t>("axis"))) {}
  void run(const KernelCall& call) const override {
    const TensorRef& out = call.results[0];
    const Strides to = dense_strides(out.type.shape);
    int64_t start = 0;
    for (const TensorRef& part : call.operands) {
      const Strides from = dense_strides(part.type.shape);
      StridedCopy copy;
      for (int axis = 0; axis < part.type.shape.rank(); ++axis)
        copy.add_axis(part.type.shape[axis], from[static_cast<size_t>(axis)], to[static_cast<size_t>(axis)]);
      run_strided_copy(copy, part.data, offset_by(out, start * to[static_cast<size_t>(axis_)]),
                       dtype_size(out.type.dtype), call.team);
      start += part.type.shape[axis_];
    }
  }

 private:
  int axis_;
};

class Pad final : public Kernel {
 public:
  explicit Pad(const Node& node)
      : low_(node.attrs.get<Ints>("low")), value_(Tensor(node.results[0].dtype, Shape{})) {
    value_.set(0, node.attrs.get<double>("value"));
  }
  void run(const KernelCall& call) const override {
    const TensorRef &a = call.operands[0], &out = call.results[0];
    const Strides from = dense_strides(a.type.shape), to = dense_strides(out.type.shape);
    StridedCopy fill;
    fill.add_axis(out.type.shape.elements(), 0, 1);
    run_strided_copy(fill, value_.raw(), out.data, dtype_size(out.type.dtype), call.team);
    StridedCopy copy;
    int64_t start = 0;
    for (size_t i = 0; i < low_.size(); ++i) {
      copy.add_axis(a.type.shape[static_cast<int>(i)], from[i], to[i]);
      start += low_[i] * to[i];
    }
    run_strided_copy(copy, a.data, offset_by(out, start), dtype_size(a.type.dtype), call.team);
  }

 private:
  Ints low_;
  Tensor value_;
};

// The numbers of one axis are written once; the rest is copies of them.
class Iota final : public Kernel {
 public:
  explicit Iota(const Node& node) : axis_(static_cast<int>(node.attrs.get<int64_t>("axis"))) {
    const int64_t size = node.results[0].shape[axis_];
    numbers_ = Tensor(node.results[0].dtype, Shape{size});
    for (int64_t i = 0; i < size; ++i) numbers_.set(i, static_cast<double>(i));
  }
  void run(const KernelCall& call) const override {
    const TensorRef& out = call.results[0];
    const Strides to = dense_strides(out.type.shape);
    StridedCopy copy;
    for (int axis = 0; axis < out.type.shape.rank(); ++axis)
      copy.add_axis(out.type.shape[axis], axis == axis_ ? 1 : 0, to[static_cast<size_t>(axis)]);
    run_strided_copy(copy, numbers_.raw(), out.data, dtype_size(out.type.dtype), call.team);
  }

 private:
  int axis_;
  Tensor numbers_;
};

}  // namespace

std::unique_ptr<Kernel> make_broadcast_in_dim(const Node& node) {
  return std::make_unique<BroadcastInDim>(node);
}
std::unique_ptr<Kernel> make_transpose(const Node& node) { return std::make_unique<Transpose>(node); }
std::unique_ptr<Kernel> make_slice(const Node& node) { return std::make_unique<Slice>(node); }
std::unique_ptr<Kernel> make_concatenate(const Node& node) { return std::make_unique<Concatenate>(node); }
std::unique_ptr<Kernel> make_pad(const Node& node) { return std::make_unique<Pad>(node); }
std::unique_ptr<Kernel> make_iota(const Node& node) { return std::make_unique<Iota>(node); }

}  // namespace vertebra::cpu
