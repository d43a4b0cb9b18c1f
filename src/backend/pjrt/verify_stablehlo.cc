#include "backend/pjrt/verify_stablehlo.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "backend/pjrt/chip_rules.h"
#include "backend/pjrt/sharding_text.h"
#include "backend/pjrt/stablehlo_rules.h"
#include "backend/pjrt/verify_sharding.h"
#include "base/error.h"

namespace vertebra::pjrt {
namespace {

template <class... Args>
void check(bool condition, const ParsedOperation& op, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    fail(Code::kInternal, "StableHLO text, line {}: {}: {}", op.line, op.name,
         fmt::format(format, std::forward<Args>(args)...));
}

bool is_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

// The text between "dense<" and ">": nothing, one element, or the bytes of all in hexadecimal.
bool is_data(std::string_view data, const ParsedType& type) {
  const size_t bytes = element_bytes(type.element);
  const bool is_float = type.element.find('f') != std::string::npos;
  const auto hex = [](std::string_view digits) {
    return digits.starts_with("0x") &&
           digits.find_first_not_of("0123456789ABCDEF", 2) == std::string_view::npos;
  };
  if (type.elements() == 0) return data.empty();
  if (bytes == 0) return false;  // no constants of this type are written
  if (data.starts_with("\"") && data.ends_with("\"") && data.size() > 2) {
    const std::string_view inside = data.substr(1, data.size() - 2);
    return hex(inside) && inside.size() == 2 + 2 * bytes * static_cast<size_t>(type.elements());
  }
  if (type.element == "i1") return data == "true" || data == "false";
  return is_float ? hex(data) && data.size() == 2 + 2 * bytes : is_number(data);
}

bool has_form(const std::string& text, AttributeForm form, const ParsedOperation& op) {
  std::vector<int64_t> list;
  switch (form) {
    case AttributeForm::kInteger:
      return text.ends_with(" : i64") && is_number(std::string_view(text).substr(0, text.size() - 6));
    case AttributeForm::kList:
      return text.starts_with("array<i64") && parse_list(text, list);
    case AttributeForm::kElements: {
      if (op.result_types.size() != 1) return false;
      const ParsedType& type = op.result_types[0];
      std::string tail = "> : tensor<";
      for (const int64_t size : type.sizes) tail += std::to_string(size) + "x";
      tail += type.element + ">";
      if (!text.starts_with("dense<") || !text.ends_with(tail)) return false;
      return is_data(std::string_view(text).substr(6, text.size() - 6 - tail.size()), type);
    }
    case AttributeForm::kDirection: {
      static constexpr std::string_view kDirections[] = {"EQ", "NE", "LT", "LE", "GT", "GE"};
      return std::any_of(std::begin(kDirections), std::end(kDirections), [&](std::string_view each) {
        return text == fmt::format("#stablehlo<comparison_direction {}>", each);
      });
    }
    case AttributeForm::kPrecision:
      return text == "[#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]";
    case AttributeForm::kStruct:
      return text.starts_with("#stablehlo.");
    case AttributeForm::kSharding:  // the verifier knows the mesh
      return text.starts_with("#sdy.sharding<");
    case AttributeForm::kTarget:
      return text == "\"Sharding\"";
  }
  return false;
}

class Verifier {
 public:
  Verifier(const Vendor& vendor, const Mesh& mesh) : vendor_(vendor), mesh_(mesh) {}

  void module(const ParsedOperation& op) {
    const bool declares = mesh_.devices() > 1 && vendor_.partitioner == Partitioner::kShardy;
    check(op.name == "builtin.module" && op.regions.size() == 1 &&
              op.regions[0].operations.size() == (declares ? 2 : 1),
          op, "a module of one function{} is wanted", declares ? " and a mesh" : "");
    if (declares) {
      const std::string wrong = wrong_mesh(op.regions[0].operations[0], mesh_);
      check(wrong.empty(), op, "{}", wrong);
    }
    const ParsedOperation& function = op.regions[0].operations.back();
    check(function.name == "func.func" && function.regions.size() == 1, function, "a function is wanted");
    const std::string* name = function.attribute("sym_name");
    check(name != nullptr && *name == "\"main\"", function, "the function must be called main");
    check(function.attribute("function_type") != nullptr, function, "the function has no type");
    const ParsedRegion& body = function.regions[0];
    arguments(function, body);
    block(function, body, "func.return");
    signature(function, body);
  }

 private:
  void define(const ParsedOperation& op, const std::string& name, const ParsedType& type) {
    check(values_.emplace(name, type).second, op, "the name %{} is defined twice", name);
    order_.push_back(name);
  }

  // Names of a region are gone after it, but may not hide outer ones.
  void block(const ParsedOperation& parent, const ParsedRegion& region, std::string_view terminator) {
    const size_t outside = order_.size();
    for (const auto& [name, type] : region.arguments) define(parent, name, type);
    for (size_t i = 0; i < region.operations.size(); ++i) {
      const ParsedOperation& op = region.operations[i];
      operands(op);
      if (i + 1 == region.operations.size()) {
        check(op.name == terminator && op.results.empty(), op, "the region must end in {}", terminator);
      } else {
        operation(op);
      }
    }
    check(!region.operations.empty(), parent, "the region is empty");
    for (; order_.size() > outside; order_.pop_back()) values_.erase(order_.back());
  }

  void operands(const ParsedOperation& op) const {
    check(op.operands.size() == op.operand_types.size(), op, "{} operands with {} types", op.operands.size(),
          op.operand_types.size());
    for (size_t i = 0; i < op.operands.size(); ++i) {
      const auto it = values_.find(op.operands[i]);
      check(it != values_.end(), op, "%{} is not defined before its use", op.operands[i]);
      check(it->second == op.operand_types[i], op, "%{} is used as {}, but defined as {}", op.operands[i],
            op.operand_types[i].to_string(), it->second.to_string());
    }
  }

  void operation(const ParsedOperation& op) {
    const OperationRule* rule = find_rule(op.name);
    check(rule != nullptr, op, "the operation is unknown");
    check(
        rule->operands < 0 ? !op.operands.empty() : op.operands.size() == static_cast<size_t>(rule->operands),
        op, "{} operands given, {} are wanted", op.operands.size(), rule->operands);
    const size_t results = rule->results < 0 ? op.operands.size() : static_cast<size_t>(rule->results);
    check(op.results.size() == results && op.result_types.size() == results, op, "{} results are wanted",
          results);
    check(op.regions.size() == static_cast<size_t>(rule->regions), op, "{} regions given, {} are wanted",
          op.regions.size(), rule->regions);
    for (const auto& [name, value] : op.attributes) {
      check(std::any_of(rule->attributes.begin(), rule->attributes.end(),
                        [&](const AttributeRule& each) { return each.name == name; }),
            op, "the attribute '{}' is unknown", name);
    }
    for (const AttributeRule& each : rule->attributes) {
      const std::string* value = op.attribute(each.name);
      check(value != nullptr, op, "the attribute '{}' is missing", each.name);
      check(has_form(*value, each.form, op), op, "the attribute '{}' is malformed: {}", each.name,
            std::string_view(*value).substr(0, 80));
    }
    constraint(op);
    for (const ParsedRegion& region : op.regions) block(op, region, "stablehlo.return");
    const std::string wrong = rule->types(op);
    check(wrong.empty(), op, "{}", wrong);
    for (size_t i = 0; i < results; ++i) define(op, op.results[i], op.result_types[i]);
  }

  // A value pinned on the mesh, in the words of the vendor's partitioner; no other operation has attributes
  // beside it.
  void constraint(const ParsedOperation& op) const {
    const bool shardy = op.name == "sdy.sharding_constraint", gspmd = op.name == "stablehlo.custom_call";
    check(op.further.size() == (gspmd ? 1u : 0u), op, "{} further attributes given", op.further.size());
    if (!shardy && !gspmd) return;
    check(mesh_.devices() > 1 && shardy == (vendor_.partitioner == Partitioner::kShardy), op,
          "the operation is for another partitioner, or for a mesh of several devices");
    check(shardy || op.further[0].first == sharding_name(vendor_.partitioner), op,
          "the attribute '{}' is unknown", shardy ? "" : op.further[0].first);
    const std::string& text = shardy ? *op.attribute("sharding") : op.further[0].second;
    const std::string wrong = wrong_sharding(text, vendor_.partitioner, mesh_, op.result_types[0]);
    check(wrong.empty(), op, "the sharding is {}: {}", text, wrong);
  }

  using Dictionary = std::vector<std::pair<std::string, std::string>>;

  std::vector<Dictionary> dictionaries(const ParsedOperation& function, std::string_view attribute,
                                       size_t values) const {
    const std::string* text = function.attribute(attribute);
    std::vector<Dictionary> out;
    check(text != nullptr && parse_dictionaries(*text, out), function, "{} are missing or malformed",
          attribute);
    check(out.size() == values, function, "{} dictionaries in {} for {} values", out.size(), attribute,
          values);
    return out;
  }

  // One dictionary per argument: its sharding on a mesh, and a donation to an output.
  void arguments(const ParsedOperation& function, const ParsedRegion& body) const {
    const ParsedOperation& last = body.operations.empty() ? function : body.operations.back();
    std::vector<bool> taken(last.operands.size(), false);
    const auto entries = dictionaries(function, "arg_attrs", body.arguments.size());
    for (size_t i = 0; i < entries.size(); ++i) {
      const ParsedType& type = body.arguments[i].second;
      for (const auto& [name, value] : entries[i]) {
        if (name != "tf.aliasing_output") continue;
        constexpr std::string_view kAfter = " : i32";
        check(value.ends_with(kAfter) && is_number(value.substr(0, value.size() - kAfter.size())), function,
              "tf.aliasing_output is no number");
        const auto output = static_cast<size_t>(std::stoll(value));
        check(output < taken.size() && !taken[output], function, "output {} takes over a second argument",
              output);
        taken[output] = true;
        check(type == last.operand_types[output], function,
              "argument {} is donated to an output of another type", i);
      }
      placed(function, entries[i], type, fmt::format("argument {}", i), "tf.aliasing_output");
    }
    if (mesh_.devices() == 1) return;
    const auto results = dictionaries(function, "res_attrs", last.operands.size());
    for (size_t i = 0; i < results.size(); ++i)
      placed(function, results[i], last.operand_types[i], fmt::format("result {}", i), "");
  }

  // On a mesh every value of the signature has one sharding; nothing else is in its dictionary but what is
  // also known.
  void placed(const ParsedOperation& function, const Dictionary& entries, const ParsedType& type,
              const std::string& what, std::string_view also_known) const {
    const bool several = mesh_.devices() > 1;
    const std::string_view wanted = sharding_name(vendor_.partitioner);
    size_t found = 0;
    for (const auto& [name, value] : entries) {
      if (name == also_known) continue;
      check(several && name == wanted, function, "the attribute '{}' of {} is unknown", name, what);
      const std::string wrong = wrong_sharding(value, vendor_.partitioner, mesh_, type);
      check(wrong.empty(), function, "the sharding of {} is {}: {}", what, value, wrong);
      ++found;
    }
    check(found == (several ? 1u : 0u), function, "{} has {} shardings", what, found);
  }

  static std::string spelled(const std::vector<ParsedType>& types) {
    std::string out;
    for (const ParsedType& type : types)
      out += (out.empty() ? "tensor<" : ", tensor<") + type.to_string() + ">";
    return out;
  }

  static void signature(const ParsedOperation& function, const ParsedRegion& body) {
    std::vector<ParsedType> types;
    for (const auto& [name, type] : body.arguments) types.push_back(type);
    const std::string wanted =
        fmt::format("({}) -> ({})", spelled(types), spelled(body.operations.back().operand_types));
    check(*function.attribute("function_type") == wanted, function, "function_type does not fit the body");
  }

  const Vendor& vendor_;
  const Mesh& mesh_;
  std::map<std::string, ParsedType> values_;  // in scope
  std::vector<std::string> order_;            // their names, as defined
};

}  // namespace

void verify_stablehlo(std::string_view module, const Vendor& vendor, const Mesh& mesh) {
  const ParsedOperation parsed = parse_stablehlo(module);
  if (const std::vector<RuleBreach> found = find_breaches(parsed, vendor.rules); !found.empty()) {
    const RuleBreach& first = found.front();
    fail(Code::kUnimplemented,
         "the chips of '{}' do not take {} (line {} of the StableHLO text): {}; instead: {}{}", vendor.name,
         first.operation, first.line, first.rule, first.remedy,
         found.size() == 1 ? "" : fmt::format(" (and {} more lines)", found.size() - 1));
  }
  Verifier(vendor, mesh).module(parsed);
}

}  // namespace vertebra::pjrt
