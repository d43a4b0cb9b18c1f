// The kernel of rope: a token's sines and cosines are computed once for all its heads.
#include "backend/cpu/kernels/rope.h"

#include <memory>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/float_rows.h"

namespace vertebra::cpu {
namespace {

class RopeKernel final : public Kernel {
 public:
  RopeKernel(int64_t heads, int64_t dim)
      : table_floats_((dim + 15) / 16 * 16), worker_floats_(table_floats_ + (heads * dim + 15) / 16 * 16) {}

  // Of each worker: a token's sines and cosines, and a token's heads before they are rounded.
  size_t workspace_bytes(int threads) const override {
    return static_cast<size_t>(worker_floats_) * sizeof(float) * static_cast<size_t>(threads);
  }

  bool can_share(int operand, int result) const override { return operand == 0 && result == 0; }
  bool can_round_result(int) const override { return true; }

  void run(const KernelCall& call) const override {
    const Shape& shape = call.operands[0].type.shape;
    const int64_t tokens = shape[0], heads = shape[1], dim = shape[2];
    const int64_t piece = rows_per_piece(heads * dim);
    const auto* positions = call.operands[1].as<const int32_t>();
    for_worker_pieces(call.team, tokens, piece, [&](int64_t first, int64_t count, int worker) {
      float* table = reinterpret_cast<float*>(call.workspace) + worker * worker_floats_;
      for (int64_t n = first; n < first + count; ++n) {
        const int64_t at = n * heads * dim;
        const FloatRow row(call.results[0], at, heads * dim, table + table_floats_);
        kernels().rope->rotate(call.operands[0].as<const float>() + at, row.target(), heads, dim,
                               positions[n], call.operands[2].as<const float>(), table);
        row.finish();
      }
    });
  }

 private:
  int64_t table_floats_, worker_floats_;
};

}  // namespace

std::unique_ptr<Kernel> make_rope(const Node& node) {
  if (!all_f32(node)) return nullptr;
  const Shape& x = node.operands[0].shape();
  return std::make_unique<RopeKernel>(x[1], x[2]);
}

}  // namespace vertebra::cpu
