// The kernels of `expert_linear` and `top_k`. Rows are sorted by their experts and each expert that was
// chosen at all multiplies its rows at once: no other weights are read. A row's sum does not depend on its
// companions (gemm.h).
#include <algorithm>
#include <cstring>
#include <memory>

#include "backend/cpu/block_linear.h"
#include "backend/cpu/block_matrix.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/convert.h"
#include "backend/cpu/ops/strided_copy.h"
#include "backend/cpu/ops/workspace.h"

namespace vertebra::cpu {
namespace {

// Operands x, weight, experts, bias (if any).
class ExpertLinear final : public Kernel {
 public:
  explicit ExpertLinear(const Node& node)
      : weight_(node.operands[1].type()),
        has_bias_(node.operands.size() > 3),
        blocks_(is_block_quantized(weight_.dtype)),
        rounds_(!blocks_ && node.attrs.get<DType>("compute") == DType::kBF16),
        most_(node.operands[2].shape().elements()),
        choices_(node.operands[2].shape()[1]),
        shared_(node.operands[0].shape().rank() == 2) {}

  size_t workspace_bytes(int threads) const override {
    Carver carver(nullptr);
    Scratch(carver, *this);
    return carver.used() + product_bytes(threads);
  }
  bool rounds_operand(int operand) const override { return operand == 1 && rounds_; }

  void run(const KernelCall& call) const override {
    const int64_t X = weight_.shape[0], F = weight_.shape[1], E = weight_.shape[2];
    const int64_t pairs = call.operands[2].type.shape.elements();
    Carver carver(call.workspace);
    const Scratch scratch(carver, *this);
    sort_by_expert(call.operands[2].as<const int32_t>(), pairs, scratch);
    const int64_t valid = scratch.first[X];
    gather(call, scratch, valid);
    const bool narrow = call.operands[1].type.dtype == DType::kBF16;
    const std::span<std::byte> rest{call.workspace + carver.used(), product_bytes(call.team.size())};
    for (int64_t e = 0; e < X; ++e) {
      const int64_t first = scratch.first[e], rows = scratch.first[e + 1] - first;
      if (rows == 0 || F == 0) continue;
      const float* bias = has_bias_ ? call.operands[3].as<const float>() + e * F : nullptr;
      if (blocks_) {
        const auto* panels = call.operands[1].as<const std::byte>() +
                             static_cast<size_t>(e * F / kPanelRows) * panel_bytes(weight_.dtype, E);
        GemmFinish finish{};
        finish.bias = bias;
        finish.out = scratch.results + first * F;
        finish.out_stride = F;
        const BlockWeight weight = {weight_.dtype, F, panels, finish};
        block_linear({rows, E, scratch.rows + first * E, {&weight, 1}}, rest.data(), call.team);
        continue;
      }
      GemmArgs args = arguments(rows);
      args.a = rounds_ ? static_cast<const void*>(scratch.narrow_rows + first * E) : scratch.rows + first * E;
      args.b = call.operands[1].as<const std::byte>() + static_cast<size_t>(e * F * E) * (narrow ? 2 : 4);
      args.b_dtype = call.operands[1].type.dtype;
      if (rounds_ && !narrow) {
        const auto* from = static_cast<const float*>(args.b);
        parallel_ranges(call.team, F * E, 1, [&](int64_t begin, int64_t end) {
          kernels().convert->f32_to_bf16(from + begin, scratch.narrow_weight + begin, end - begin);
        });
        args.b = scratch.narrow_weight;
        args.b_dtype = DType::kBF16;
      }
      args.c = scratch.results + first * F;
      args.bias = bias;
      gemm(args, rest, call.team);
    }
    scatter(call, scratch, pairs, valid);
  }

 private:
  struct Scratch {
    int64_t* first;  // [X + 1]: where each expert's rows begin in the sorted order
    int64_t* order;  // pair (n, a) of each sorted row; pairs without an expert come last
    float *rows, *results;
    uint16_t *narrow_rows, *narrow_weight;

    Scratch(Carver& carver, const ExpertLinear& k) {
      const int64_t X = k.weight_.shape[0], F = k.weight_.shape[1], E = k.weight_.shape[2];
      first = carver.take<int64_t>(X + 2);
      order = carver.take<int64_t>(k.most_);
      rows = carver.take<float>(k.most_ * E);
      results = carver.take<float>(k.most_ * F);
      narrow_rows = carver.take<uint16_t>(k.rounds_ ? k.most_ * E : 0);
      narrow_weight = carver.take<uint16_t>(k.rounds_ && k.weight_.dtype == DType::kF32 ? F * E : 0);
    }
  };

  size_t product_bytes(int threads) const {
    if (!blocks_) return gemm_workspace_bytes(arguments(most_), threads);
    const BlockWeight weight = {weight_.dtype, weight_.shape[1], nullptr, {}};
    return block_linear_workspace_bytes({most_, weight_.shape[2], nullptr, {&weight, 1}}, threads);
  }

  GemmArgs arguments(int64_t rows) const {
    GemmArgs args;
    args.m = rows;
    args.n = weight_.shape[1];
    args.k = args.lda = args.ldb = weight_.shape[2];
    args.ldc = args.n;
    args.a_dtype = rounds_ ? DType::kBF16 : DType::kF32;
    args.b_dtype = rounds_ ? DType::kBF16 : weight_.dtype;
    args.b_transposed = true;
    return args;
  }

  // A counting sort, which keeps the order of an expert's rows.
  void sort_by_expert(const int32_t* experts, int64_t pairs, const Scratch& scratch) const {
    const int64_t X = weight_.shape[0];
    const auto slot = [&](int64_t i) { return experts[i] >= 0 && experts[i] < X ? experts[i] : X; };
    std::fill(scratch.first, scratch.first + X + 2, 0);
    for (int64_t i = 0; i < pairs; ++i) ++scratch.first[slot(i) + 1];
    for (int64_t e = 0; e <= X; ++e) scratch.first[e + 1] += scratch.first[e];
    for (int64_t i = 0; i < pairs; ++i) scratch.order[scratch.first[slot(i)]++] = i;
    for (int64_t e = X + 1; e > 0; --e) scratch.first[e] = scratch.first[e - 1];
    scratch.first[0] = 0;
  }

  void gather(const KernelCall& call, const Scratch& scratch, int64_t valid) const {
    const int64_t E = weight_.shape[2];
    parallel_ranges(call.team, valid, E, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = shared_ ? scratch.order[i] / choices_ : scratch.order[i];
        const float* from = call.operands[0].as<const float>() + row * E;
        if (rounds_) {
          kernels().convert->f32_to_bf16(from, scratch.narrow_rows + i * E, E);
        } else {
          std::memcpy(scratch.rows + i * E, from, static_cast<size_t>(E) * sizeof(float));
        }
      }
    });
  }

  void scatter(const KernelCall& call, const Scratch& scratch, int64_t pairs, int64_t valid) const {
    const int64_t F = weight_.shape[1];
    parallel_ranges(call.team, pairs, F, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* to = call.results[0].as<float>() + scratch.order[i] * F;
        if (i < valid) {
          std::memcpy(to, scratch.results + i * F, static_cast<size_t>(F) * sizeof(float));
        } else {
          std::memset(to, 0, static_cast<size_t>(F) * sizeof(float));
        }
      }
    });
  }

  TensorType weight_;
  bool has_bias_, blocks_, rounds_;
  int64_t most_, choices_;
  bool shared_;
};

class TopK final : public Kernel {
 public:
  explicit TopK(const Node& node) : k_(node.attrs.get<int64_t>("k")) {}

  void run(const KernelCall& call) const override {
    const Shape& shape = call.operands[0].type.shape;
    const int64_t width = shape[-1];
    parallel_ranges(call.team, shape.elements() / width, width * k_, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        run_row(call.operands[0].as<const float>() + r * width, width, call.results[0].as<float>() + r * k_,
                call.results[1].as<int32_t>() + r * k_);
      }
    });
  }

 private:
  // One after the other: the largest of those that come after the last one in (value down, index up) order.
  void run_row(const float* a, int64_t width, float* values, int32_t* indices) const {
    for (int64_t i = 0; i < k_; ++i) {
      int64_t best = -1;
      for (int64_t j = 0; j < width; ++j) {
        const bool later = i == 0 || a[j] < values[i - 1] || (a[j] == values[i - 1] && j > indices[i - 1]);
        if (later && (best < 0 || a[j] > a[best])) best = j;
      }
      best = std::max<int64_t>(best, 0);  // only numbers that are none leave nothing to choose
      values[i] = a[best];
      indices[i] = static_cast<int32_t>(best);
    }
  }

  int64_t k_;
};

}  // namespace

// f32 rows and biases; weights f32, bf16 or block-quantized, if each expert's rows are whole panels.
std::unique_ptr<Kernel> make_expert_linear(const Node& node) {
  const TensorType& type = node.operands[1].type();
  const bool panels = is_block_quantized(type.dtype) && type.shape[1] % kPanelRows == 0;
  if (node.operands[0].dtype() != DType::kF32) return nullptr;
  if (!panels && type.dtype != DType::kF32 && type.dtype != DType::kBF16) return nullptr;
  if (node.operands.size() > 3 && node.operands[3].dtype() != DType::kF32) return nullptr;
  return std::make_unique<ExpertLinear>(node);
}

std::unique_ptr<Kernel> make_top_k(const Node& node) {
  if (node.operands[0].dtype() != DType::kF32) return nullptr;
  return std::make_unique<TopK>(node);
}

}  // namespace vertebra::cpu
