// The list of all ops and the look-up by name.
#include "ops/registry.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "base/error.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

constexpr auto kOps = std::to_array<const OpDef*>({
#define VERTEBRA_OP(name) &name##_op,
#include "ops/op_list.def"
#undef VERTEBRA_OP
});

// Levenshtein distance.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row.back();
}

}  // namespace

std::span<const OpDef* const> all_ops() { return kOps; }

const OpDef& find_op(std::string_view name) {
  for (const OpDef* op : kOps) {
    if (op->name == name) return *op;
  }
  constexpr size_t kLongest = 64;  // a longer name is no misspelling, and the distance is quadratic
  const std::string_view shown = name.substr(0, kLongest);
  const OpDef* nearest = kOps[0];
  for (const OpDef* op : kOps) {
    if (edit_distance(shown, op->name) < edit_distance(shown, nearest->name)) nearest = op;
  }
  fail(Code::kNotFound, "there is no op '{}'; the nearest known one is '{}'", shown, nearest->name);
}

}  // namespace vertebra
