// One table, sorted by kind and code point; see unicode_reference.h.
#include "text/unicode_reference.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace vertebra {
namespace {

struct ReferenceRange {
  char32_t first, last;
  ReferenceKind kind;
};

using enum ReferenceKind;
constexpr ReferenceRange kRanges[] = {
#include "text/unicode_reference.inc"
};

}  // namespace

bool reference_has(char32_t c, ReferenceKind kind) {
  const auto* const next = std::upper_bound(std::begin(kRanges), std::end(kRanges), std::pair(kind, c),
                                            [](const auto& wanted, const ReferenceRange& range) {
                                              return wanted < std::pair(range.kind, range.first);
                                            });
  if (next == std::begin(kRanges)) return false;
  const ReferenceRange& range = *(next - 1);
  return range.kind == kind && c <= range.last;
}

}  // namespace vertebra
