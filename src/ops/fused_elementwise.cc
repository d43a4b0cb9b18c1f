// fused_elementwise: several elementwise ops as one node, whose operands may be broadcast. Made by a
// backend's fuse_elementwise pass; its decomposition is the ops it was made from.
#include "ops/fused_elementwise.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "ops/ops.h"
#include "ops/registry.h"

namespace vertebra {
namespace {

using Ints = std::vector<int64_t>;

constexpr std::array<std::string_view, 25> kElementwise = {
    "add",    "subtract",    "multiply",    "divide",      "maximum",     "minimum",
    "power",  "negate",      "exponential", "logarithm",   "square_root", "reciprocal_square_root",
    "tanh",   "logistic",    "erf",         "absolute",    "sine",        "cosine",
    "floor",  "logical_and", "logical_or",  "logical_not", "compare",     "select",
    "convert"};

// The dims of each operand, which must be axes of the domain that the operand fits or stretches to.
std::vector<Ints> operand_dims(const InferInput& in) {
  const auto& all = in.attrs.get<Ints>("dims");
  const auto& shape = in.attrs.get<Shape>("shape");
  std::vector<Ints> out;
  size_t next = 0;
  for (const TensorType& operand : in.operands) {
    const auto rank = static_cast<size_t>(operand.shape.rank());
    in.check(next + rank <= all.size(), "dims names {} axes, the operands have more", all.size());
    out.emplace_back(all.begin() + static_cast<int64_t>(next),
                     all.begin() + static_cast<int64_t>(next + rank));
    next += rank;
    for (size_t i = 0; i < rank; ++i) {
      const int64_t axis = out.back()[i];
      in.check(axis >= 0 && axis < shape.rank() && (i == 0 || axis > out.back()[i - 1]),
               "the dims of operand {} are no ascending axes of shape {}", out.size() - 1, shape.to_string());
      const Dim dim = operand.shape.dim(static_cast<int>(i));
      in.check(dim == Dim(1) || dim == shape.dim(static_cast<int>(axis)),
               "operand {} does not stretch to shape {}", out.size() - 1, shape.to_string());
    }
  }
  in.check(next == all.size(), "dims names {} axes, the operands have {}", all.size(), next);
  return out;
}

std::vector<TensorType> infer_fused(const InferInput& in) {
  operand_dims(in);
  std::vector<DType> dtypes;
  for (const TensorType& operand : in.operands) dtypes.push_back(operand.dtype);
  dtypes = program_dtypes(parse_program(in.attrs.get<std::string>("program")), std::move(dtypes));
  const auto& results = in.attrs.get<Ints>("results");
  in.check(!results.empty(), "there are no results");
  std::vector<TensorType> types;
  for (const int64_t result : results) {
    in.check(
        result >= static_cast<int64_t>(in.operands.size()) && result < static_cast<int64_t>(dtypes.size()),
        "result {} is the number of no instruction", result);
    types.push_back({dtypes[static_cast<size_t>(result)], in.attrs.get<Shape>("shape")});
  }
  return types;
}

std::vector<Value> decompose_fused(Graph& graph, const Node& node, std::span<const Value> operands) {
  std::vector<TensorType> types;
  for (const Value& v : operands) types.push_back(v.type());
  const std::vector<Ints> dims = operand_dims({node.op->name, types, node.attrs});
  const auto& shape = node.attrs.get<Shape>("shape");
  std::vector<Value> values;
  for (size_t i = 0; i < operands.size(); ++i)
    values.push_back(operands[i].shape() == shape ? operands[i]
                                                  : broadcast_in_dim(operands[i], shape, dims[i]));
  for (const ElementwiseInstruction& instruction : parse_program(node.attrs.get<std::string>("program"))) {
    std::vector<Value> arguments;
    for (const int v : instruction.operands) arguments.push_back(values[static_cast<size_t>(v)]);
    values.push_back(graph.add_node(find_op(instruction.op), std::move(arguments), instruction.attrs())[0]);
  }
  std::vector<Value> results;
  for (const int64_t result : node.attrs.get<Ints>("results"))
    results.push_back(values[static_cast<size_t>(result)]);
  return results;
}

std::vector<OpSample> fused_samples() {
  const auto attrs = [](Shape shape, Ints dims, const char* program, Ints results) {
    return Attrs{{"shape", shape},
                 {"dims", std::move(dims)},
                 {"program", std::string(program)},
                 {"results", std::move(results)}};
  };
  const auto matrix = normal({7, 131}), row = normal({131}), column = normal({7, 1}), scalar = normal({});
  return {
      {"two ops", {matrix, matrix}, attrs({7, 131}, {0, 1, 0, 1}, "multiply 0 1; add 2 0", {3})},
      {"rows, columns and scalars",
       {matrix, row, column, scalar},
       attrs({7, 131}, {0, 1, 1, 0, 1}, "multiply 0 1; add 4 2; tanh 5; multiply 6 3", {7})},
      {"several results",
       {matrix, row},
       attrs({7, 131}, {0, 1, 1}, "multiply 0 0; subtract 2 1; exponential 0", {3, 4, 2})},
      {"choice",
       {matrix, scalar, column},
       attrs({7, 131}, {0, 1, 0, 1}, "compare:lt 0 1; logical_not 3; select 4 0 2", {5})},
      {"a middle axis",
       {normal({3, 5, 67}), normal({5})},
       attrs({3, 5, 67}, {0, 1, 2, 1}, "add 0 1; negate 2", {3})},
      {"long", {normal({5000}), scalar}, attrs({5000}, {0}, "multiply 0 1; logistic 2; multiply 3 0", {4})},
      {"through integers",
       {uniform({600}, -9, 9)},
       attrs({600}, {0}, "convert:f32 0; convert:i32 1; convert:f32 2", {3})}};
}

}  // namespace

const OpDef fused_elementwise_op = {.name = "fused_elementwise",
                                    .infer = infer_fused,
                                    .no_vjp = "made by a backend's pass, after differentiation",
                                    .decompose = decompose_fused,
                                    .samples = fused_samples};

Attrs ElementwiseInstruction::attrs() const {
  if (op == "compare") return {{"direction", detail}};
  if (op != "convert") return {};
  const auto dtype = dtype_from_name(detail);
  require(dtype.has_value(), "a program converts to '{}', which is no element type", detail);
  return {{"dtype", *dtype}};
}

bool is_elementwise(std::string_view op) {
  return std::find(kElementwise.begin(), kElementwise.end(), op) != kElementwise.end();
}

ElementwiseInstruction elementwise_instruction(const Node& node, std::vector<int> operands) {
  std::string detail = node.attrs.get_or<std::string>("direction", "");
  if (node.op->name == "convert") detail = dtype_name(node.results[0].dtype);
  return {std::string(node.op->name), std::move(detail), std::move(operands)};
}

std::string print_program(const std::vector<ElementwiseInstruction>& program) {
  std::string out;
  for (const ElementwiseInstruction& instruction : program) {
    if (!out.empty()) out += "; ";
    out += instruction.op;
    if (!instruction.detail.empty()) out += ":" + instruction.detail;
    out += fmt::format(" {}", fmt::join(instruction.operands, " "));
  }
  return out;
}

std::vector<ElementwiseInstruction> parse_program(const std::string& text) {
  std::vector<ElementwiseInstruction> program;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find("; ", at), text.size());
    std::string_view line(text.data() + at, end - at);
    at = end == text.size() ? end : end + 2;
    const size_t name_end = line.find(' ');
    require(name_end != std::string_view::npos, "the instruction '{}' of a program has no operands", line);
    std::string_view name = line.substr(0, name_end);
    line.remove_prefix(name_end);
    ElementwiseInstruction instruction;
    if (const size_t colon = name.find(':'); colon != std::string_view::npos) {
      instruction.detail = name.substr(colon + 1);
      name = name.substr(0, colon);
    }
    instruction.op = name;
    while (!line.empty()) {
      int number = 0;
      const auto [rest, error] = std::from_chars(line.data() + 1, line.data() + line.size(), number);
      require(line[0] == ' ' && error == std::errc{} && number >= 0, "'{}' in a program is no value", line);
      instruction.operands.push_back(number);
      line.remove_prefix(static_cast<size_t>(rest - line.data()));
    }
    program.push_back(std::move(instruction));
  }
  return program;
}

std::vector<DType> program_dtypes(const std::vector<ElementwiseInstruction>& program,
                                  std::vector<DType> dtypes) {
  for (const ElementwiseInstruction& instruction : program) {
    require(is_elementwise(instruction.op), "'{}' in a program is no elementwise op", instruction.op);
    std::vector<TensorType> types;
    for (const int v : instruction.operands) {
      require(static_cast<size_t>(v) < dtypes.size(), "a program reads value {} before it is made", v);
      types.push_back({dtypes[static_cast<size_t>(v)], Shape{}});
    }
    const OpDef& op = find_op(instruction.op);
    dtypes.push_back(op.infer({op.name, types, instruction.attrs()})[0].dtype);
  }
  return dtypes;
}

}  // namespace vertebra
