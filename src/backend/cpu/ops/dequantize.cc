// Kernels that turn block-quantized weights into f32: dequantize, and embedding, which reads rows of a table
// of either kind.
#include <algorithm>

#include "backend/cpu/block_matrix.h"
#include "backend/cpu/kernel.h"
#include "backend/cpu/ops/strided_copy.h"
#include "graph/op.h"

namespace vertebra::cpu {

std::unique_ptr<Kernel> make_gather_rows(const Node& node);

namespace {

void dequantize_row(const TensorRef& blocks, int64_t row, int64_t size, float* to) {
  dequantize_panel_row(blocks.type.dtype, blocks.as<const std::byte>(), row, {to, static_cast<size_t>(size)});
}

class Dequantize final : public Kernel {
 public:
  void run(const KernelCall& call) const override {
    const TensorRef& blocks = call.operands[0];
    const int64_t size = blocks.type.shape[-1];
    if (size == 0) return;
    parallel_ranges(call.team, blocks.type.shape.elements() / size, size, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        dequantize_row(blocks, row, size, call.results[0].as<float>() + row * size);
    });
  }
};

class EmbeddingOfBlocks final : public Kernel {
 public:
  void run(const KernelCall& call) const override {
    const TensorRef &table = call.operands[0], &indices = call.operands[1];
    const int64_t rows = table.type.shape[0], size = table.type.shape[1];
    const auto* index = indices.as<const int32_t>();
    parallel_ranges(call.team, indices.type.shape.elements(), size, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        dequantize_row(table, std::clamp<int64_t>(index[i], 0, rows - 1), size,
                       call.results[0].as<float>() + i * size);
      }
    });
  }
};

}  // namespace

std::unique_ptr<Kernel> make_dequantize(const Node&) { return std::make_unique<Dequantize>(); }

std::unique_ptr<Kernel> make_embedding(const Node& node) {
  if (is_block_quantized(node.operands[0].dtype())) return std::make_unique<EmbeddingOfBlocks>();
  return make_gather_rows(node);
}

}  // namespace vertebra::cpu
