// Kernels of reduce_sum, reduce_max, sum_of_squares and argmax. f32, bf16 and f16 reduce in f32 with SIMD;
// other types in plain loops. The order of every sum depends on the shape alone: rows in segments of kSegment
// elements, columns in runs of kRun rows, each added up before it joins the total.
#include "backend/cpu/kernels/reduce.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/elementwise.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/elementwise_rows.h"
#include "backend/cpu/ops/strided_copy.h"
#include "graph/op.h"

namespace vertebra::cpu {
namespace {

enum class Reduction { kSum, kMax, kSumOfSquares };

constexpr int64_t kSegment = 16'384, kColumns = 256, kRun = 64;

// x [outer, rows, columns] reduced over rows; a row reduction has one column.
struct Extent {
  int64_t outer = 1, rows = 1, columns = 1;
};

class Reduce final : public Kernel {
 public:
  Reduce(const Node& node, Reduction reduction, std::vector<int64_t> axes)
      : reduction_(reduction), operand_(node.operands[0].type()) {
    reduced_.fill(false);
    for (const int64_t axis : axes) reduced_[static_cast<size_t>(axis)] = true;
  }

  size_t workspace_bytes(int) const override {
    Extent extent;
    size_t bytes = 0;
    if (!find_extent(operand_.shape, extent)) bytes = aligned(operand_.size_bytes());
    return bytes +
           static_cast<size_t>(operand_.shape.elements() / kSegment + extent.outer + 1) * sizeof(float) * 2;
  }

  void run(const KernelCall& call) const override {
    TensorRef x = call.operands[0];
    Extent extent;
    std::byte* workspace = call.workspace;
    if (!find_extent(x.type.shape, extent)) {
      reduced_axes_last(x, extent, workspace, call.team);
      x.data = workspace;
      workspace += aligned(operand_.size_bytes());
    }
    switch (x.type.dtype) {
      case DType::kF32:
      case DType::kBF16:
      case DType::kF16:
        if (extent.columns == 1) return reduce_rows(x, extent, reinterpret_cast<float*>(workspace), call);
        return reduce_columns(x, extent, call);
      case DType::kF64:
        return reduce_plain<double>(x, extent, call);
      case DType::kI64:
        return reduce_plain<int64_t>(x, extent, call);
      case DType::kI32:
        return reduce_plain<int32_t>(x, extent, call);
      case DType::kU32:
        return reduce_plain<uint32_t>(x, extent, call);
      case DType::kI8:
        return reduce_plain<int8_t>(x, extent, call);
      default:
        return reduce_plain<uint8_t>(x, extent, call);
    }
  }

 private:
  static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

  // True when the axes fall into kept, reduced, kept, in this order; axes of size 1 are of any kind.
  bool find_extent(const Shape& shape, Extent& extent) const {
    extent = {};
    int stage = 0;
    for (int axis = 0; axis < shape.rank(); ++axis) {
      const int64_t size = shape[axis];
      if (size == 1) continue;
      const bool reduced = reduced_[static_cast<size_t>(axis)];
      if (reduced ? stage == 2 : stage == 1) ++stage;
      if (reduced && stage == 0) stage = 1;
      if (stage > 2) return false;
      (stage == 0 ? extent.outer : stage == 1 ? extent.rows : extent.columns) *= size;
    }
    return true;
  }

  void reduced_axes_last(const TensorRef& x, Extent& extent, std::byte* to, ThreadTeam& team) const {
    const Strides dense = dense_strides(x.type.shape);
    StridedCopy copy;
    extent = {};
    for (const bool reduced : {false, true}) {
      for (int axis = 0; axis < x.type.shape.rank(); ++axis) {
        const auto i = static_cast<size_t>(axis);
        if (reduced_[i] != reduced) continue;
        copy.add_axis(x.type.shape[axis], dense[i], 0);
        (reduced ? extent.rows : extent.outer) *= x.type.shape[axis];
      }
    }
    int64_t stride = 1;
    for (auto i = static_cast<size_t>(copy.rank); i-- > 0;) {
      copy.to[i] = stride;
      stride *= copy.sizes[i];
    }
    run_strided_copy(copy, x.data, to, dtype_size(x.type.dtype), team);
  }

  float reduce_segment(const float* x, int64_t size) const {
    const ReduceKernels& simd = *kernels().reduce;
    return reduction_ == Reduction::kSum   ? simd.sum(x, size)
           : reduction_ == Reduction::kMax ? simd.max(x, size)
                                           : simd.sum_of_squares(x, size);
  }
  float reduce_partials(const float* x, int64_t size) const {
    return reduction_ == Reduction::kMax ? kernels().reduce->max(x, size) : kernels().reduce->sum(x, size);
  }

  // `partials`: one for each segment of each row, and as many floats again for nothing else.
  void reduce_rows(const TensorRef& x, const Extent& extent, float* partials, const KernelCall& call) const {
    const int64_t segments = std::max<int64_t>(1, (extent.rows + kSegment - 1) / kSegment);
    const size_t bytes = dtype_size(x.type.dtype);
    const auto* data = x.as<const std::byte>();
    parallel_ranges(call.team, extent.outer * segments, std::min(extent.rows, kSegment),
                    [&](int64_t begin, int64_t end) {
                      for (int64_t i = begin; i < end; ++i) {
                        const int64_t first = i % segments * kSegment;
                        const int64_t size = std::min(kSegment, extent.rows - first);
                        const auto offset = static_cast<size_t>(i / segments * extent.rows + first);
                        partials[i] = reduce_memory(x.type.dtype, data + offset * bytes, size);
                      }
                    });
    for (int64_t row = 0; row < extent.outer; ++row) {
      if (segments > 1) partials[row] = reduce_partials(partials + row * segments, segments);
    }
    narrow_row(call.results[0].type.dtype, partials, call.results[0].data, extent.outer);
  }

  // bf16 and f16 are widened block by block; a block is one of the chunks the f32 sum would take.
  float reduce_memory(DType dtype, const std::byte* data, int64_t size) const {
    if (dtype == DType::kF32) return reduce_segment(reinterpret_cast<const float*>(data), size);
    constexpr int64_t kWidened = 1024;
    float block[kWidened], parts[kSegment / kWidened];
    int64_t count = 0;
    for (int64_t i = 0; i < size; i += kWidened) {
      const int64_t here = std::min(kWidened, size - i);
      widen_row(dtype, data + static_cast<size_t>(i) * dtype_size(dtype), block, here);
      parts[count++] = reduce_segment(block, here);
    }
    return reduce_partials(parts, count);
  }

  void reduce_columns(const TensorRef& x, const Extent& extent, const KernelCall& call) const {
    const int64_t blocks = (extent.columns + kColumns - 1) / kColumns;
    const int64_t cost = extent.rows * std::min(kColumns, extent.columns);
    parallel_ranges(call.team, extent.outer * blocks, cost, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % blocks * kColumns;
        reduce_column_block(x, extent, task / blocks, first, std::min(kColumns, extent.columns - first),
                            call.results[0]);
      }
    });
  }

  void reduce_column_block(const TensorRef& x, const Extent& extent, int64_t outer, int64_t first,
                           int64_t width, const TensorRef& result) const {
    const DType dtype = x.type.dtype;
    const ElementwiseKernels& simd = *kernels().elementwise;
    const BinaryF32 join = reduction_ == Reduction::kMax ? simd.maximum : simd.add;
    const float start = reduction_ == Reduction::kMax ? -std::numeric_limits<float>::infinity() : 0.0f;
    float total[kColumns], part[kColumns], row[kColumns];
    std::fill_n(total, width, start);
    for (int64_t r = 0; r < extent.rows; r += kRun) {
      std::fill_n(part, width, start);
      for (int64_t k = r; k < std::min(extent.rows, r + kRun); ++k) {
        const auto offset = static_cast<size_t>((outer * extent.rows + k) * extent.columns + first);
        const std::byte* from = x.as<const std::byte>() + offset * dtype_size(dtype);
        const auto* values = reinterpret_cast<const float*>(from);
        if (dtype != DType::kF32) {
          widen_row(dtype, from, row, width);
          values = row;
        }
        join(part, values, part, width);
      }
      join(total, part, total, width);
    }
    const auto offset = static_cast<size_t>(outer * extent.columns + first);
    narrow_row(dtype, total, result.as<std::byte>() + offset * dtype_size(dtype), width);
  }

  template <class T>
  void reduce_plain(const TensorRef& x, const Extent& extent, const KernelCall& call) const {
    using Sum = typename std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>,
                                            std::type_identity<T>>::type;
    const T* data = x.as<const T>();
    T* out = call.results[0].template as<T>();
    constexpr T kLowest =
        std::is_floating_point_v<T> ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::lowest();
    for (int64_t i = 0; i < extent.outer * extent.columns; ++i) {
      const int64_t at = i / extent.columns * extent.rows * extent.columns + i % extent.columns;
      T most = kLowest;
      Sum total{};
      for (int64_t r = 0; r < extent.rows; ++r) {
        const T value = data[at + r * extent.columns];
        if (!(value <= most)) most = most == most ? value : most;
        const auto term = static_cast<Sum>(value);
        total = static_cast<Sum>(total + (reduction_ == Reduction::kSumOfSquares ? term * term : term));
      }
      out[i] = reduction_ == Reduction::kMax ? most : static_cast<T>(total);
    }
  }

  Reduction reduction_;
  TensorType operand_;
  std::array<bool, Shape::kMaxRank> reduced_;
};

class Argmax final : public Kernel {
 public:
  explicit Argmax(const Node& node) : axis_(static_cast<int>(node.attrs.get<int64_t>("axis"))) {}

  void run(const KernelCall& call) const override {
    const Shape& shape = call.operands[0].type.shape;
    Extent extent;
    for (int axis = 0; axis < shape.rank(); ++axis)
      (axis < axis_ ? extent.outer : axis == axis_ ? extent.rows : extent.columns) *= shape[axis];
    const auto find = [&]<class T, class Widen>(const T* x, Widen widen) {
      auto* out = call.results[0].as<int32_t>();
      parallel_ranges(call.team, extent.outer * extent.columns, extent.rows, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const T* here = x + i / extent.columns * extent.rows * extent.columns + i % extent.columns;
          out[i] = find_largest(here, extent, widen);
        }
      });
    };
    const auto same = [](auto v) { return v; };
    const TensorRef& x = call.operands[0];
    switch (x.type.dtype) {
      case DType::kF32:
        return find(x.as<const float>(), same);
      case DType::kBF16:
        return find(x.as<const uint16_t>(), [](uint16_t v) { return bf16_to_float(v); });
      case DType::kF16:
        return find(x.as<const uint16_t>(), [](uint16_t v) { return f16_to_float(v); });
      case DType::kF64:
        return find(x.as<const double>(), same);
      case DType::kI64:
        return find(x.as<const int64_t>(), same);
      case DType::kI32:
        return find(x.as<const int32_t>(), same);
      case DType::kU32:
        return find(x.as<const uint32_t>(), same);
      case DType::kI8:
        return find(x.as<const int8_t>(), same);
      default:
        return find(x.as<const uint8_t>(), same);
    }
  }

 private:
  // The first NaN, if there is one, counts as the largest.
  template <class T, class Widen>
  static int32_t find_largest(const T* x, const Extent& extent, Widen widen) {
    int64_t best = 0;
    auto most = widen(x[0]);
    for (int64_t r = 1; r < extent.rows && most == most; ++r) {
      const auto value = widen(x[r * extent.columns]);
      if (!(value <= most)) {
        most = value;
        best = r;
      }
    }
    return static_cast<int32_t>(best);
  }

  int axis_;
};

}  // namespace

std::unique_ptr<Kernel> make_reduce_sum(const Node& node) {
  return std::make_unique<Reduce>(node, Reduction::kSum, node.attrs.get<std::vector<int64_t>>("axes"));
}
std::unique_ptr<Kernel> make_reduce_max(const Node& node) {
  return std::make_unique<Reduce>(node, Reduction::kMax, node.attrs.get<std::vector<int64_t>>("axes"));
}
std::unique_ptr<Kernel> make_sum_of_squares(const Node& node) {
  const DType dtype = node.operands[0].dtype();
  if (dtype != DType::kF32) return nullptr;  // the result is f32 whatever the operand
  std::vector<int64_t> axes;
  for (int axis = 0; axis < node.operands[0].shape().rank(); ++axis) axes.push_back(axis);
  return std::make_unique<Reduce>(node, Reduction::kSumOfSquares, std::move(axes));
}
std::unique_ptr<Kernel> make_argmax(const Node& node) { return std::make_unique<Argmax>(node); }

}  // namespace vertebra::cpu
