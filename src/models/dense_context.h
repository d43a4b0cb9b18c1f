// Whole sequences at once, without a cache: attention and states as training, evaluation and tests see them.
// Owns no parameters: who derives from it says where they are.
#pragma once

#include <string_view>

#include "models/model.h"
#include "ops/ops.h"

namespace vertebra {

class DenseContext : public ModelContext {
 public:
  // segments and positions i32 [B, T]: the document of each token of a row (< 0: none), and its place in it,
  // which begins at 0 or, where the row begins inside a document, above.
  DenseContext(Graph& graph, DType compute, Value segments, Value positions)
      : ModelContext(graph, compute), segments_(segments), positions_(positions) {}

  Value attend(int, Value q, Value k, Value v, const AttendOptions& options) override {
    const auto rows = [&](Value x) {
      return reshape(x, {segments_.shape()[0], segments_.shape()[1], x.shape()[1], x.shape()[2]});
    };
    return reshape(attention(rows(q), rows(k), rows(v), segments_,
                             {.scale = options.scale, .window = options.window, .sinks = options.sinks}),
                   q.shape());
  }

  // Every row of the batch is a request that starts from nothing; documents follow each other in it.
  LayerState state(int, std::string_view, const Shape& shape) override {
    const int64_t B = segments_.shape()[0];
    const Shape flat{segments_.shape().elements()};
    Shape all = {B};
    for (const Dim& dim : shape.dims()) all.push_back(dim);
    const Value row = iota(graph(), segments_.shape(), 0);
    const Value none = full(graph(), segments_.shape(), -1, DType::kI32);
    const Value zero = full(graph(), segments_.shape(), 0, DType::kI32);
    const Value request = select(compare(segments_, zero, Comparison::kGreaterEqual), row, none);
    return {full(graph(), all, 0), reshape(request, flat), reshape(positions_, flat)};
  }
  void keep_state(int, std::string_view, Value) override {}

  int64_t longest_sequence() const override { return segments_.shape()[1]; }

 private:
  Value segments_, positions_;
};

}  // namespace vertebra
