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

  void run(const KernelCall& call) const override {
    const ActivationKernels& table = *kernels().activation;
    const auto in = [&](size_t i, int64_t at) { return call.operands[i].as<const float>() + at; };
    const auto out = [&](size_t i, int64_t at) { return call.results[i].as<float>() + at; };
    for_pieces(call.team, call.operands[0].type.shape.elements(), 8192, [&](int64_t at, int64_t count) {
      if (kind_ == Kind::kSwiglu) {
        if (gradient_) {
          table.swiglu_grad(in(0, at), in(1, at), in(2, at), out(0, at), out(1, at), count);
        } else {
          table.swiglu(in(0, at), in(1, at), out(0, at), count);
        }
      } else if (gradient_) {
        const auto f = kind_ == Kind::kSilu       ? table.silu_grad
                       : kind_ == Kind::kGeluTanh ? table.gelu_tanh_grad
                                                  : table.gelu_erf_grad;
        f(in(0, at), in(1, at), out(0, at), count);
      } else {
        const auto f = kind_ == Kind::kSilu       ? table.silu
                       : kind_ == Kind::kGeluTanh ? table.gelu_tanh
                                                  : table.gelu_erf;
        f(in(0, at), out(0, at), count);
      }
    });
  }

 private:
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
