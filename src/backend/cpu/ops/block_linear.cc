// Kernel of linear layers with a block-quantized weight.
#include "backend/cpu/block_linear.h"

#include <algorithm>
#include <array>
#include <vector>

#include "backend/cpu/kernel.h"
#include "graph/op.h"

namespace vertebra::cpu {

GemmActivation activation_from(const std::string& name) {
  if (name == "silu") return GemmActivation::kSilu;
  if (name == "gelu") return GemmActivation::kGeluErf;
  return name == "gelu_tanh" ? GemmActivation::kGeluTanh : GemmActivation::kNone;
}

namespace {

int64_t rows_of(const Shape& x) {
  int64_t rows = 1;
  for (int axis = 0; axis + 1 < x.rank(); ++axis) rows *= x[axis];
  return rows;
}

class BlockLinear final : public Kernel {
 public:
  explicit BlockLinear(const Node& node)
      : x_(node.operands[0].type()),
        w_(node.operands[1].type()),
        has_bias_(node.attrs.get<bool>("has_bias")),
        has_residual_(node.attrs.get<bool>("has_residual")),
        activation_(activation_from(node.attrs.get<std::string>("activation"))) {}

  size_t workspace_bytes(int threads) const override {
    const BlockWeight weight = {w_.dtype, w_.shape[0], nullptr, {}};
    return block_linear_workspace_bytes({rows_of(x_.shape), w_.shape[1], nullptr, {&weight, 1}}, threads);
  }
  bool can_share(int operand, int) const override { return has_residual_ && operand == (has_bias_ ? 3 : 2); }

  void run(const KernelCall& call) const override {
    const int64_t n = w_.shape[0];
    GemmFinish finish = {};
    finish.out = call.results[0].data;
    finish.out_is_bf16 = call.results[0].type.dtype == DType::kBF16;
    finish.out_stride = n;
    finish.activation = activation_;
    if (has_bias_) {
      finish.bias = call.operands[2].data;
      finish.bias_is_bf16 = call.operands[2].type.dtype == DType::kBF16;
    }
    if (has_residual_) {
      finish.residual = call.operands[has_bias_ ? 3 : 2].data;
      finish.residual_stride = n;
    }
    const BlockWeight weight = {w_.dtype, n, call.operands[1].as<const std::byte>(), finish};
    block_linear(
        {rows_of(call.operands[0].type.shape), w_.shape[1], call.operands[0].as<const float>(), {&weight, 1}},
        call.workspace, call.team);
  }

 private:
  TensorType x_, w_;
  bool has_bias_, has_residual_;
  GemmActivation activation_;
};

// Several weights that read the same rows: rounded once, one parallel region.
class BlockLinearGroup final : public Kernel {
 public:
  explicit BlockLinearGroup(const Node& node)
      : x_(node.operands[0].type()), has_bias_(node.attrs.get<bool>("has_bias")) {
    for (size_t i = 0; i < node.results.size(); ++i) weights_.push_back(node.operands[1 + i].type());
  }

  size_t workspace_bytes(int threads) const override {
    std::array<BlockWeight, kMostLayers> weights;
    for (size_t i = 0; i < weights_.size(); ++i)
      weights[i] = {weights_[i].dtype, weights_[i].shape[0], nullptr, {}};
    return block_linear_workspace_bytes(
        {rows_of(x_.shape), x_.shape[-1], nullptr, std::span(weights).first(weights_.size())}, threads);
  }

  void run(const KernelCall& call) const override {
    std::array<BlockWeight, kMostLayers> weights;
    for (size_t i = 0; i < weights_.size(); ++i) {
      const int64_t n = weights_[i].shape[0];
      GemmFinish finish = {};
      finish.out = call.results[i].data;
      finish.out_is_bf16 = call.results[i].type.dtype == DType::kBF16;
      finish.out_stride = n;
      if (has_bias_) {
        const TensorRef& bias = call.operands[1 + weights_.size() + i];
        finish.bias = bias.data;
        finish.bias_is_bf16 = bias.type.dtype == DType::kBF16;
      }
      weights[i] = {weights_[i].dtype, n, call.operands[1 + i].as<const std::byte>(), finish};
    }
    block_linear({rows_of(call.operands[0].type.shape), x_.shape[-1], call.operands[0].as<const float>(),
                  std::span(weights).first(weights_.size())},
                 call.workspace, call.team);
  }

  static constexpr size_t kMostLayers = 16;

 private:
  TensorType x_;
  std::vector<TensorType> weights_;
  bool has_bias_;
};

}  // namespace

// Null where a weight is not of blocks or x not f32.
std::unique_ptr<Kernel> make_linear_group(const Node& node) {
  const size_t layers = node.results.size();
  if (node.operands[0].dtype() != DType::kF32 || layers > BlockLinearGroup::kMostLayers) return nullptr;
  for (size_t i = 1; i < node.operands.size(); ++i) {
    const DType dtype = node.operands[i].dtype();
    const bool takes =
        i <= layers ? is_block_quantized(dtype) : dtype == DType::kF32 || dtype == DType::kBF16;
    if (!takes) return nullptr;
  }
  return std::make_unique<BlockLinearGroup>(node);
}

// Null for x of another type than f32.
std::unique_ptr<Kernel> make_block_linear(const Node& node) {
  if (node.operands[0].dtype() != DType::kF32) return nullptr;
  for (size_t i = 2; i < node.operands.size(); ++i) {
    const DType dtype = node.operands[i].dtype();
    if (dtype != DType::kF32 && dtype != DType::kBF16) return nullptr;
  }
  return std::make_unique<BlockLinear>(node);
}

}  // namespace vertebra::cpu
