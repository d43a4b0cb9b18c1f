// Kernels of dot_general and linear: they bring their operands into the forms of backend/cpu/gemm.h, without
// a copy where strides allow it, and call it. Element types gemm does not take (f64, f16) run in plain loops.
#include <algorithm>
#include <vector>

#include "backend/cpu/gemm.h"
#include "backend/cpu/kernel.h"
#include "backend/cpu/ops/elementwise_rows.h"
#include "backend/cpu/ops/strided_copy.h"
#include "graph/op.h"

namespace vertebra::cpu {

// Of ops/block_linear.cc.
GemmActivation activation_from(const std::string& name);
std::unique_ptr<Kernel> make_block_linear(const Node& node);
namespace {

using Ints = std::vector<int64_t>;

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }
bool takes(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

// Axes that are one run: size and stride; none when they are not.
struct Run {
  int64_t size = 1, stride = 1;
  bool joined = true;
};

Run join(const Shape& shape, const Strides& strides, const Ints& axes) {
  Run run;
  bool first = true;
  for (auto i = axes.size(); i-- > 0;) {
    const int64_t size = shape[static_cast<int>(axes[i])], stride = strides[static_cast<size_t>(axes[i])];
    if (size == 1) continue;
    if (first) {
      run.stride = stride;
      first = false;
    } else if (stride != run.stride * run.size) {
      run.joined = false;
    }
    run.size *= size;
  }
  return run;
}

// One operand, its axes sorted by their role.
struct Side {
  Ints batch, free, contract;
};

// Where an operand's matrices lie: element (i, k) of a matrix at i * row + k * column, one of them 1.
struct Matrix {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t row = 0, column = 0;
  Ints::size_type batch_rank = 0;
  std::array<int64_t, Shape::kMaxRank> batch_strides{};
};

class DotGeneral final : public Kernel {
 public:
  explicit DotGeneral(const Node& node)
      : types_{node.operands[0].type(), node.operands[1].type()}, result_(node.results[0].dtype) {
    sides_[0] = {node.attrs.get<Ints>("lhs_batch"), {}, node.attrs.get<Ints>("lhs_contract")};
    sides_[1] = {node.attrs.get<Ints>("rhs_batch"), {}, node.attrs.get<Ints>("rhs_contract")};
    for (size_t s = 0; s < 2; ++s) {
      for (int64_t axis = 0; axis < types_[s].shape.rank(); ++axis) {
        const auto in = [&](const Ints& axes) {
          return std::find(axes.begin(), axes.end(), axis) != axes.end();
        };
        if (!in(sides_[s].batch) && !in(sides_[s].contract)) sides_[s].free.push_back(axis);
      }
      rounds_[s] = node.attrs.get<DType>("compute") == DType::kBF16 && types_[s].dtype != DType::kBF16;
    }
    plain_ = !takes(types_[0].dtype) || !takes(types_[1].dtype) || !takes(result_);
  }

  size_t workspace_bytes(int threads) const override {
    if (plain_) return 0;
    const GemmArgs args = sizes(types_[0].shape, types_[1].shape);
    size_t bytes = gemm_workspace_bytes(args, threads) + 64;
    for (size_t s = 0; s < 2; ++s) {
      if (needs_copy(s, types_[s].shape) || rounds_[s]) bytes += copy_bytes(s);
      if (needs_copy(s, types_[s].shape) && rounds_[s]) bytes += copy_bytes(s);
    }
    return bytes;
  }

  bool rounds_operand(int operand) const override {
    return rounds_[operand] && types_[operand].dtype == DType::kF32;
  }

  void run(const KernelCall& call) const override {
    if (plain_) return run_plain(call);
    const std::byte* end = call.workspace + workspace_bytes(call.team.size());
    std::byte* workspace = call.workspace;
    Matrix matrices[2];
    for (size_t s = 0; s < 2; ++s) matrices[s] = place(s, call.operands[s], workspace, call.team);
    const Matrix &a = matrices[0], &b = matrices[1];
    GemmArgs args = sizes(call.operands[0].type.shape, call.operands[1].type.shape);
    args.a_dtype = a.dtype;
    args.a_transposed = a.column != 1;
    args.lda = a.column == 1 ? a.row : a.column;
    args.b_dtype = b.dtype;
    args.b_transposed = b.column == 1;
    args.ldb = b.column == 1 ? b.row : b.column;
    args.c_dtype = result_;
    args.ldc = args.n;
    args.c_batch_stride = args.m * args.n;
    run_batches(call, a, b, args, {workspace, static_cast<size_t>(end - workspace)});
  }

 private:
  size_t copy_bytes(size_t s) const { return aligned(types_[s].size_bytes()); }

  // m, n, k of this run; the batch is the last batch axis.
  GemmArgs sizes(const Shape& a, const Shape& b) const {
    GemmArgs args;
    const auto product = [](const Shape& shape, const Ints& axes) {
      int64_t size = 1;
      for (const int64_t axis : axes) size *= shape[static_cast<int>(axis)];
      return size;
    };
    args.m = product(a, sides_[0].free);
    args.n = product(b, sides_[1].free);
    args.k = product(a, sides_[0].contract);
    args.batch = sides_[0].batch.empty() ? 1 : a[static_cast<int>(sides_[0].batch.back())];
    args.a_dtype = rounds_[0] ? DType::kBF16 : types_[0].dtype;
    args.b_dtype = rounds_[1] ? DType::kBF16 : types_[1].dtype;
    args.c_dtype = result_;
    args.lda = std::max<int64_t>(1, std::max(args.k, args.m));
    args.ldb = std::max<int64_t>(1, std::max(args.k, args.n));
    args.ldc = std::max<int64_t>(1, args.n);
    return args;
  }

  bool needs_copy(size_t s, const Shape& shape) const {
    const Strides strides = dense_strides(shape);
    const Run free = join(shape, strides, sides_[s].free),
              contract = join(shape, strides, sides_[s].contract);
    return !free.joined || !contract.joined ||
           (free.size > 1 && contract.size > 1 && free.stride != 1 && contract.stride != 1);
  }

  // The operand as matrices, in place or copied (dense batch, free, contract) and rounded into the workspace.
  Matrix place(size_t s, const TensorRef& operand, std::byte*& workspace, ThreadTeam& team) const {
    const Side& side = sides_[s];
    const Shape& shape = operand.type.shape;
    Strides strides = dense_strides(shape);
    Matrix matrix;
    matrix.data = operand.as<const std::byte>();
    matrix.dtype = operand.type.dtype;
    if (needs_copy(s, types_[s].shape)) {
      StridedCopy copy;
      Ints::size_type count = 0;
      std::array<size_t, Shape::kMaxRank> order{};
      for (const Ints* axes : {&side.batch, &side.free, &side.contract}) {
        for (const int64_t axis : *axes) {
          copy.add_axis(shape[static_cast<int>(axis)], strides[static_cast<size_t>(axis)], 0);
          order[count++] = static_cast<size_t>(axis);
        }
      }
      int64_t stride = 1;
      for (auto i = count; i-- > 0;) {
        copy.to[i] = stride;
        strides[order[i]] = stride;
        stride *= copy.sizes[i];
      }
      run_strided_copy(copy, matrix.data, workspace, dtype_size(matrix.dtype), team);
      matrix.data = workspace;
      workspace += copy_bytes(s);
    }
    if (rounds_[s] && matrix.dtype != DType::kBF16) {
      const std::byte* from = matrix.data;
      std::byte* to = workspace;
      const DType dtype = matrix.dtype;
      parallel_ranges(team, shape.elements(), 1, [&](int64_t begin, int64_t end) {
        narrow_row(DType::kBF16, from + static_cast<size_t>(begin) * dtype_size(dtype),
                   to + static_cast<size_t>(begin) * dtype_size(DType::kBF16), end - begin);
      });
      matrix.data = workspace;
      matrix.dtype = DType::kBF16;
      workspace += copy_bytes(s);
    }
    Run free = join(shape, strides, side.free), contract = join(shape, strides, side.contract);
    // An axis of size 1 has any stride: choose one that makes a valid leading dimension.
    if (contract.size == 1) contract.stride = free.stride == 1 ? free.size : 1;
    if (free.size == 1) free.stride = contract.stride == 1 ? contract.size : 1;
    matrix.row = free.stride;
    matrix.column = contract.stride;
    if (matrix.column == 1) matrix.row = std::max(matrix.row, contract.size);
    if (matrix.column != 1) matrix.column = std::max(matrix.column, free.size);
    matrix.batch_rank = side.batch.size();
    for (size_t i = 0; i < side.batch.size(); ++i)
      matrix.batch_strides[i] = strides[static_cast<size_t>(side.batch[i])];
    return matrix;
  }

  // The last batch axis is gemm's own; the ones before it are looped over.
  void run_batches(const KernelCall& call, const Matrix& a, const Matrix& b, GemmArgs& args,
                   std::span<std::byte> workspace) const {
    const Shape& shape = call.operands[0].type.shape;
    int64_t outer = 1;
    for (size_t i = 0; i + 1 < a.batch_rank; ++i) outer *= shape[static_cast<int>(sides_[0].batch[i])];
    if (a.batch_rank > 0) {
      args.a_batch_stride = a.batch_strides[a.batch_rank - 1];
      args.b_batch_stride = b.batch_strides[b.batch_rank - 1];
    }
    if (args.m == 0 || args.n == 0 || args.batch == 0) return;
    for (int64_t index = 0; index < outer; ++index) {
      int64_t rest = index, a_offset = 0, b_offset = 0;
      for (auto i = a.batch_rank; i-- > 1;) {
        const int64_t size = shape[static_cast<int>(sides_[0].batch[i - 1])], at = rest % size;
        rest /= size;
        a_offset += at * a.batch_strides[i - 1];
        b_offset += at * b.batch_strides[i - 1];
      }
      args.a = a.data + a_offset * static_cast<int64_t>(dtype_size(a.dtype));
      args.b = b.data + b_offset * static_cast<int64_t>(dtype_size(b.dtype));
      args.c = call.results[0].as<std::byte>() +
               index * args.batch * args.c_batch_stride * static_cast<int64_t>(dtype_size(result_));
      gemm(args, workspace, call.team);
    }
  }

  // One element of any floating-point type.
  static double element(const TensorRef& tensor, int64_t i, bool rounds) {
    double value = 0;
    switch (tensor.type.dtype) {
      case DType::kF64:
        value = tensor.as<const double>()[i];
        break;
      case DType::kF16:
        value = static_cast<double>(f16_to_float(tensor.as<const uint16_t>()[i]));
        break;
      case DType::kBF16:
        value = static_cast<double>(bf16_to_float(tensor.as<const uint16_t>()[i]));
        break;
      default:
        value = static_cast<double>(tensor.as<const float>()[i]);
    }
    return rounds ? static_cast<double>(bf16_to_float(float_to_bf16(static_cast<float>(value)))) : value;
  }

  static void store(const TensorRef& tensor, int64_t i, double value) {
    if (tensor.type.dtype == DType::kF64) {
      tensor.as<double>()[i] = value;
    } else {
      const auto narrow = static_cast<float>(value);
      narrow_row(tensor.type.dtype, &narrow,
                 tensor.as<std::byte>() + static_cast<size_t>(i) * dtype_size(tensor.type.dtype), 1);
    }
  }

  static int64_t offset(const Shape& shape, const Strides& strides, const Ints& axes, int64_t index) {
    int64_t at = 0;
    for (auto i = axes.size(); i-- > 0;) {
      const int64_t size = shape[static_cast<int>(axes[i])];
      at += index % size * strides[static_cast<size_t>(axes[i])];
      index /= size;
    }
    return at;
  }

  void run_plain(const KernelCall& call) const {
    const TensorRef &a = call.operands[0], &b = call.operands[1];
    const Shape &shape_a = a.type.shape, &shape_b = b.type.shape;
    const Strides strides_a = dense_strides(shape_a), strides_b = dense_strides(shape_b);
    const GemmArgs args = sizes(shape_a, shape_b);
    const int64_t count = call.results[0].type.shape.elements();
    parallel_ranges(call.team, count, args.k * 8, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / args.n % args.m, column = i % args.n, batch = i / args.n / args.m;
        const int64_t at_a = offset(shape_a, strides_a, sides_[0].batch, batch) +
                             offset(shape_a, strides_a, sides_[0].free, row);
        const int64_t at_b = offset(shape_b, strides_b, sides_[1].batch, batch) +
                             offset(shape_b, strides_b, sides_[1].free, column);
        double sum = 0;
        for (int64_t k = 0; k < args.k; ++k) {
          sum += element(a, at_a + offset(shape_a, strides_a, sides_[0].contract, k), rounds_[0]) *
                 element(b, at_b + offset(shape_b, strides_b, sides_[1].contract, k), rounds_[1]);
        }
        store(call.results[0], i, sum);
      }
    });
  }

  TensorType types_[2];
  DType result_;
  Side sides_[2];
  bool rounds_[2];  // f32 operands of a product computed in bf16
  bool plain_ = false;
};

class Linear final : public Kernel {
 public:
  explicit Linear(const Node& node)
      : x_(node.operands[0].type()),
        w_(node.operands[1].type()),
        rounds_(node.attrs.get<DType>("compute") == DType::kBF16),
        has_bias_(node.attrs.get<bool>("has_bias")),
        has_residual_(node.attrs.get<bool>("has_residual")),
        activation_(activation_from(node.attrs.get<std::string>("activation"))) {}

  size_t workspace_bytes(int threads) const override {
    return gemm_workspace_bytes(arguments(x_.shape), threads) + 64 + rounded_bytes(x_) + rounded_bytes(w_);
  }
  bool can_share(int operand, int) const override { return has_residual_ && operand == (has_bias_ ? 3 : 2); }

  std::optional<DType> packs(int operand) const override {
    if (operand != 1 || w_.shape.elements() == 0) return std::nullopt;
    return rounds_ ? DType::kBF16 : w_.dtype;
  }

  bool rounds_operand(int operand) const override {
    return operand < 2 && is_rounded(operand == 0 ? x_ : w_);
  }

  void run(const KernelCall& call) const override {
    GemmArgs args = arguments(call.operands[0].type.shape);
    if (args.m == 0 || args.n == 0) return;
    const std::byte* end = call.workspace + workspace_bytes(call.team.size());
    std::byte* workspace = call.workspace;
    args.a = round(call.operands[0], x_, workspace, call.team);
    args.b_packed = call.operands[1].packed;
    if (args.b_packed == nullptr) args.b = round(call.operands[1], w_, workspace, call.team);
    args.c = call.results[0].data;
    if (has_bias_) {
      args.bias = call.operands[2].data;
      args.bias_dtype = call.operands[2].type.dtype;
    }
    if (has_residual_) {
      args.residual = call.operands[has_bias_ ? 3 : 2].data;
      args.residual_dtype = args.c_dtype;
      args.ldr = args.n;
    }
    gemm(args, {workspace, static_cast<size_t>(end - workspace)}, call.team);
  }

 private:
  bool is_rounded(const TensorType& type) const { return rounds_ && type.dtype == DType::kF32; }
  size_t rounded_bytes(const TensorType& type) const {
    return is_rounded(type) ? aligned(type.size_bytes() / 2) : 0;
  }

  const void* round(const TensorRef& operand, const TensorType& bound, std::byte*& workspace,
                    ThreadTeam& team) const {
    if (!is_rounded(bound) || operand.type.dtype == DType::kBF16) return operand.data;
    std::byte* to = workspace;
    parallel_ranges(team, operand.type.shape.elements(), 1, [&](int64_t begin, int64_t end) {
      narrow_row(DType::kBF16, operand.as<const float>() + begin, to + begin * 2, end - begin);
    });
    workspace += rounded_bytes(bound);
    return to;
  }

  GemmArgs arguments(const Shape& x) const {
    GemmArgs args;
    args.k = w_.shape[1];
    args.n = w_.shape[0];
    args.m = 1;
    for (int axis = 0; axis + 1 < x.rank(); ++axis) args.m *= x[axis];
    args.a_dtype = rounds_ ? DType::kBF16 : x_.dtype;
    args.b_dtype = rounds_ ? DType::kBF16 : w_.dtype;
    args.c_dtype = x_.dtype;
    args.lda = args.ldb = std::max<int64_t>(1, args.k);
    args.b_transposed = true;
    args.ldc = std::max<int64_t>(1, args.n);
    args.activation = activation_;
    return args;
  }

  TensorType x_, w_;
  bool rounds_, has_bias_, has_residual_;
  GemmActivation activation_;
};

}  // namespace

std::unique_ptr<Kernel> make_dot_general(const Node& node) { return std::make_unique<DotGeneral>(node); }

std::unique_ptr<Kernel> make_linear(const Node& node) {
  if (is_block_quantized(node.operands[1].dtype())) return make_block_linear(node);
  for (const Value& operand : node.operands) {
    if (!takes(operand.dtype())) return nullptr;
  }
  return std::make_unique<Linear>(node);
}

}  // namespace vertebra::cpu
