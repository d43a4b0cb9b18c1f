// The logits after every token of a text, from the step that the engine serves with: the same kernels, blocks
// and cache. A few rows at a time, so that a large vocabulary and a long text cost no more memory. Called by
// quality.h.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/buffer_set.h"
#include "models/model.h"

namespace vertebra {

class LogitReader {
 public:
  static constexpr int64_t kRows = 64;  // tokens of a step

  // For sequences of at most `length` tokens. `parameters` and `model` must outlive this.
  LogitReader(Backend& backend, const Model& model, const BufferSet& parameters, int64_t length,
              DType compute);

  // Feeds 1 to kRows tokens that stand at `position` and behind it; position 0 begins a new sequence, else
  // the tokens before must have been fed. Returns [tokens, V], valid until the next call.
  Tensor feed(std::span<const int32_t> tokens, int64_t position);

 private:
  void upload(const char* name, const std::vector<int32_t>& values, Shape shape);

  BufferSet buffers_;
  std::optional<BoundExecutable> executable_;
  int64_t length_;
};

}  // namespace vertebra
