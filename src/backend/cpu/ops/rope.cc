// The kernel of rope: a token's sines and cosines are computed once for all its heads.
#include "backend/cpu/kernels/rope.h"

#include <memory>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/float_rows.h"

namespace vertebra::cpu {
namespace {

class RopeKernel final : public Kernel {
 public:
  explicit RopeKernel(int64_t dim)
      : table_bytes_((static_cast<size_t>(dim) * sizeof(float) + 63) / 64 * 64) {}

  size_t workspace_bytes(int threads) const override { return table_bytes_ * static_cast<size_t>(threads); }

  bool can_share(int operand, int result) const override { return operand == 0 && result == 0; }

  void run(const KernelCall& call) const override {
    const Shape& shape = call.operands[0].type.shape;
    const int64_t tokens = shape[0], heads = shape[1], dim = shape[2];
    const int64_t piece = rows_per_piece(heads * dim);
    const auto* positions = call.operands[1].as<const int32_t>();
    call.team.parallel_for((tokens + piece - 1) / piece, [&](int64_t index, int worker) {
      auto* table = reinterpret_cast<float*>(call.workspace + table_bytes_ * static_cast<size_t>(worker));
      for (int64_t n = index * piece; n < std::min(tokens, (index + 1) * piece); ++n) {
        kernels().rope->rotate(call.operands[0].as<const float>() + n * heads * dim,
                               call.results[0].as<float>() + n * heads * dim, heads, dim, positions[n],
                               call.operands[2].as<const float>(), table);
      }
    });
  }

 private:
  size_t table_bytes_;
};

}  // namespace

std::unique_ptr<Kernel> make_rope(const Node& node) {
  if (!all_f32(node)) return nullptr;
  return std::make_unique<RopeKernel>(node.operands[0].shape()[2]);
}

}  // namespace vertebra::cpu
