// The kernels of linear_cross_entropy, its gradient, and both in one sweep. Rows without a label are left out
// first; the others are taken in chunks, whose logits never leave the workspace: logits = hidden . head^T,
// then per row the loss and dlogits in place, then dhidden = dlogits . head and dhead += dlogits^T . hidden,
// chunk after chunk.
#include <cstring>
#include <memory>

#include "backend/cpu/gemm.h"
#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/convert.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/softmax.h"
#include "backend/cpu/ops/float_rows.h"
#include "backend/cpu/ops/workspace.h"

namespace vertebra::cpu {
namespace {

class CrossEntropyKernel final : public Kernel {
 public:
  CrossEntropyKernel(const Node& node, bool loss, bool gradient)
      : tokens_(node.operands[0].shape()[0]),
        width_(node.operands[0].shape()[1]),
        vocabulary_(node.operands[1].shape()[0]),
        loss_(loss),
        gradient_(gradient),
        bf16_(node.attrs.get<DType>("compute") == DType::kBF16) {}

  size_t workspace_bytes(int threads) const override {
    Carver carver(nullptr);
    Memory(carver, *this);
    return carver.used() + gemm_bytes(threads);
  }

  void run(const KernelCall& call) const override {
    Carver carver(call.workspace);
    const Memory memory(carver, *this);
    const std::span<std::byte> scratch(call.workspace + carver.used(), gemm_bytes(call.team.size()));
    const int64_t tokens = call.operands[0].type.shape[0];
    const auto* labels = call.operands[2].as<const int32_t>();
    if (loss_) std::memset(call.results[0].data, 0, static_cast<size_t>(tokens) * sizeof(float));
    int64_t count = 0;
    for (int64_t n = 0; n < tokens; ++n)
      if (labels[n] >= 0 && labels[n] < vocabulary_) memory.rows[count++] = static_cast<int32_t>(n);
    if (gradient_) {
      std::memset(dhidden(call), 0, static_cast<size_t>(tokens * width_) * sizeof(float));
      if (count == 0) std::memset(dhead(call), 0, static_cast<size_t>(vocabulary_ * width_) * sizeof(float));
    }
    if (bf16_ && count > 0) round(call, call.operands[1].as<const float>(), memory.head, vocabulary_);
    for (int64_t first = 0; first < count; first += chunk())
      run_chunk(call, memory, scratch, first, std::min(chunk(), count - first));
  }

 private:
  // By shape alone: the loop over chunks decides the order of the sums in dhead. The head is packed twice a
  // chunk and dhead added to once: with 256 rows that is a fifth of the time of the products, so chunks are
  // as large as 51 MB of logits allow.
  int64_t chunk() const {
    constexpr int64_t kLogits = 12'900'000, kRows = 128;
    const int64_t rows =
        std::clamp<int64_t>(kLogits / std::max<int64_t>(vocabulary_, 1) / kRows, 1, 8) * kRows;
    return std::min(rows, std::max<int64_t>(tokens_, 1));
  }

  struct Memory {
    int32_t* rows;
    float *hidden, *logits, *dhidden;
    uint16_t *hidden16, *logits16, *head;
    Memory(Carver& carver, const CrossEntropyKernel& k) {
      const int64_t chunk = k.chunk();
      rows = carver.take<int32_t>(k.tokens_);
      hidden = carver.take<float>(chunk * k.width_);
      logits = carver.take<float>(chunk * k.vocabulary_);
      dhidden = carver.take<float>(k.gradient_ ? chunk * k.width_ : 0);
      hidden16 = carver.take<uint16_t>(k.bf16_ ? chunk * k.width_ : 0);
      logits16 = carver.take<uint16_t>(k.bf16_ && k.gradient_ ? chunk * k.vocabulary_ : 0);
      head = carver.take<uint16_t>(k.bf16_ ? k.vocabulary_ * k.width_ : 0);
    }
  };

  float* dhidden(const KernelCall& call) const { return call.results[loss_ ? 1 : 0].as<float>(); }
  float* dhead(const KernelCall& call) const { return call.results[loss_ ? 2 : 1].as<float>(); }
  DType operand_type() const { return bf16_ ? DType::kBF16 : DType::kF32; }

  GemmArgs logits_product(const void* hidden, const void* head, float* logits, int64_t rows) const {
    GemmArgs g;
    g.m = rows, g.n = vocabulary_, g.k = width_;
    g.a = hidden, g.lda = width_, g.b = head, g.ldb = width_, g.b_transposed = true;
    g.a_dtype = g.b_dtype = operand_type();
    g.c = logits, g.ldc = vocabulary_;
    return g;
  }
  GemmArgs dhidden_product(const void* dlogits, const void* head, float* out, int64_t rows) const {
    GemmArgs g;
    g.m = rows, g.n = width_, g.k = vocabulary_;
    g.a = dlogits, g.lda = vocabulary_, g.b = head, g.ldb = width_;
    g.a_dtype = g.b_dtype = operand_type();
    g.c = out, g.ldc = width_;
    return g;
  }
  GemmArgs dhead_product(const void* dlogits, const void* hidden, float* out, int64_t rows, bool add) const {
    GemmArgs g;
    g.m = vocabulary_, g.n = width_, g.k = rows;
    g.a = dlogits, g.lda = vocabulary_, g.a_transposed = true, g.b = hidden, g.ldb = width_;
    g.a_dtype = g.b_dtype = operand_type();
    g.c = out, g.ldc = width_, g.accumulate = add;
    return g;
  }

  size_t gemm_bytes(int threads) const {
    const int64_t rows = chunk();
    size_t bytes = gemm_workspace_bytes(logits_product(nullptr, nullptr, nullptr, rows), threads);
    if (gradient_) {
      bytes =
          std::max(bytes, gemm_workspace_bytes(dhidden_product(nullptr, nullptr, nullptr, rows), threads));
      for (const bool add : {false, true})
        bytes = std::max(bytes,
                         gemm_workspace_bytes(dhead_product(nullptr, nullptr, nullptr, rows, add), threads));
    }
    return bytes;
  }

  // `rows` rows of the embedding's width to bf16.
  void round(const KernelCall& call, const float* from, uint16_t* to, int64_t rows) const {
    for_pieces(call.team, rows * width_, 65536,
               [&](int64_t at, int64_t count) { kernels().convert->f32_to_bf16(from + at, to + at, count); });
  }

  void run_chunk(const KernelCall& call, const Memory& memory, std::span<std::byte> scratch, int64_t first,
                 int64_t rows) const {
    const int32_t* tokens = memory.rows + first;
    const auto* hidden = call.operands[0].as<const float>();
    const auto row_bytes = static_cast<size_t>(width_) * sizeof(float);
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(memory.hidden + i * width_, hidden + tokens[i] * width_, row_bytes);
    if (bf16_) round(call, memory.hidden, memory.hidden16, rows);
    const void* left = bf16_ ? static_cast<const void*>(memory.hidden16) : memory.hidden;
    const void* head = bf16_ ? static_cast<const void*>(memory.head) : call.operands[1].data;
    gemm(logits_product(left, head, memory.logits, rows), scratch, call.team);
    finish_rows(call, memory, tokens, rows);
    if (!gradient_) return;
    const void* dlogits = bf16_ ? static_cast<const void*>(memory.logits16) : memory.logits;
    gemm(dhidden_product(dlogits, head, memory.dhidden, rows), scratch, call.team);
    gemm(dhead_product(dlogits, left, dhead(call), rows, first > 0), scratch, call.team);
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(dhidden(call) + tokens[i] * width_, memory.dhidden + i * width_, row_bytes);
  }

  // Loss and dlogits of the chunk's rows.
  void finish_rows(const KernelCall& call, const Memory& memory, const int32_t* tokens, int64_t rows) const {
    const auto* labels = call.operands[2].as<const int32_t>();
    call.team.parallel_for(rows, [&](int64_t i, int) {
      const int64_t token = tokens[i];
      float* logits = memory.logits + i * vocabulary_;
      float loss = 0;
      if (gradient_) {
        const float weight = call.operands[3].as<const float>()[token];
        loss = kernels().softmax->loss_grad(logits, vocabulary_, labels[token], weight);
        if (bf16_) kernels().convert->f32_to_bf16(logits, memory.logits16 + i * vocabulary_, vocabulary_);
      } else {
        loss = kernels().softmax->loss(logits, vocabulary_, labels[token]);
      }
      if (loss_) call.results[0].as<float>()[token] = loss;
    });
  }

  int64_t tokens_, width_, vocabulary_;
  bool loss_, gradient_, bf16_;
};

}  // namespace

std::unique_ptr<Kernel> make_linear_cross_entropy(const Node& node) {
  if (!all_f32(node)) return nullptr;
  return std::make_unique<CrossEntropyKernel>(node, true, false);
}

std::unique_ptr<Kernel> make_linear_cross_entropy_grad(const Node& node) {
  if (!all_f32(node)) return nullptr;
  return std::make_unique<CrossEntropyKernel>(node, false, true);
}

std::unique_ptr<Kernel> make_linear_cross_entropy_both(const Node& node) {
  if (!all_f32(node)) return nullptr;
  return std::make_unique<CrossEntropyKernel>(node, true, true);
}

}  // namespace vertebra::cpu
