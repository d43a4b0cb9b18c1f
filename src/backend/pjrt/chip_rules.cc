#include "backend/pjrt/chip_rules.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "backend/pjrt/index_ranges.h"

namespace vertebra::pjrt {
namespace {

using Ints = std::vector<int64_t>;

bool listed(std::span<const std::string_view> patterns, std::string_view name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](std::string_view pattern) { return matches(pattern, name); });
}

// The fields of "#stablehlo.gather<...>": a list by its name; empty when it is not there.
Ints field(const ParsedOperation& op, std::string_view attribute, std::string_view type,
           std::string_view name) {
  const std::string* text = op.attribute(attribute);
  std::vector<std::pair<std::string, std::string>> fields;
  Ints out;
  if (text == nullptr || !parse_struct(*text, type, fields)) return out;
  for (const auto& [key, value] : fields) {
    if (key == name && !parse_list(value, out)) out.clear();
  }
  return out;
}

// A loop whose number of rounds the text fixes: it goes on while an argument that begins at a constant and
// grows by a constant is less than a constant.
class FixedLoop {
 public:
  FixedLoop(const ParsedOperation& loop, const std::map<std::string, const ParsedOperation*>& outer)
      : loop_(loop), outer_(outer) {}

  bool is_fixed() const {
    if (loop_.regions.size() != 2) return false;
    const ParsedRegion &condition = loop_.regions[0], &body = loop_.regions[1];
    if (condition.operations.empty() || body.operations.empty()) return false;
    const ParsedOperation* test = definition(condition, condition.operations.back(), 0);
    if (test == nullptr || test->name != "stablehlo.compare" || test->operands.size() != 2) return false;
    const std::string* direction = test->attribute("comparison_direction");
    if (direction == nullptr || !direction->ends_with(" LT>")) return false;
    for (size_t i = 0; i < condition.arguments.size(); ++i) {
      if (condition.arguments[i].first != test->operands[0]) continue;
      return is_constant(condition, test->operands[1]) && i < loop_.operands.size() &&
             is_constant(condition, loop_.operands[i]) && grows(body, i);
    }
    return false;
  }

 private:
  const ParsedOperation* find(const ParsedRegion& region, const std::string& name) const {
    for (const ParsedOperation& op : region.operations) {
      if (std::find(op.results.begin(), op.results.end(), name) != op.results.end()) return &op;
    }
    const auto it = outer_.find(name);
    return it == outer_.end() ? nullptr : it->second;
  }
  const ParsedOperation* definition(const ParsedRegion& region, const ParsedOperation& user, size_t i) const {
    return i < user.operands.size() ? find(region, user.operands[i]) : nullptr;
  }
  bool is_constant(const ParsedRegion& region, const std::string& name) const {
    const ParsedOperation* op = find(region, name);
    return op != nullptr && op->name == "stablehlo.constant";
  }
  bool grows(const ParsedRegion& body, size_t i) const {
    const ParsedOperation* next = definition(body, body.operations.back(), i);
    if (next == nullptr || next->name != "stablehlo.add" || next->operands.size() != 2) return false;
    return i < body.arguments.size() && next->operands[0] == body.arguments[i].first &&
           is_constant(body, next->operands[1]);
  }

  const ParsedOperation& loop_;
  const std::map<std::string, const ParsedOperation*>& outer_;
};

class Checker {
 public:
  explicit Checker(const ChipRules& rules) : rules_(rules) {}

  std::vector<RuleBreach> run(const ParsedOperation& module) {
    block(module);
    return std::move(found_);
  }

 private:
  // Operations of the regions of `parent`, the functions of a module among them.
  void block(const ParsedOperation& parent) {
    for (const ParsedRegion& region : parent.regions) {
      if (parent.name == "func.func") {
        ranges_ = find_index_ranges(region);
        for (const auto& [name, type] : region.arguments) this->type(parent, type);
      }
      for (const ParsedOperation& op : region.operations) {
        for (const std::string& name : op.results) definitions_[name] = &op;
        operation(op);
        block(op);
      }
    }
  }

  template <class... Args>
  void report(const ParsedOperation& op, std::string_view remedy, fmt::format_string<Args...> rule,
              Args&&... args) {
    found_.push_back({op.line, op.name, fmt::format(rule, std::forward<Args>(args)...), std::string(remedy)});
  }

  void type(const ParsedOperation& op, const ParsedType& type) {
    if (!type.is_static()) {
      report(op, "a bound, padding and a mask (pad_bounded)", "the shape {} is dynamic", type.to_string());
    } else if (!rules_.element_types.empty() && !listed(rules_.element_types, type.element)) {
      report(op,
             type.element == "f64"           ? "f32"
             : type.element.ends_with("i64") ? "32-bit integers"
             : type.element.starts_with("c") ? "real and imaginary parts as arrays of their own"
                                             : "a type that is there",
             "the element type {} is not there; there are {}", type.element,
             fmt::join(rules_.element_types, ", "));
    }
  }

  void operation(const ParsedOperation& op) {
    if (const BannedOperation* ban = find_ban(rules_, op.name))
      return report(op, ban->remedy, "the compiler does not take it");
    for (const ParsedType& type : op.result_types) this->type(op, type);
    if (!rules_.pairs_in_reductions && op.name == "stablehlo.reduce" && op.result_types.size() > 1)
      report(op, "one reduction per result (the largest index: maximum, compare, iota, minimum)",
             "a reduction has {} results, one is allowed", op.result_types.size());
    if (!rules_.dynamic_loops && op.name == "stablehlo.while" && !FixedLoop(op, definitions_).is_fixed())
      report(op, "a counter that begins at a constant, grows by a constant and is compared with a constant",
             "the number of rounds of the loop is not fixed");
    if (!rules_.named_random_algorithms && op.name == "stablehlo.rng_bit_generator") {
      const std::string* algorithm = op.attribute("rng_algorithm");
      if (algorithm == nullptr || algorithm->find("DEFAULT") == std::string::npos)
        report(op, "rng_algorithm DEFAULT, or a generator in integer arithmetic",
               "its algorithm is not DEFAULT");
    }
    integers(op);
    custom_call(op);
    if (!rules_.indices_outside) indices(op);
  }

  void integers(const ParsedOperation& op) {
    if (!listed(rules_.float_operations, op.name) || op.operand_types.empty()) return;
    const std::string& element = op.operand_types[0].element;
    if (element.ends_with("i32") || element.ends_with("i64"))
      report(op, "floating-point operands, or 8-bit integers",
             "operands of {} are computed in f32, exact up to 2^24", element);
  }

  void custom_call(const ParsedOperation& op) {
    if (rules_.custom_calls.empty() || op.name != "stablehlo.custom_call") return;
    const std::string* target = op.attribute("call_target_name");
    const std::string_view quoted = target == nullptr ? std::string_view() : *target;
    const std::string_view name = quoted.size() < 2 ? "" : quoted.substr(1, quoted.size() - 2);
    if (!listed(rules_.custom_calls, name))
      report(op, "a target that it knows, or the operations it stands for",
             "the target '{}' is not known to the compiler; it knows {}", name,
             fmt::join(rules_.custom_calls, ", "));
  }

  // Start indices of gather and scatter.
  void indices(const ParsedOperation& op) {
    const bool gathers = op.name == "stablehlo.gather", scatters = op.name == "stablehlo.scatter";
    if ((!gathers && !scatters) || op.operands.size() < 2 || op.operand_types.empty()) return;
    const std::string_view attribute = gathers ? "dimension_numbers" : "scatter_dimension_numbers";
    const std::string_view name = gathers ? "#stablehlo.gather" : "#stablehlo.scatter";
    const Ints axes =
        field(op, attribute, name, gathers ? "start_index_map" : "scatter_dims_to_operand_dims");
    Ints windows;
    if (const std::string* sizes = op.attribute("slice_sizes"); sizes != nullptr) parse_list(*sizes, windows);
    int64_t last = INT32_MAX;
    for (const int64_t axis : axes) {
      const auto at = static_cast<size_t>(axis);
      const auto& sizes = op.operand_types[0].sizes;
      if (at >= sizes.size()) return;
      last = std::min(last, sizes[at] - (gathers && at < windows.size() ? windows[at] : 1));
    }
    const auto it = ranges_.find(op.operands[1]);
    const IndexRange range = it == ranges_.end() ? IndexRange{} : it->second;
    if (range.low < 0 || range.high > last)
      report(op, "clamp the indices before",
             "an index outside of 0 to {} is an error at run time; {} can be {} to {}", last,
             "%" + op.operands[1], range.low, range.high);
  }

  const ChipRules& rules_;
  std::map<std::string, IndexRange> ranges_;
  std::map<std::string, const ParsedOperation*> definitions_;
  std::vector<RuleBreach> found_;
};

}  // namespace

std::vector<RuleBreach> find_breaches(const ParsedOperation& module, const ChipRules& rules) {
  return Checker(rules).run(module);
}

const BannedOperation* find_ban(const ChipRules& rules, std::string_view operation) {
  for (const BannedOperation& each : rules.banned_operations) {
    if (matches(each.name, operation)) return &each;
  }
  return nullptr;
}

}  // namespace vertebra::pjrt
