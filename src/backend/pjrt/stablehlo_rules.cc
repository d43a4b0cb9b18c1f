#include "backend/pjrt/stablehlo_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace vertebra::pjrt {
namespace {

using Ints = std::vector<int64_t>;
using Operation = ParsedOperation;

Ints list(const Operation& op, std::string_view name) {
  Ints out;
  parse_list(*op.attribute(name), out);
  return out;
}
int64_t integer(const Operation& op, std::string_view name) { return std::stoll(*op.attribute(name)); }

const ParsedType& in(const Operation& op, size_t i) { return op.operand_types[i]; }
const ParsedType& result(const Operation& op) { return op.result_types[0]; }
int64_t size_at(const ParsedType& type, int64_t axis) { return type.sizes[static_cast<size_t>(axis)]; }
bool has_axis(const ParsedType& type, int64_t axis) {
  return axis >= 0 && axis < static_cast<int64_t>(type.sizes.size());
}
// Axes of the type, each at most once.
bool are_axes(const ParsedType& type, const Ints& axes) {
  return std::all_of(axes.begin(), axes.end(), [&](int64_t axis) { return has_axis(type, axis); }) &&
         std::set<int64_t>(axes.begin(), axes.end()).size() == axes.size();
}

std::string wanted(const ParsedType& type) { return "the result must be " + type.to_string(); }
std::string expect_result(const Operation& op, const ParsedType& type) {
  return result(op) == type ? "" : wanted(type);
}

std::string all_equal(const Operation& op) {
  for (const ParsedType& type : op.operand_types) {
    if (type != result(op)) return "operands and result must have one type";
  }
  return "";
}

std::string any(const Operation&) { return ""; }

std::string compare(const Operation& op) {
  if (in(op, 0) != in(op, 1)) return "the operands must have one type";
  return expect_result(op, {"i1", in(op, 0).sizes});
}

std::string select(const Operation& op) {
  if (in(op, 1) != in(op, 2)) return "the choices must have one type";
  if (in(op, 0) != ParsedType{"i1", in(op, 1).sizes}) return "the condition must be i1 of the choices' shape";
  return expect_result(op, in(op, 1));
}

std::string clamp(const Operation& op) {
  const ParsedType scalar = {in(op, 1).element, {}};
  for (const size_t bound : {size_t{0}, size_t{2}}) {
    if (in(op, bound) != scalar && in(op, bound) != in(op, 1))
      return "a bound must be a scalar of the operand's type";
  }
  return expect_result(op, in(op, 1));
}

std::string convert(const Operation& op) { return expect_result(op, {result(op).element, in(op, 0).sizes}); }

// Of the same width, or of operands whose last dimension is so many of them as make one of the result.
std::string bitcast(const Operation& op) {
  std::vector<int64_t> sizes = in(op, 0).sizes;
  const size_t from = element_bytes(in(op, 0).element), to = element_bytes(result(op).element);
  if (from != to) {
    if (from == 0 || sizes.empty() || static_cast<size_t>(sizes.back()) * from != to)
      return "the last dimension does not make one element of the result";
    sizes.pop_back();
  }
  return expect_result(op, {result(op).element, sizes});
}

std::string iota(const Operation& op) {
  return has_axis(result(op), integer(op, "iota_dimension")) ? ""
                                                             : "iota_dimension is not an axis of the result";
}

std::string reshape(const Operation& op) {
  const bool same = in(op, 0).element == result(op).element && in(op, 0).elements() == result(op).elements();
  return same ? "" : "the result must have the operand's element type and number of elements";
}

std::string transpose(const Operation& op) {
  const Ints order = list(op, "permutation");
  if (order.size() != in(op, 0).sizes.size() || !are_axes(in(op, 0), order)) return "permutation is none";
  ParsedType out = {in(op, 0).element, {}};
  for (const int64_t axis : order) out.sizes.push_back(size_at(in(op, 0), axis));
  return expect_result(op, out);
}

std::string broadcast(const Operation& op) {
  const Ints dims = list(op, "broadcast_dimensions");
  if (dims.size() != in(op, 0).sizes.size() || !are_axes(result(op), dims) ||
      in(op, 0).element != result(op).element)
    return "broadcast_dimensions must name an axis of the result for each of the operand";
  for (size_t i = 0; i < dims.size(); ++i) {
    if (in(op, 0).sizes[i] != 1 && in(op, 0).sizes[i] != size_at(result(op), dims[i]))
      return fmt::format("axis {} does not stretch", i);
  }
  return "";
}

std::string slice(const Operation& op) {
  const Ints starts = list(op, "start_indices"), limits = list(op, "limit_indices"),
             strides = list(op, "strides");
  const size_t rank = in(op, 0).sizes.size();
  if (starts.size() != rank || limits.size() != rank || strides.size() != rank)
    return "one bound per axis is wanted";
  ParsedType out = {in(op, 0).element, {}};
  for (size_t i = 0; i < rank; ++i) {
    if (starts[i] < 0 || starts[i] > limits[i] || limits[i] > in(op, 0).sizes[i] || strides[i] < 1)
      return fmt::format("bounds of axis {} lie outside", i);
    out.sizes.push_back((limits[i] - starts[i] + strides[i] - 1) / strides[i]);
  }
  return expect_result(op, out);
}

std::string concatenate(const Operation& op) {
  const int64_t axis = integer(op, "dimension");
  if (!has_axis(result(op), axis)) return "dimension is not an axis of the result";
  ParsedType out = in(op, 0);
  int64_t total = 0;
  for (const ParsedType& part : op.operand_types) {
    ParsedType same = part;
    if (part.sizes.size() != out.sizes.size()) return "the parts differ in rank";
    total += size_at(part, axis);
    same.sizes[static_cast<size_t>(axis)] = size_at(out, axis);
    if (same != out) return "the parts differ elsewhere";
  }
  out.sizes[static_cast<size_t>(axis)] = total;
  return expect_result(op, out);
}

std::string pad(const Operation& op) {
  const Ints low = list(op, "edge_padding_low"), high = list(op, "edge_padding_high"),
             inside = list(op, "interior_padding");
  ParsedType out = in(op, 0);
  if (low.size() != out.sizes.size() || high.size() != low.size() || inside.size() != low.size())
    return "one padding per axis is wanted";
  if (in(op, 1) != ParsedType{out.element, {}})
    return "the padding value must be a scalar of the operand's type";
  for (size_t i = 0; i < low.size(); ++i) {
    if (inside[i] != 0) return "interior_padding must be 0";
    out.sizes[i] += low[i] + high[i];
  }
  return expect_result(op, out);
}

// The region takes two scalars of the element type and returns one.
bool combines(const Operation& op, const std::string& element) {
  const ParsedType scalar = {element, {}};
  const ParsedRegion& region = op.regions[0];
  if (region.arguments.size() != 2 || region.operations.empty()) return false;
  for (const auto& [name, type] : region.arguments) {
    if (type != scalar) return false;
  }
  const ParsedOperation& last = region.operations.back();
  return last.name == "stablehlo.return" && last.operand_types == std::vector<ParsedType>{scalar};
}

std::string reduce(const Operation& op) {
  const Ints axes = list(op, "dimensions");
  if (!are_axes(in(op, 0), axes)) return "dimensions are not axes of the operand";
  if (in(op, 1) != ParsedType{in(op, 0).element, {}})
    return "the start must be a scalar of the operand's type";
  if (!combines(op, in(op, 0).element)) return "the region must combine two scalars of the operand's type";
  ParsedType out = {in(op, 0).element, {}};
  for (size_t i = 0; i < in(op, 0).sizes.size(); ++i) {
    if (std::find(axes.begin(), axes.end(), static_cast<int64_t>(i)) == axes.end())
      out.sizes.push_back(in(op, 0).sizes[i]);
  }
  return expect_result(op, out);
}

// The fields of a struct attribute, which must be exactly `names`: lists, or one number for index_vector_dim.
bool read_fields(const Operation& op, std::string_view attribute, std::string_view type,
                 std::initializer_list<std::string_view> names, std::vector<Ints>& out) {
  std::vector<std::pair<std::string, std::string>> fields;
  if (!parse_struct(*op.attribute(attribute), type, fields) || fields.size() != names.size()) return false;
  for (const std::string_view name : names) {
    const auto it =
        std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return field.first == name; });
    if (it == fields.end()) return false;
    const std::string text = name == "index_vector_dim" ? "[" + it->second + "]" : it->second;
    if (!parse_list(text, out.emplace_back())) return false;
  }
  return true;
}

std::string dot(const Operation& op) {
  std::vector<Ints> f;
  if (!read_fields(op, "dot_dimension_numbers", "#stablehlo.dot",
                   {"lhs_batching_dimensions", "rhs_batching_dimensions", "lhs_contracting_dimensions",
                    "rhs_contracting_dimensions"},
                   f))
    return "dot_dimension_numbers is malformed";
  if (f[0].size() != f[1].size() || f[2].size() != f[3].size())
    return "the operands name different numbers of axes";
  if (in(op, 0).element != in(op, 1).element) return "the operands must have one element type";
  ParsedType out = {result(op).element, {}};
  for (size_t side = 0; side < 2; ++side) {
    Ints named = f[side];
    named.insert(named.end(), f[2 + side].begin(), f[2 + side].end());
    if (!are_axes(in(op, side), named)) return fmt::format("operand {} lacks an axis that is named", side);
  }
  for (size_t pair = 0; pair < 4; pair += 2) {
    for (size_t i = 0; i < f[pair].size(); ++i) {
      if (size_at(in(op, 0), f[pair][i]) != size_at(in(op, 1), f[pair + 1][i]))
        return "paired axes differ in size";
      if (pair == 0) out.sizes.push_back(size_at(in(op, 0), f[0][i]));
    }
  }
  for (size_t side = 0; side < 2; ++side) {
    for (int64_t axis = 0; axis < static_cast<int64_t>(in(op, side).sizes.size()); ++axis) {
      const auto names = [&](const Ints& axes) {
        return std::find(axes.begin(), axes.end(), axis) != axes.end();
      };
      if (!names(f[side]) && !names(f[2 + side])) out.sizes.push_back(size_at(in(op, side), axis));
    }
  }
  return expect_result(op, out);
}

std::string gather(const Operation& op) {
  std::vector<Ints> f;
  if (!read_fields(op, "dimension_numbers", "#stablehlo.gather",
                   {"offset_dims", "collapsed_slice_dims", "start_index_map", "index_vector_dim"}, f))
    return "dimension_numbers is malformed";
  const Ints sizes = list(op, "slice_sizes");
  const ParsedType &table = in(op, 0), &indices = in(op, 1);
  if (sizes.size() != table.sizes.size() || f[1] != Ints{0} || f[2] != Ints{0} ||
      f[3] != Ints{static_cast<int64_t>(indices.sizes.size())} || indices.element != "i32" || sizes[0] != 1)
    return "only whole rows by i32 index are written";
  ParsedType out = {table.element, indices.sizes};
  for (size_t i = 1; i < sizes.size(); ++i) {
    if (sizes[i] != table.sizes[i]) return "slice_sizes must take whole rows";
    out.sizes.push_back(sizes[i]);
  }
  if (f[0].size() != sizes.size() - 1 || !are_axes(out, f[0])) return "offset_dims must be the row's axes";
  return expect_result(op, out);
}

std::string scatter(const Operation& op) {
  std::vector<Ints> f;
  if (!read_fields(
          op, "scatter_dimension_numbers", "#stablehlo.scatter",
          {"update_window_dims", "inserted_window_dims", "scatter_dims_to_operand_dims", "index_vector_dim"},
          f))
    return "scatter_dimension_numbers is malformed";
  const ParsedType &into = in(op, 0), &indices = in(op, 1), &updates = in(op, 2);
  ParsedType rows = {into.element, indices.sizes};
  rows.sizes.insert(rows.sizes.end(), into.sizes.begin() + 1, into.sizes.end());
  if (f[1] != Ints{0} || f[2] != Ints{0} || f[3] != Ints{static_cast<int64_t>(indices.sizes.size())} ||
      f[0].size() != into.sizes.size() - 1 || indices.element != "i32" || updates != rows)
    return "only whole rows by i32 index are written";
  if (!combines(op, into.element)) return "the region must combine two scalars of the operand's type";
  return expect_result(op, into);
}

std::string dynamic_slice(const Operation& op) {
  const ParsedType& from = in(op, 0);
  const Ints sizes = list(op, "slice_sizes");
  if (sizes.size() != from.sizes.size() || op.operands.size() != 1 + sizes.size())
    return "one start and one size per axis are wanted";
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] < 0 || sizes[i] > from.sizes[i]) return fmt::format("size {} lies outside", i);
    if (in(op, 1 + i) != ParsedType{"i32", {}}) return "a start must be an i32 scalar";
  }
  return expect_result(op, {from.element, sizes});
}

std::string while_loop(const Operation& op) {
  if (op.result_types != op.operand_types) return "the results must have the operands' types";
  for (const ParsedRegion& region : op.regions) {
    std::vector<ParsedType> types;
    for (const auto& [name, type] : region.arguments) types.push_back(type);
    if (types != op.operand_types) return "the regions' arguments must have the operands' types";
  }
  if (op.regions[0].operations.back().operand_types != std::vector<ParsedType>{{"i1", {}}})
    return "the first region must return an i1 scalar";
  if (op.regions[1].operations.back().operand_types != op.operand_types)
    return "the second region must return the operands' types";
  return "";
}

std::string update_slice(const Operation& op) {
  const ParsedType &into = in(op, 0), &block = in(op, 1);
  if (block.element != into.element || block.sizes.size() != into.sizes.size() ||
      op.operands.size() != 2 + into.sizes.size())
    return "the update and the starts must fit the operand";
  for (size_t i = 0; i < into.sizes.size(); ++i) {
    if (block.sizes[i] > into.sizes[i]) return "the update is larger than the operand";
    if (in(op, 2 + i) != ParsedType{"i32", {}}) return "a start must be an i32 scalar";
  }
  return expect_result(op, into);
}

std::vector<OperationRule> make_rules() {
  using Form = AttributeForm;
  std::vector<OperationRule> rules = {
      {"stablehlo.compare", 2, {{"comparison_direction", Form::kDirection}}, 0, compare},
      {"stablehlo.select", 3, {}, 0, select},
      {"stablehlo.clamp", 3, {}, 0, clamp},
      {"stablehlo.convert", 1, {}, 0, convert},
      {"stablehlo.bitcast_convert", 1, {}, 0, bitcast},
      {"stablehlo.constant", 0, {{"value", Form::kElements}}, 0, any},
      {"stablehlo.iota", 0, {{"iota_dimension", Form::kInteger}}, 0, iota},
      {"stablehlo.reshape", 1, {}, 0, reshape},
      {"stablehlo.transpose", 1, {{"permutation", Form::kList}}, 0, transpose},
      {"stablehlo.broadcast_in_dim", 1, {{"broadcast_dimensions", Form::kList}}, 0, broadcast},
      {"stablehlo.slice",
       1,
       {{"limit_indices", Form::kList}, {"start_indices", Form::kList}, {"strides", Form::kList}},
       0,
       slice},
      {"stablehlo.concatenate", -1, {{"dimension", Form::kInteger}}, 0, concatenate},
      {"stablehlo.pad",
       2,
       {{"edge_padding_high", Form::kList},
        {"edge_padding_low", Form::kList},
        {"interior_padding", Form::kList}},
       0,
       pad},
      {"stablehlo.reduce", 2, {{"dimensions", Form::kList}}, 1, reduce},
      {"stablehlo.dot_general",
       2,
       {{"dot_dimension_numbers", Form::kStruct}, {"precision_config", Form::kPrecision}},
       0,
       dot},
      {"stablehlo.gather",
       2,
       {{"dimension_numbers", Form::kStruct}, {"slice_sizes", Form::kList}},
       0,
       gather},
      {"stablehlo.scatter", 3, {{"scatter_dimension_numbers", Form::kStruct}}, 1, scatter},
      {"stablehlo.dynamic_slice", -1, {{"slice_sizes", Form::kList}}, 0, dynamic_slice},
      {"stablehlo.dynamic_update_slice", -1, {}, 0, update_slice},
      {"stablehlo.while", -1, {}, 2, while_loop, -1},
      {"sdy.sharding_constraint", 1, {{"sharding", Form::kSharding}}, 0, all_equal},
      {"stablehlo.custom_call", 1, {{"call_target_name", Form::kTarget}}, 0, all_equal},
  };
  for (const char* name : {"stablehlo.add", "stablehlo.subtract", "stablehlo.multiply", "stablehlo.divide",
                           "stablehlo.maximum", "stablehlo.minimum", "stablehlo.power", "stablehlo.and",
                           "stablehlo.or", "stablehlo.xor", "stablehlo.shift_right_logical"})
    rules.push_back({name, 2, {}, 0, all_equal});
  for (const char* name :
       {"stablehlo.not", "stablehlo.negate", "stablehlo.exponential", "stablehlo.log", "stablehlo.sqrt",
        "stablehlo.rsqrt", "stablehlo.tanh", "stablehlo.logistic", "stablehlo.abs", "stablehlo.sign",
        "stablehlo.sine", "stablehlo.cosine", "stablehlo.floor", "chlo.erf"})
    rules.push_back({name, 1, {}, 0, all_equal});
  return rules;
}

}  // namespace

size_t element_bytes(const std::string& element) {
  static const std::map<std::string, size_t> kBytes = {{"f32", 4}, {"bf16", 2}, {"f16", 2},  {"f64", 8},
                                                       {"i64", 8}, {"i32", 4},  {"ui32", 4}, {"i8", 1},
                                                       {"ui8", 1}, {"i1", 1}};
  const auto it = kBytes.find(element);
  return it == kBytes.end() ? 0 : it->second;
}

const OperationRule* find_rule(std::string_view name) {
  static const std::vector<OperationRule> rules = make_rules();
  const auto it =
      std::find_if(rules.begin(), rules.end(), [&](const auto& rule) { return rule.name == name; });
  return it == rules.end() ? nullptr : &*it;
}

}  // namespace vertebra::pjrt
