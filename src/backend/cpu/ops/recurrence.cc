// The kernels of `short_convolution` and `gated_delta_rule`: ragged rows of many requests, each request's
// rows in order from its state. A row's bits depend on its request alone, however its rows are cut into
// steps.
#include "backend/cpu/kernels/recurrence.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "backend/cpu/kernel.h"
#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/ops/strided_copy.h"
#include "backend/cpu/ops/workspace.h"
#include "base/error.h"
#include "graph/op.h"

namespace vertebra::cpu {
namespace {

// Rows first .. first + length - 1 of the step, all of one request.
struct Run {
  int32_t request, first, length;
};

// Lists the runs. Every request must have its state, and one run: two would each continue the state before
// the step.
int64_t list_runs(std::string_view op, const int32_t* request, int64_t rows, int64_t requests, uint8_t* seen,
                  Run* runs) {
  std::memset(seen, 0, static_cast<size_t>(requests));
  int64_t count = 0;
  for (int64_t n = 0; n < rows;) {
    int64_t end = n + 1;
    while (end < rows && request[end] == request[n]) ++end;
    if (const int32_t r = request[n]; r >= 0) {
      require(r < requests, "{}: row {} belongs to request {}, there are {} states", op, n, r, requests);
      require(seen[r] == 0, "{}: the rows of request {} are not contiguous", op, r);
      seen[r] = 1;
      runs[count++] = {r, static_cast<int32_t>(n), static_cast<int32_t>(end - n)};
    }
    n = end;
  }
  return count;
}

// What both kernels do around their arithmetic.
class RecurrenceKernel : public Kernel {
 public:
  // The state's operand; request and positions follow it.
  RecurrenceKernel(const Node& node, size_t state)
      : op_(node.op->name),
        state_(state),
        most_rows_(node.operands[0].shape()[0]),
        requests_(node.operands[state].shape()[0]) {}

  size_t workspace_bytes(int threads) const override {
    Carver carver(nullptr);
    take(carver, threads);
    return carver.used();
  }
  bool can_share(int operand, int result) const override {
    return operand == static_cast<int>(state_) && result == 1;
  }

  void run(const KernelCall& call) const override {
    Carver carver(call.workspace);
    const auto [seen, runs, scratch] = take(carver, call.team.size());
    const TensorRef &state = call.operands[state_], &out = call.results[1];
    if (out.data != state.data) std::memcpy(out.data, state.data, state.type.size_bytes());
    const auto* request = call.operands[state_ + 1].as<const int32_t>();
    const int64_t rows = call.operands[0].type.shape[0];
    const int64_t width = rows == 0 ? 0 : call.results[0].type.shape.elements() / rows;
    for (int64_t n = 0; n < rows; ++n) {
      if (request[n] < 0)
        std::memset(call.results[0].as<float>() + n * width, 0, static_cast<size_t>(width) * sizeof(float));
    }
    const int64_t count = list_runs(op_, request, rows, requests_, seen, runs);
    const int64_t parts = parts_of_run();
    float* const memory = scratch;
    call.team.parallel_for(count * parts, [&](int64_t index, int worker) {
      run_part(call, runs[index / parts], index % parts, memory + worker * scratch_floats());
    });
  }

 protected:
  virtual int64_t parts_of_run() const = 0;
  virtual int64_t scratch_floats() const = 0;  // of a worker
  virtual void run_part(const KernelCall& call, const Run& run, int64_t part, float* scratch) const = 0;
  const int32_t* positions(const KernelCall& call) const {
    return call.operands[state_ + 2].as<const int32_t>();
  }

 private:
  struct Pieces {
    uint8_t* seen;
    Run* runs;
    float* scratch;
  };
  Pieces take(Carver& carver, int threads) const {
    Pieces out{};
    out.seen = carver.take<uint8_t>(requests_);
    out.runs = carver.take<Run>(most_rows_);
    out.scratch = carver.take<float>(threads * scratch_floats());
    return out;
  }

  std::string_view op_;
  size_t state_;
  int64_t most_rows_, requests_;
};

// Operands x, weight, state, request, positions. A part is a range of channels.
class ShortConvolution final : public RecurrenceKernel {
 public:
  explicit ShortConvolution(const Node& node)
      : RecurrenceKernel(node, 2),
        channels_(node.operands[1].shape()[0]),
        width_(node.operands[1].shape()[1]) {}

 protected:
  static constexpr int64_t kPart = 512;
  int64_t parts_of_run() const override { return (channels_ + kPart - 1) / kPart; }
  int64_t scratch_floats() const override { return 0; }

  void run_part(const KernelCall& call, const Run& run, int64_t part, float*) const override {
    const int64_t C = channels_, W = width_, from = part * kPart, size = std::min(C - from, kPart);
    const auto* x = call.operands[0].as<const float>() + run.first * C + from;
    const auto* weight = call.operands[1].as<const float>() + from * W;
    float* state = call.results[1].as<float>() + run.request * (W - 1) * C + from;
    const int32_t* at = positions(call) + run.first;
    // The input `back` rows before row i, or null before the request's (or document's) start.
    const auto input = [&](int64_t i, int64_t back) -> const float* {
      if (at[i] < back) return nullptr;
      return back <= i ? x + (i - back) * C : state + (W - 1 + i - back) * C;
    };
    for (int64_t i = 0; i < run.length; ++i) {
      float* out = call.results[0].as<float>() + (run.first + i) * C + from;
      std::memset(out, 0, static_cast<size_t>(size) * sizeof(float));
      for (int64_t back = W - 1; back >= 0; --back) {
        if (const float* row = input(i, back); row != nullptr)
          kernels().recurrence->add_weighted(weight + W - 1 - back, W, row, size, out);
      }
    }
    // In ascending order each place takes from a later one.
    for (int64_t s = 0; s < W - 1; ++s) {
      const float* row = input(run.length - 1, W - 2 - s);
      if (row == nullptr) {
        std::memset(state + s * C, 0, static_cast<size_t>(size) * sizeof(float));
      } else if (row != state + s * C) {
        std::memcpy(state + s * C, row, static_cast<size_t>(size) * sizeof(float));
      }
    }
  }

 private:
  int64_t channels_, width_;
};

// Operands q, k, v, decay, beta, state, request, positions. A part is a head.
class GatedDeltaRule final : public RecurrenceKernel {
 public:
  explicit GatedDeltaRule(const Node& node)
      : RecurrenceKernel(node, 5),
        heads_(node.operands[0].shape()[1]),
        keys_(node.operands[0].shape()[2]),
        values_(node.operands[2].shape()[2]) {}

 protected:
  int64_t parts_of_run() const override { return heads_; }
  int64_t scratch_floats() const override { return (values_ + 15) / 16 * 16; }

  void run_part(const KernelCall& call, const Run& run, int64_t head, float* scratch) const override {
    const int64_t H = heads_, D = keys_, M = values_;
    float* state = call.results[1].as<float>() + (run.request * H + head) * D * M;
    const int32_t* at = positions(call);
    for (int64_t n = run.first; n < run.first + run.length; ++n) {
      if (at[n] == 0) std::memset(state, 0, static_cast<size_t>(D * M) * sizeof(float));
      const int64_t row = n * H + head;
      kernels().recurrence->delta_step(
          state, call.operands[0].as<const float>() + row * D, call.operands[1].as<const float>() + row * D,
          call.operands[2].as<const float>() + row * M, std::exp(call.operands[3].as<const float>()[row]),
          call.operands[4].as<const float>()[row], D, M, call.results[0].as<float>() + row * M, scratch);
    }
  }

 private:
  int64_t heads_, keys_, values_;
};

bool all_f32(const Node& node, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (node.operands[i].dtype() != DType::kF32) return false;
  }
  return true;
}

}  // namespace

std::unique_ptr<Kernel> make_short_convolution(const Node& node) {
  if (!all_f32(node, 3)) return nullptr;
  return std::make_unique<ShortConvolution>(node);
}

std::unique_ptr<Kernel> make_gated_delta_rule(const Node& node) {
  if (!all_f32(node, 6)) return nullptr;
  return std::make_unique<GatedDeltaRule>(node);
}

}  // namespace vertebra::cpu
