#include "eval/logit_reader.h"

#include <numeric>

#include "base/error.h"
#include "engine/serving_graph.h"

namespace vertebra {

LogitReader::LogitReader(Backend& backend, const Model& model, const BufferSet& parameters, int64_t length,
                         DType compute)
    : length_(length) {
  ServingShape shape;
  shape.tokens = shape.sampled = kRows;
  shape.requests = 1;
  shape.pages = shape.pages_per_request = (length + shape.page_size - 1) / shape.page_size;
  shape.context_length = length;
  shape.compute = compute;
  shape.mesh = backend.mesh();
  shape.parameter_types = stored_types(model, parameters);
  Graph step = build_serving_step(model, shape);
  const std::vector<int64_t> windows = windows_of(step);
  executable_.emplace(backend, std::move(step), buffers_, &parameters);
  // Pages in a ring: those that a layer with a window still sees are fewer than it has.
  for (const int64_t window : windows) {
    std::vector<int32_t> pages(static_cast<size_t>(shape.pages_per_request));
    for (size_t i = 0; i < pages.size(); ++i)
      pages[i] = static_cast<int32_t>(static_cast<int64_t>(i) % shape.pages_for(window));
    upload(fmt::format("{}{}", serving::kPageTable, window).c_str(), pages, {1, shape.pages_per_request});
  }
}

void LogitReader::upload(const char* name, const std::vector<int32_t>& values, Shape shape) {
  buffers_.at(name).copy_from(Tensor::view({DType::kI32, std::move(shape)}, values.data(), nullptr));
}

Tensor LogitReader::feed(std::span<const int32_t> tokens, int64_t position) {
  const auto n = static_cast<int64_t>(tokens.size());
  VERTEBRA_CHECK(n >= 1 && n <= kRows && position >= 0 && position + n <= length_,
                 "tokens beyond the rows or the length that a LogitReader was made for");
  std::vector<int32_t> positions(tokens.size()), rows(tokens.size());
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(position));
  std::iota(rows.begin(), rows.end(), 0);
  upload(serving::kTokens, {tokens.begin(), tokens.end()}, {n});
  upload(serving::kPositions, positions, {n});
  upload(serving::kRequests, std::vector<int32_t>(tokens.size(), 0), {n});
  upload(serving::kSampledRows, rows, {n});
  executable_->run();
  return buffers_.at(serving::kLogits).to_host();
}

}  // namespace vertebra
