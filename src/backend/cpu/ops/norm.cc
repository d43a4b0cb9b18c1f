// The kernels of rms_norm, layer_norm and their gradients. The gradients of weights are summed over fixed
// pieces of 64 rows, the pieces then added in order.
#include "backend/cpu/kernels/norm.h"

#include <cstring>
#include <memory>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/float_rows.h"

namespace vertebra::cpu {
namespace {

class NormKernel final : public Kernel {
 public:
  explicit NormKernel(const Node& node)
      : epsilon_(static_cast<float>(node.attrs.get<double>("epsilon"))),
        layer_(node.operands.size() == 3),
        buffer_floats_(buffer_floats(Rows(node.operands[0].shape()).size)) {}

  bool can_share(int operand, int result) const override { return operand == 0 && result == 0; }
  bool can_round_result(int) const override { return true; }
  size_t workspace_bytes(int threads) const override {
    return static_cast<size_t>(threads) * static_cast<size_t>(buffer_floats_) * sizeof(float);
  }

  void run(const KernelCall& call) const override {
    const Rows rows(call.operands[0].type.shape);
    const auto* x = call.operands[0].as<const float>();
    const auto* weight = call.operands[1].as<const float>();
    const NormKernels& norm = *kernels().norm;
    const int64_t piece = rows_per_piece(rows.size);
    for_worker_pieces(call.team, rows.count, piece, [&](int64_t first, int64_t count, int worker) {
      const int64_t at = first * rows.size;
      const FloatRow y(call.results[0], at, count * rows.size,
                       reinterpret_cast<float*>(call.workspace) + worker * buffer_floats_);
      if (layer_) {
        norm.layer_norm(x + at, weight, call.operands[2].as<const float>(), y.target(), count, rows.size,
                        epsilon_);
      } else {
        norm.rms_norm(x + at, weight, y.target(), count, rows.size, epsilon_);
      }
      y.finish();
    });
  }

 private:
  // Of one worker: a piece of rows, in whole cache lines.
  static int64_t buffer_floats(int64_t row_size) {
    return (rows_per_piece(row_size) * row_size + 15) / 16 * 16;
  }

  float epsilon_;
  bool layer_;
  int64_t buffer_floats_;
};

// (x, weight, dy) -> (dx, dweight) or (dx, dweight, dbias).
class NormGradKernel final : public Kernel {
 public:
  explicit NormGradKernel(const Node& node)
      : epsilon_(static_cast<float>(node.attrs.get<double>("epsilon"))), layer_(node.results.size() == 3) {
    const Rows rows(node.operands[0].shape());
    const int64_t pieces = (rows.count + kPieceRows - 1) / kPieceRows;
    workspace_bytes_ = static_cast<size_t>(pieces * row_stride(rows.size)) * sizeof(float);
  }

  size_t workspace_bytes(int) const override { return workspace_bytes_; }

  bool can_share(int operand, int result) const override {
    return result == 0 && (operand == 0 || operand == 2);
  }

  void run(const KernelCall& call) const override {
    const Rows rows(call.operands[0].type.shape);
    const auto* x = call.operands[0].as<const float>();
    const auto* weight = call.operands[1].as<const float>();
    const auto* dy = call.operands[2].as<const float>();
    auto* dx = call.results[0].as<float>();
    auto* partials = reinterpret_cast<float*>(call.workspace);
    const NormKernels& norm = *kernels().norm;
    const int64_t stride = row_stride(rows.size);
    for_pieces(call.team, rows.count, kPieceRows, [&](int64_t first, int64_t count) {
      const int64_t at = first * rows.size;
      float* dweight = partials + first / kPieceRows * stride;
      float* dbias = dweight + rows.size;
      std::memset(dweight, 0, static_cast<size_t>(stride) * sizeof(float));
      if (layer_) {
        norm.layer_norm_grad(x + at, weight, dy + at, dx + at, dweight, dbias, count, rows.size, epsilon_);
      } else {
        norm.rms_norm_grad(x + at, weight, dy + at, dx + at, dweight, count, rows.size, epsilon_);
      }
    });
    const int64_t pieces = (rows.count + kPieceRows - 1) / kPieceRows;
    for_pieces(call.team, rows.size, 1024, [&](int64_t first, int64_t count) {
      for (size_t r = 1; r < call.results.size(); ++r) {
        const float* from = partials + static_cast<int64_t>(r - 1) * rows.size + first;
        norm.add_partials(from, stride, pieces, count, call.results[r].as<float>() + first);
      }
    });
  }

 private:
  static constexpr int64_t kPieceRows = 64;
  int64_t row_stride(int64_t size) const { return ((layer_ ? 2 : 1) * size + 15) / 16 * 16; }

  float epsilon_;
  bool layer_;
  size_t workspace_bytes_;
};

}  // namespace

std::unique_ptr<Kernel> make_norm(const Node& node) {
  if (!all_f32(node)) return nullptr;
  return std::make_unique<NormKernel>(node);
}

std::unique_ptr<Kernel> make_norm_grad(const Node& node) {
  if (!all_f32(node)) return nullptr;
  return std::make_unique<NormGradKernel>(node);
}

}  // namespace vertebra::cpu
