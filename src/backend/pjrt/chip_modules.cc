#include "backend/pjrt/chip_modules.h"

#include "backend/pjrt/bounded_shapes.h"
#include "backend/pjrt/pad_bounded.h"
#include "backend/pjrt/prepare_graph.h"
#include "backend/pjrt/stablehlo.h"

namespace vertebra::pjrt {
namespace {

using Sizes = std::vector<int64_t>;

// Padded sizes of one dimension, the largest first.
Sizes padded_sizes(int64_t bound) {
  Sizes out;
  for (int64_t size = bound; size > 0;) {
    out.push_back(bucket_size(size, bound));
    while (size > 0 && bucket_size(size, bound) == out.back()) --size;
  }
  return out;
}

// The smallest actual size that is padded to this one.
int64_t smallest_within(int64_t padded, int64_t bound) {
  int64_t size = padded;
  while (size > 1 && bucket_size(size - 1, bound) == padded) --size;
  return size;
}

bool occurs(const Sizes& sizes, const std::vector<Symbol>& symbols) {
  return sizes.size() != 2 || smallest_within(sizes[1], symbols[1].bound) <= sizes[0];
}

}  // namespace

std::vector<ChipModule> chip_modules(const Graph& graph, const Vendor& vendor) {
  const Graph prepared = prepare_graph(graph, vendor);
  const std::vector<Symbol> symbols = symbols_of(prepared);
  std::vector<Sizes> all = {{}};
  for (const Symbol& symbol : symbols) {
    std::vector<Sizes> longer;
    for (const Sizes& sizes : all) {
      for (const int64_t size : padded_sizes(symbol.bound)) {
        longer.push_back(sizes);
        longer.back().push_back(size);
      }
    }
    all = std::move(longer);
  }
  std::vector<ChipModule> out;
  for (const Sizes& sizes : all) {
    if (occurs(sizes, symbols))
      out.push_back({sizes, print_stablehlo(pad_bounded(prepared, symbols, sizes), vendor)});
  }
  return out;
}

}  // namespace vertebra::pjrt
