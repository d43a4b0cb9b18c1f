// The kernel of adamw_update: one pass over parameter, gradient and moments, bound by memory bandwidth.
#include "backend/cpu/kernels/optimizer.h"

#include <cmath>
#include <memory>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/float_rows.h"

namespace vertebra::cpu {
namespace {

// (p, g, m, v, learning rate, step, scale of g) -> (p, m, v)
class AdamWKernel final : public Kernel {
 public:
  explicit AdamWKernel(const Attrs& attrs)
      : beta1_(attrs.get<double>("beta1")),
        beta2_(attrs.get<double>("beta2")),
        epsilon_(attrs.get<double>("epsilon")),
        weight_decay_(attrs.get<double>("weight_decay")) {}

  bool can_share(int operand, int) const override { return operand < 4; }

  void run(const KernelCall& call) const override {
    const double rate = *call.operands[4].as<const float>(), step = *call.operands[5].as<const float>();
    const AdamWStep constants = {.beta1 = static_cast<float>(beta1_),
                                 .beta2 = static_cast<float>(beta2_),
                                 .epsilon = static_cast<float>(epsilon_),
                                 .gradient_scale = *call.operands[6].as<const float>(),
                                 .kept = static_cast<float>(1 - rate * weight_decay_),
                                 .rate = static_cast<float>(rate / (1 - std::pow(beta1_, step))),
                                 .correction = static_cast<float>(1 / (1 - std::pow(beta2_, step)))};
    const auto in = [&](size_t i, int64_t at) { return call.operands[i].as<const float>() + at; };
    const auto out = [&](size_t i, int64_t at) { return call.results[i].as<float>() + at; };
    for_pieces(call.team, call.operands[0].type.shape.elements(), 16384, [&](int64_t at, int64_t count) {
      kernels().optimizer->adamw(constants, in(0, at), in(1, at), in(2, at), in(3, at), out(0, at),
                                 out(1, at), out(2, at), count);
    });
  }

 private:
  double beta1_, beta2_, epsilon_, weight_decay_;
};

}  // namespace

std::unique_ptr<Kernel> make_adamw_update(const Node& node) {
  if (!all_f32(node)) return nullptr;
  return std::make_unique<AdamWKernel>(node.attrs);
}

}  // namespace vertebra::cpu
