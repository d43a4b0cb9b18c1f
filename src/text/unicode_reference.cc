// A sorted table per gap; see unicode_reference.h.
#include "text/unicode_reference.h"

#include <algorithm>
#include <iterator>

namespace vertebra {
namespace {

struct GapRange {
  char32_t first, last;
  ReferenceGap gap;
};

using enum ReferenceGap;
constexpr GapRange kGaps[] = {
#include "text/unicode_reference.inc"
};

}  // namespace

bool unknown_to_reference(char32_t c, ReferenceGap gap) {
  if (c < 0x500) return false;
  return std::any_of(std::begin(kGaps), std::end(kGaps), [&](const GapRange& range) {
    return range.gap == gap && c >= range.first && c <= range.last;
  });
}

}  // namespace vertebra
