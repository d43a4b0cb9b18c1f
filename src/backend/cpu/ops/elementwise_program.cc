#include "backend/cpu/ops/elementwise_program.h"

#include <algorithm>
#include <array>

#include "backend/cpu/ops/strided_copy.h"

namespace vertebra::cpu {
namespace {

constexpr int64_t kBlock = 512;  // elements: a dozen registers fit the first-level cache

// How an operand's elements lie in the domain, of this run's sizes.
struct OperandView {
  StridedCopy axes;  // `to` is unused; axes of size 1 dropped, neighbours joined
  bool whole = false, single = false;
};

OperandView view_of(const TensorRef& operand, const std::vector<int64_t>& dims, const Shape& domain) {
  const Strides dense = dense_strides(operand.type.shape);
  Strides mapped{};
  for (size_t i = 0; i < dims.size(); ++i)
    mapped[static_cast<size_t>(dims[i])] = operand.type.shape[static_cast<int>(i)] == 1 ? 0 : dense[i];
  OperandView view;
  for (int axis = 0; axis < domain.rank(); ++axis) {
    const int64_t size = domain[axis], stride = mapped[static_cast<size_t>(axis)];
    if (size == 1) continue;
    if (view.axes.rank > 0) {
      const auto last = static_cast<size_t>(view.axes.rank - 1);
      if (view.axes.from[last] == stride * size) {
        view.axes.sizes[last] *= size;
        view.axes.from[last] = stride;
        continue;
      }
    }
    view.axes.add_axis(size, stride, 0);
  }
  view.single = view.axes.rank == 0 || (view.axes.rank == 1 && view.axes.from[0] == 0);
  view.whole = view.axes.rank == 1 && view.axes.from[0] == 1;
  return view;
}

class ElementwiseKernel final : public Kernel {
 public:
  static std::unique_ptr<Kernel> make(const ElementwiseSource& source) {
    if (source.operands.size() + source.instructions.size() > kMostValues) return nullptr;
    auto kernel = std::make_unique<ElementwiseKernel>();
    kernel->operands_ = source.operands;
    kernel->results_ = source.results;
    kernel->domain_rank_ = source.domain.rank();
    for (const auto& operand : source.operands) kernel->dtypes_.push_back(operand.dtype);
    for (const auto& instruction : source.instructions) {
      const DType from = kernel->dtypes_[static_cast<size_t>(instruction.operands.back())];
      const RowFunction function =
          find_row_function(instruction.op, instruction.detail, from, instruction.dtype);
      if (!function.exists()) return nullptr;
      kernel->steps_.push_back({function, instruction.operands});
      kernel->dtypes_.push_back(instruction.dtype);
      kernel->cost_ += function.cost;
    }
    kernel->skip_needless_rounding();
    kernel->find_direct_results();
    kernel->assign_registers();
    return kernel;
  }

  // A result's block is written when the program comes to it or, if it must be narrowed, after the program:
  // an operand that lies in the same order may share its memory if nothing reads it later.
  bool can_share(int operand, int result) const override {
    if (static_cast<int>(operands_[static_cast<size_t>(operand)].dims.size()) != domain_rank_) return false;
    for (size_t r = 0; r < results_.size(); ++r) {
      // Written after the program, over an operand that a result is still to be copied from.
      if (static_cast<int>(r) != result && forwards(results_[r], operand)) return false;
    }
    for (size_t i = 0; i < steps_.size(); ++i) {
      if (steps_[i].direct != result) continue;
      for (size_t later = i + 1; later < steps_.size(); ++later) {
        for (const int v : steps_[later].operands) {
          if (v == operand || forwards(v, operand)) return false;
        }
      }
    }
    return true;
  }

  size_t workspace_bytes(int threads) const override {
    return static_cast<size_t>(threads) * register_count_ * register_bytes_;
  }

  void run(const KernelCall& call) const override;

 private:
  static constexpr size_t kMostValues = 64;
  struct Step {
    RowFunction function;
    std::vector<int> operands;
    int direct = -1;  // the result whose memory the value is computed in
  };

  // The value is the operand's memory, handed through by identities.
  bool forwards(int value, int operand) const {
    while (static_cast<size_t>(value) >= operands_.size()) {
      const Step& step = steps_[static_cast<size_t>(value) - operands_.size()];
      if (!step.function.is_identity) return false;
      value = step.operands[0];
    }
    return value == operand;
  }

  // Rounding to bf16 or f16 for results alone is left to narrowing them.
  void skip_needless_rounding() {
    for (size_t i = 0; i < steps_.size(); ++i) {
      const auto v = static_cast<int>(operands_.size() + i);
      const DType to = dtypes_[static_cast<size_t>(v)];
      const DType from = dtypes_[static_cast<size_t>(steps_[i].operands[0])];
      if ((to != DType::kBF16 && to != DType::kF16) || lane_of(from) != Lane::kF32 || from == DType::kF16 ||
          steps_[i].function.plain == nullptr)
        continue;
      bool read = steps_[i].function.cost > 1;  // a function without SIMD kernel, no conversion
      for (const Step& step : steps_) {
        read = read || std::find(step.operands.begin(), step.operands.end(), v) != step.operands.end();
      }
      if (!read) {
        steps_[i].function = {};
        steps_[i].function.is_identity = true;
      }
    }
  }

  void find_direct_results() {
    for (size_t i = 0; i < steps_.size(); ++i) {
      const size_t v = operands_.size() + i;
      if (steps_[i].function.is_identity || !is_native(dtypes_[v])) continue;
      for (size_t r = 0; r < results_.size() && steps_[i].direct < 0; ++r) {
        if (results_[r] == static_cast<int>(v)) steps_[i].direct = static_cast<int>(r);
      }
    }
  }

  // A register for each operand that must be converted or repeated and for each value that is no result's
  // memory; the latter are used again after the last reader of the value.
  void assign_registers() {
    const size_t count = dtypes_.size();
    register_of_.assign(count, 0);
    std::vector<size_t> last(count, 0);
    for (size_t i = 0; i < steps_.size(); ++i) {
      for (const int v : steps_[i].operands) last[static_cast<size_t>(v)] = i;
    }
    for (const int v : results_) last[static_cast<size_t>(v)] = steps_.size();
    // What an identity hands on lives as long as its reader.
    for (size_t i = steps_.size(); i-- > 0;) {
      if (!steps_[i].function.is_identity) continue;
      auto& source = last[static_cast<size_t>(steps_[i].operands[0])];
      source = std::max(source, last[operands_.size() + i]);
    }
    std::vector<size_t> free;
    const auto take = [&] {
      if (free.empty()) return register_count_++;
      const size_t taken = free.back();
      free.pop_back();
      return taken;
    };
    for (size_t v = 0; v < operands_.size(); ++v) register_of_[v] = take();
    for (size_t i = 0; i < steps_.size(); ++i) {
      const size_t v = operands_.size() + i;
      if (needs_register(i)) register_of_[v] = take();
      for (size_t k = 0; k <= i; ++k) {
        const size_t w = operands_.size() + k;
        if (needs_register(k) && std::max(last[w], k) == i) free.push_back(register_of_[w]);
      }
    }
    size_t widest = 4;
    for (const DType dtype : dtypes_) widest = std::max(widest, lane_size(lane_of(dtype)));
    register_bytes_ = widest * kBlock;
  }
  bool needs_register(size_t step) const {
    return steps_[step].direct < 0 && !steps_[step].function.is_identity;
  }

  void run_blocks(const KernelCall& call, const OperandView* views, int64_t begin, int64_t end,
                  std::byte* registers) const;
  static const void* load(const TensorRef& operand, const OperandView& view, int64_t start, int64_t size,
                          bool first, std::byte* into);

  std::vector<ElementwiseSource::Operand> operands_;
  std::vector<Step> steps_;
  std::vector<int> results_;
  std::vector<DType> dtypes_;  // of every value
  std::vector<size_t> register_of_;
  size_t register_count_ = 0, register_bytes_ = 0;
  int64_t cost_ = 0;
  int domain_rank_ = 0;
};

// The block of an operand as lanes: its own memory where it lies so, otherwise filled into `into`.
const void* ElementwiseKernel::load(const TensorRef& operand, const OperandView& view, int64_t start,
                                    int64_t size, bool first, std::byte* into) {
  const DType dtype = operand.type.dtype;
  const size_t bytes = dtype_size(dtype);
  const auto* data = operand.as<const std::byte>();
  if (view.whole) {
    const std::byte* here = data + static_cast<size_t>(start) * bytes;
    if (is_native(dtype)) return here;
    widen_row(dtype, here, into, size);
    return into;
  }
  if (view.single) {
    if (first) fill_row(dtype, data, into, kBlock);  // stays for the blocks that follow
    return into;
  }
  // Runs along the last axis.
  const StridedCopy& axes = view.axes;
  const auto last = static_cast<size_t>(axes.rank - 1);
  std::array<int64_t, Shape::kMaxRank> index{};
  int64_t rest = start, offset = 0;
  for (size_t i = last + 1; i-- > 0;) {
    index[i] = rest % axes.sizes[i];
    rest /= axes.sizes[i];
    offset += index[i] * axes.from[i];
  }
  const size_t lane_bytes = lane_size(lane_of(dtype));
  for (int64_t done = 0; done < size;) {
    const int64_t run = std::min(size - done, axes.sizes[last] - index[last]);
    std::byte* to = into + static_cast<size_t>(done) * lane_bytes;
    const std::byte* from = data + static_cast<size_t>(offset) * bytes;
    if (axes.from[last] == 0) {
      fill_row(dtype, from, to, run);
    } else if (axes.from[last] == 1) {
      widen_row(dtype, from, to, run);
    } else {
      for (int64_t k = 0; k < run; ++k)
        widen_row(dtype, from + static_cast<size_t>(k * axes.from[last]) * bytes,
                  to + static_cast<size_t>(k) * lane_bytes, 1);
    }
    done += run;
    index[last] += run;
    offset += run * axes.from[last];
    for (size_t i = last; i > 0 && index[i] == axes.sizes[i]; --i) {
      offset += axes.from[i - 1] - index[i] * axes.from[i];
      index[i] = 0;
      ++index[i - 1];
    }
  }
  return into;
}

void ElementwiseKernel::run_blocks(const KernelCall& call, const OperandView* views, int64_t begin,
                                   int64_t end, std::byte* registers) const {
  std::array<const void*, kMostValues> values;
  for (int64_t start = begin; start < end; start += kBlock) {
    const int64_t size = std::min(kBlock, end - start);
    for (size_t v = 0; v < operands_.size(); ++v) {
      values[v] = load(call.operands[v], views[v], start, size, start == begin,
                       registers + register_of_[v] * register_bytes_);
    }
    for (size_t i = 0; i < steps_.size(); ++i) {
      const Step& step = steps_[i];
      const size_t v = operands_.size() + i;
      std::array<const void*, 3> arguments{};
      for (size_t k = 0; k < step.operands.size(); ++k)
        arguments[k] = values[static_cast<size_t>(step.operands[k])];
      if (step.function.is_identity) {
        values[v] = arguments[0];
        continue;
      }
      std::byte* to = step.direct >= 0 ? call.results[static_cast<size_t>(step.direct)].as<std::byte>() +
                                             static_cast<size_t>(start) * dtype_size(dtypes_[v])
                                       : registers + register_of_[v] * register_bytes_;
      step.function(arguments.data(), to, size);
      values[v] = to;
    }
    for (size_t r = 0; r < results_.size(); ++r) {
      const auto v = static_cast<size_t>(results_[r]);
      const TensorRef& result = call.results[r];
      std::byte* to = result.as<std::byte>() + static_cast<size_t>(start) * dtype_size(result.type.dtype);
      if (values[v] != to) narrow_row(dtypes_[v], values[v], to, size);
    }
  }
}

void ElementwiseKernel::run(const KernelCall& call) const {
  constexpr int64_t kInlineWork = 20'000, kChunkWork = 32'768;
  const Shape& domain = call.results[0].type.shape;
  const int64_t size = domain.elements();
  if (size == 0) return;
  std::array<OperandView, kMostValues> views;
  for (size_t v = 0; v < operands_.size(); ++v)
    views[v] = view_of(call.operands[v], operands_[v].dims, domain);
  if (size * cost_ <= kInlineWork) return run_blocks(call, views.data(), 0, size, call.workspace);
  const int64_t chunk = std::max<int64_t>(1, kChunkWork / cost_ / kBlock) * kBlock;
  call.team.parallel_for((size + chunk - 1) / chunk, [&](int64_t index, int worker) {
    run_blocks(call, views.data(), index * chunk, std::min(size, (index + 1) * chunk),
               call.workspace + static_cast<size_t>(worker) * register_count_ * register_bytes_);
  });
}

}  // namespace

std::unique_ptr<Kernel> make_elementwise_kernel(const ElementwiseSource& source) {
  return ElementwiseKernel::make(source);
}

}  // namespace vertebra::cpu
