// The kernels of softmax over the last axis and its gradient.
#include "backend/cpu/kernels/softmax.h"

#include <memory>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/float_rows.h"

namespace vertebra::cpu {
namespace {

class SoftmaxKernel final : public Kernel {
 public:
  explicit SoftmaxKernel(bool gradient) : gradient_(gradient) {}

  bool can_share(int, int) const override { return true; }

  void run(const KernelCall& call) const override {
    const Rows rows(call.operands[0].type.shape);
    if (rows.size == 0) return;
    const auto* x = call.operands[0].as<const float>();
    auto* out = call.results[0].as<float>();
    for_pieces(call.team, rows.count, rows_per_piece(rows.size), [&](int64_t first, int64_t count) {
      const int64_t at = first * rows.size;
      if (gradient_) {
        kernels().softmax->softmax_grad(x + at, call.operands[1].as<const float>() + at, out + at, count,
                                        rows.size);
      } else {
        kernels().softmax->softmax(x + at, out + at, count, rows.size);
      }
    });
  }

 private:
  bool gradient_;
};

}  // namespace

std::unique_ptr<Kernel> make_softmax(const Node& node) {
  if (!all_f32(node)) return nullptr;
  return std::make_unique<SoftmaxKernel>(node.operands.size() == 2);
}

}  // namespace vertebra::cpu
