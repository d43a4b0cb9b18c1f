// The kernels of silu, gelu, swiglu and their gradients: elementwise, in pieces of a fixed size.
#include "backend/cpu/kernels/activation.h"

#include <memory>
#include <string_view>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/float_rows.h"
#include "graph/op.h"

namespace vertebra::cpu {
namespace {

enum class Kind { kSilu, kGeluTanh, kGeluErf, kSwiglu };

class ActivationKernel final : public Kernel {
 public:
  ActivationKernel(Kind kind, bool gradient) : kind_(kind), gradient_(gradient) {}

  bool can_share(int, int) const override { return true; }
  bool can_round_result(int) const override { return true; }
  size_t workspace_bytes(int threads) const override {
    return static_cast<size_t>(threads) * kMostResults * kPiece * sizeof(float);
  }

  void run(const KernelCall& call) const override {
    const ActivationKernels& table = *kernels().activation;
    const auto in = [&](size_t i, int64_t at) { return call.operands[i].as<const float>() + at; };
    const int64_t size = call.operands[0].type.shape.elements();
    for_worker_pieces(call.team, size, kPiece, [&](int64_t at, int64_t count, int worker) {
      float* buffer = reinterpret_cast<float*>(call.workspace) + worker * kMostResults * kPiece;
      const FloatRow first(call.results.front(), at, count, buffer);
      const FloatRow last(call.results.back(), at, count, buffer + (call.results.size() - 1) * kPiece);
      if (kind_ == Kind::kSwiglu) {
        if (gradient_) {
          table.swiglu_grad(in(0, at), in(1, at), in(2, at), first.target(), last.target(), count);
        } else {
          table.swiglu(in(0, at), in(1, at), first.target(), count);
        }
      } else if (gradient_) {
        const auto f = kind_ == Kind::kSilu       ? table.silu_grad
                       : kind_ == Kind::kGeluTanh ? table.gelu_tanh_grad
                                                  : table.gelu_erf_grad;
        f(in(0, at), in(1, at), first.target(), count);
      } else {
        const auto f = kind_ == Kind::kSilu       ? table.silu
                       : kind_ == Kind::kGeluTanh ? table.gelu_tanh
                                                  : table.gelu_erf;
        f(in(0, at), first.target(), count);
      }
      first.finish();
      if (call.results.size() > 1) last.finish();
    });
  }

 private:
  static constexpr int64_t kPiece = 8192, kMostResults = 2;

  Kind kind_;
  bool gradient_;
};

}  // namespace

// silu, gelu, swiglu and their _grad ops.
std::unique_ptr<Kernel> make_activation(const Node& node) {
  if (!all_f32(node)) return nullptr;
  const std::string_view name = node.op->name;
  Kind kind = Kind::kSilu;
  if (name.starts_with("swiglu")) kind = Kind::kSwiglu;
  if (name.starts_with("gelu"))
    kind = node.attrs.get<bool>("tanh_approximation") ? Kind::kGeluTanh : Kind::kGeluErf;
  return std::make_unique<ActivationKernel>(kind, name.ends_with("_grad"));
}

}  // namespace vertebra::cpu
