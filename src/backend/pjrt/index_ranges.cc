#include "backend/pjrt/index_ranges.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace vertebra::pjrt {
namespace {

using Ranges = std::map<std::string, IndexRange>;

// Arithmetic wraps around: what leaves 32 bits may be anything.
IndexRange checked(int64_t low, int64_t high) {
  return low < INT32_MIN || high > INT32_MAX ? IndexRange{} : IndexRange{low, high};
}

IndexRange hull(const IndexRange& a, const IndexRange& b) {
  return {std::min(a.low, b.low), std::max(a.high, b.high)};
}

int hex_digit(char c) { return c <= '9' ? c - '0' : c - 'A' + 10; }

// Of "dense<5> : ..." and of bulk i32 data, "dense<\"0x01000000...\"> : ..."; nothing for other types.
std::optional<IndexRange> constant_range(const ParsedOperation& op) {
  const std::string* text = op.attribute("value");
  if (text == nullptr || !text->starts_with("dense<") || op.result_types.size() != 1) return std::nullopt;
  const std::string_view data = std::string_view(*text).substr(6);
  int64_t value = 0;
  if (const auto [end, error] = std::from_chars(data.data(), data.data() + data.size(), value);
      error == std::errc() && end != data.data() + data.size() && *end == '>')
    return IndexRange{value, value};
  if (!data.starts_with("\"0x") || op.result_types[0].element != "i32") return std::nullopt;
  IndexRange out = {INT32_MAX, INT32_MIN};
  for (size_t at = 3; at + 8 <= data.size() && data[at] != '"'; at += 8) {
    uint32_t bits = 0;
    for (size_t byte = 0; byte < 4; ++byte) {
      const char* digits = data.data() + at + 2 * byte;
      bits |= static_cast<uint32_t>(hex_digit(digits[0]) * 16 + hex_digit(digits[1])) << (8 * byte);
    }
    const auto each = static_cast<int32_t>(bits);
    out = hull(out, {each, each});
  }
  return out.low <= out.high ? std::optional(out) : std::nullopt;
}

std::optional<IndexRange> iota_range(const ParsedOperation& op) {
  const std::string* axis = op.attribute("iota_dimension");
  if (axis == nullptr || op.result_types.size() != 1) return std::nullopt;
  const auto at = static_cast<size_t>(std::atoll(axis->c_str()));
  const auto& sizes = op.result_types[0].sizes;
  if (at >= sizes.size() || sizes[at] < 1) return std::nullopt;
  return IndexRange{0, sizes[at] - 1};
}

class Finder {
 public:
  Ranges run(const ParsedRegion& function) {
    visit(function);
    return std::move(ranges_);
  }

 private:
  // Names are unique in a function, those of its regions included.
  void visit(const ParsedRegion& region) {
    for (const ParsedOperation& op : region.operations) {
      for (const ParsedRegion& inner : op.regions) visit(inner);
      if (op.results.size() != 1) continue;
      if (const std::optional<IndexRange> found = range_of(op)) ranges_[op.results[0]] = *found;
    }
  }

  IndexRange operand(const ParsedOperation& op, size_t i) const {
    const auto it = i < op.operands.size() ? ranges_.find(op.operands[i]) : ranges_.end();
    return it == ranges_.end() ? IndexRange{} : it->second;
  }

  std::optional<IndexRange> range_of(const ParsedOperation& op) const {
    const std::string_view name = op.name;
    const IndexRange a = operand(op, 0), b = operand(op, 1), c = operand(op, 2);
    if (name == "stablehlo.constant") return constant_range(op);
    if (name == "stablehlo.iota") return iota_range(op);
    if (name == "stablehlo.clamp")
      return IndexRange{std::min(std::max(a.low, b.low), c.low), std::min(std::max(a.high, b.high), c.high)};
    if (name == "stablehlo.minimum") return IndexRange{std::min(a.low, b.low), std::min(a.high, b.high)};
    if (name == "stablehlo.maximum") return IndexRange{std::max(a.low, b.low), std::max(a.high, b.high)};
    if (name == "stablehlo.add") return checked(a.low + b.low, a.high + b.high);
    if (name == "stablehlo.subtract") return checked(a.low - b.high, a.high - b.low);
    if (name == "stablehlo.select") return hull(b, c);
    if (name == "stablehlo.pad") return hull(a, b);
    for (const char* same :
         {"broadcast_in_dim", "reshape", "slice", "transpose", "gather", "dynamic_slice"}) {
      if (name.substr(std::min(name.size(), size_t{10})) == same) return a;
    }
    if (name != "stablehlo.concatenate") return std::nullopt;
    IndexRange all = a;
    for (size_t i = 1; i < op.operands.size(); ++i) all = hull(all, operand(op, i));
    return all;
  }

  Ranges ranges_;
};

}  // namespace

std::map<std::string, IndexRange> find_index_ranges(const ParsedRegion& function) {
  return Finder().run(function);
}

}  // namespace vertebra::pjrt
