// Kernels of rows by index: gather_rows (and embedding), scatter_add_rows, dynamic_update_slice.
#include <algorithm>
#include <cstring>

#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/convert.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/strided_copy.h"
#include "graph/op.h"

namespace vertebra::cpu {
namespace {

class GatherRows final : public Kernel {
 public:
  void run(const KernelCall& call) const override {
    const TensorRef &table = call.operands[0], &indices = call.operands[1], &out = call.results[0];
    const int64_t rows = table.type.shape[0];
    const auto row_bytes = static_cast<int64_t>(table.type.size_bytes()) / std::max<int64_t>(rows, 1);
    if (row_bytes == 0) return;
    const auto* index = indices.as<const int32_t>();
    parallel_ranges(call.team, indices.type.shape.elements(), row_bytes / 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = std::clamp<int64_t>(index[i], 0, rows - 1);
        std::memcpy(out.as<std::byte>() + i * row_bytes, table.as<const std::byte>() + row * row_bytes,
                    static_cast<size_t>(row_bytes));
      }
    });
  }
};

// Work is split over columns, so that each row adds up in index order whatever the team.
class ScatterAddRows final : public Kernel {
 public:
  explicit ScatterAddRows(const Node& node) : type_(node.results[0]) {}
  size_t workspace_bytes(int) const override {
    return is_narrow() ? static_cast<size_t>(type_.shape.elements()) * sizeof(float) : 0;
  }
  void run(const KernelCall& call) const override {
    switch (type_.dtype) {
      case DType::kF32:
        return add_rows(call, call.results[0].as<float>(), [](const float* u) { return *u; });
      case DType::kF64:
        return add_rows(call, call.results[0].as<double>(), [](const double* u) { return *u; });
      case DType::kI64:
        return add_rows(call, call.results[0].as<uint64_t>(), [](const uint64_t* u) { return *u; });
      case DType::kI32:
      case DType::kU32:
        return add_rows(call, call.results[0].as<uint32_t>(), [](const uint32_t* u) { return *u; });
      case DType::kBF16: {
        auto* sums = reinterpret_cast<float*>(call.workspace);
        add_rows(call, sums, [](const uint16_t* u) { return bf16_to_float(*u); });
        auto* out = call.results[0].as<uint16_t>();
        return parallel_ranges(call.team, call.results[0].type.shape.elements(), 1,
                               [&](int64_t begin, int64_t end) {
                                 kernels().convert->f32_to_bf16(sums + begin, out + begin, end - begin);
                               });
      }
      case DType::kF16: {
        auto* sums = reinterpret_cast<float*>(call.workspace);
        add_rows(call, sums, [](const uint16_t* u) { return f16_to_float(*u); });
        for (int64_t i = 0; i < call.results[0].type.shape.elements(); ++i)
          call.results[0].as<uint16_t>()[i] = float_to_f16(sums[i]);
        return;
      }
      default:
        return add_rows(call, call.results[0].as<uint8_t>(), [](const uint8_t* u) { return *u; });
    }
  }

 private:
  bool is_narrow() const { return type_.dtype == DType::kBF16 || type_.dtype == DType::kF16; }

  template <class T, class Load>
  void add_rows(const KernelCall& call, T* sums, Load load) const {
    const TensorRef &indices = call.operands[0], &updates = call.operands[1];
    const int64_t rows = call.results[0].type.shape[0], count = indices.type.shape.elements();
    const int64_t columns = call.results[0].type.shape.elements() / std::max<int64_t>(rows, 1);
    const auto* index = indices.as<const int32_t>();
    constexpr int64_t kBlock = 64;
    parallel_ranges(call.team, (columns + kBlock - 1) / kBlock, (rows + count) * kBlock,
                    [&](int64_t begin, int64_t end) {
                      const int64_t first = begin * kBlock, limit = std::min(columns, end * kBlock);
                      for (int64_t row = 0; row < rows; ++row)
                        std::fill(sums + row * columns + first, sums + row * columns + limit, T{});
                      for (int64_t i = 0; i < count; ++i) {
                        if (index[i] < 0 || index[i] >= rows) continue;
                        T* sum = sums + index[i] * columns;
                        const auto* update = element(updates, load, i * columns);
                        for (int64_t c = first; c < limit; ++c)
                          sum[c] = static_cast<T>(sum[c] + load(update + c));
                      }
                    });
  }

  template <class U, class R>
  static const U* element(const TensorRef& tensor, R (*)(const U*), int64_t offset) {
    return tensor.as<const U>() + offset;
  }
  template <class Load>
  static auto element(const TensorRef& tensor, Load load, int64_t offset) {
    return element(tensor, +load, offset);
  }

  TensorType type_;
};

class DynamicUpdateSlice final : public Kernel {
 public:
  bool can_share(int operand, int) const override { return operand == 0; }
  void run(const KernelCall& call) const override {
    const TensorRef &a = call.operands[0], &update = call.operands[1], &out = call.results[0];
    const size_t element_bytes = dtype_size(a.type.dtype);
    if (a.data != out.data) {
      StridedCopy whole;
      whole.add_axis(a.type.shape.elements(), 1, 1);
      run_strided_copy(whole, a.data, out.data, element_bytes, call.team);
    }
    const Strides from = dense_strides(update.type.shape), to = dense_strides(out.type.shape);
    StridedCopy copy;
    int64_t start = 0;
    for (int axis = 0; axis < out.type.shape.rank(); ++axis) {
      const auto i = static_cast<size_t>(axis);
      copy.add_axis(update.type.shape[axis], from[i], to[i]);
      const int64_t wanted = *call.operands[2 + i].as<const int32_t>();
      start += std::clamp<int64_t>(wanted, 0, out.type.shape[axis] - update.type.shape[axis]) * to[i];
    }
    run_strided_copy(copy, update.data, out.as<std::byte>() + start * static_cast<int64_t>(element_bytes),
                     element_bytes, call.team);
  }
};

}  // namespace

std::unique_ptr<Kernel> make_gather_rows(const Node&) { return std::make_unique<GatherRows>(); }
std::unique_ptr<Kernel> make_scatter_add_rows(const Node& node) {
  return std::make_unique<ScatterAddRows>(node);
}
std::unique_ptr<Kernel> make_dynamic_update_slice(const Node&) {
  return std::make_unique<DynamicUpdateSlice>();
}

}  // namespace vertebra::cpu
