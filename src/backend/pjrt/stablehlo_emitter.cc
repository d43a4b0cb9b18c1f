#include "backend/pjrt/stablehlo_emitter.h"

#include <fmt/ranges.h>

#include <cctype>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace vertebra::pjrt {
namespace {

// Bytes in memory order, as MLIR's bulk constants want them.
std::string bulk_hex(const Tensor& value) {
  static constexpr char kDigits[] = "0123456789ABCDEF";
  std::string out = "\"0x";
  out.reserve(value.size_bytes() * 2 + 4);
  const auto* bytes = static_cast<const uint8_t*>(value.raw());
  for (size_t i = 0; i < value.size_bytes(); ++i) {
    out += kDigits[bytes[i] >> 4];
    out += kDigits[bytes[i] & 15];
  }
  return out + "\"";
}

// The bits of element 0.
std::string element_text(const Tensor& value) {
  switch (value.dtype()) {
    case DType::kF32:
    case DType::kF64:
    case DType::kBF16:
    case DType::kF16: {
      uint64_t bits = 0;
      std::memcpy(&bits, value.raw(), dtype_size(value.dtype()));
      return fmt::format("0x{:0{}X}", bits, 2 * dtype_size(value.dtype()));
    }
    case DType::kBool:
      return value.data<bool>()[0] ? "true" : "false";
    case DType::kI64:
      return std::to_string(value.data<int64_t>()[0]);
    default:
      return std::to_string(static_cast<int64_t>(value.at(0)));
  }
}

bool all_equal(const Tensor& value) {
  const auto* bytes = static_cast<const std::byte*>(value.raw());
  const size_t size = dtype_size(value.dtype());
  for (size_t i = 1; i < static_cast<size_t>(value.elements()); ++i) {
    if (std::memcmp(bytes, bytes + i * size, size) != 0) return false;
  }
  return true;
}

}  // namespace

std::string hlo_dtype(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return "i1";
    case DType::kU8:
      return "ui8";
    case DType::kU32:
      return "ui32";
    default:
      return std::string(dtype_name(dtype));
  }
}

std::string hlo_type(const TensorType& type) {
  std::string out = "tensor<";
  for (const Dim& dim : type.shape.dims()) out += std::to_string(dim.size) + "x";
  return out + hlo_dtype(type.dtype) + ">";
}

std::string hlo_list(std::span<const int64_t> values) {
  return values.empty() ? "array<i64>" : fmt::format("array<i64: {}>", fmt::join(values, ", "));
}

std::string hlo_bracketed(std::span<const int64_t> values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}

std::string hlo_element(DType dtype, double value) {
  Tensor tensor(dtype, Shape{});
  tensor.set(0, value);
  return element_text(tensor);
}

std::string hlo_name(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
    if (plain) {
      out += c;
    } else if (!out.empty() && out.back() != '.') {
      out += '.';
    }
  }
  while (!out.empty() && out.back() == '.') out.pop_back();
  return out;
}

std::string HloEmitter::fresh_name(std::string_view operation) {
  // Names begin with a letter: a scope "3/x" would read as the number 3.
  const std::string_view bare = operation.substr(operation.find('.') + 1);
  const bool usable = !scope_.empty() && std::isdigit(static_cast<unsigned char>(scope_[0])) == 0;
  return fmt::format("%{}{}{}.{}", usable ? scope_ : std::string(), usable ? "." : "", bare, count_++);
}

void HloEmitter::write(std::string_view results, std::string_view operation,
                       std::span<const HloValue> operands, std::string_view attributes,
                       std::span<const std::string> regions, std::string_view result_types,
                       std::string_view further) {
  std::string names, types;
  for (const HloValue& operand : operands) {
    names += (names.empty() ? "" : ", ") + operand.name;
    types += (types.empty() ? "" : ", ") + hlo_type(operand.type);
  }
  out_ += fmt::format("  {}{}\"{}\"({})", results, results.empty() ? "" : " = ", operation, names);
  if (!attributes.empty()) out_.append(" <{").append(attributes).append("}>");
  for (size_t i = 0; i < regions.size(); ++i)
    out_.append(i == 0 ? " ({\n" : ", {\n")
        .append(regions[i])
        .append(i + 1 == regions.size() ? "  })" : "  }");
  if (!further.empty()) out_.append(" {").append(further).append("}");
  out_ += fmt::format(" : ({}) -> {}\n", types, result_types);
}

HloValue HloEmitter::emit(std::string_view operation, std::span<const HloValue> operands,
                          const TensorType& result, std::string_view attributes, std::string_view region,
                          std::string_view further) {
  HloValue out = {fresh_name(operation), result};
  const std::string regions[] = {std::string(region)};
  write(out.name, operation, operands, attributes, {regions, region.empty() ? size_t{0} : size_t{1}},
        hlo_type(result), further);
  return out;
}

std::vector<HloValue> HloEmitter::emit_many(std::string_view operation, std::span<const HloValue> operands,
                                            std::span<const TensorType> results,
                                            std::span<const std::string> regions) {
  std::vector<HloValue> out;
  std::string names, types;
  for (const TensorType& type : results) {
    out.push_back({fresh_name(operation), type});
    names += (names.empty() ? "" : ", ") + out.back().name;
    types += (types.empty() ? "" : ", ") + hlo_type(type);
  }
  write(names, operation, operands, "", regions, "(" + types + ")");
  return out;
}

std::string HloEmitter::region(std::span<const HloValue> arguments, FunctionRef<void()> body) {
  std::string list;
  for (const HloValue& each : arguments)
    list += fmt::format("{}{}: {}", list.empty() ? "" : ", ", each.name, hlo_type(each.type));
  std::string outside = std::exchange(out_, {});
  body();
  return fmt::format("  ^bb0({}):\n{}", list, std::exchange(out_, std::move(outside)));
}

void HloEmitter::emit_return(std::span<const HloValue> values) {
  write("", "stablehlo.return", values, "", {}, "()");
}

HloValue HloEmitter::compare(const HloValue& a, const HloValue& b, std::string_view direction) {
  return emit("stablehlo.compare", {a, b}, {DType::kBool, a.type.shape},
              fmt::format("comparison_direction = #stablehlo<comparison_direction {}>", direction));
}

HloValue HloEmitter::select(const HloValue& condition, const HloValue& a, const HloValue& b) {
  return emit("stablehlo.select", {condition, a, b}, a.type);
}

HloValue HloEmitter::convert(const HloValue& a, DType dtype) {
  return a.type.dtype == dtype ? a : emit("stablehlo.convert", {a}, {dtype, a.type.shape});
}

HloValue HloEmitter::constant(const Tensor& value) {
  const auto emit_dense = [&](const TensorType& type, const std::string& data) {
    return emit("stablehlo.constant", {}, type, fmt::format("value = dense<{}> : {}", data, hlo_type(type)));
  };
  const TensorType type = {value.dtype(), Shape(value.shape().sizes())};
  if (value.elements() == 0) return emit_dense(type, "");
  if (all_equal(value)) return emit_dense(type, element_text(value));
  if (value.dtype() != DType::kBool) return emit_dense(type, bulk_hex(value));
  // Bulk bools are spelt differently from version to version: one byte each, then compared with zero.
  const Tensor bytes = value.to(DType::kU8);
  const HloValue numbers = emit_dense(bytes.type(), bulk_hex(bytes));
  return compare(numbers, splat(bytes.type(), 0), "NE");
}

HloValue HloEmitter::splat(const TensorType& type, double value) {
  return emit("stablehlo.constant", {}, type,
              fmt::format("value = dense<{}> : {}",
                          type.shape.elements() == 0 ? "" : hlo_element(type.dtype, value), hlo_type(type)));
}

HloValue HloEmitter::iota(const TensorType& type, int64_t axis) {
  return emit("stablehlo.iota", {}, type, fmt::format("iota_dimension = {} : i64", axis));
}

HloValue HloEmitter::reshape(const HloValue& a, const Shape& shape) {
  return a.type.shape == shape ? a : emit("stablehlo.reshape", {a}, {a.type.dtype, shape});
}

HloValue HloEmitter::broadcast(const HloValue& a, const Shape& shape, std::span<const int64_t> dims) {
  return emit("stablehlo.broadcast_in_dim", {a}, {a.type.dtype, shape},
              fmt::format("broadcast_dimensions = {}", hlo_list(dims)));
}

HloValue HloEmitter::slice(const HloValue& a, std::span<const int64_t> starts,
                           std::span<const int64_t> limits) {
  Shape shape;
  for (size_t i = 0; i < starts.size(); ++i) shape.push_back(limits[i] - starts[i]);
  const std::vector<int64_t> strides(starts.size(), 1);
  return emit("stablehlo.slice", {a}, {a.type.dtype, shape},
              fmt::format("limit_indices = {}, start_indices = {}, strides = {}", hlo_list(limits),
                          hlo_list(starts), hlo_list(strides)));
}

HloValue HloEmitter::dynamic_slice(const HloValue& a, std::span<const HloValue> starts, const Shape& shape) {
  std::vector<HloValue> operands = {a};
  operands.insert(operands.end(), starts.begin(), starts.end());
  return emit("stablehlo.dynamic_slice", operands, {a.type.dtype, shape},
              fmt::format("slice_sizes = {}", hlo_list(shape.sizes())));
}

HloValue HloEmitter::dynamic_update_slice(const HloValue& a, const HloValue& block,
                                          std::span<const HloValue> starts) {
  std::vector<HloValue> operands = {a, block};
  operands.insert(operands.end(), starts.begin(), starts.end());
  return emit("stablehlo.dynamic_update_slice", operands, a.type);
}

HloValue HloEmitter::concatenate(std::span<const HloValue> parts, int64_t axis, const TensorType& result) {
  return emit("stablehlo.concatenate", parts, result, fmt::format("dimension = {} : i64", axis));
}

std::string HloEmitter::combiner(std::string_view operation, DType dtype) {
  const std::string scalar = hlo_type({dtype, Shape{}});
  const int number = count_++;
  return fmt::format(
      "  ^bb0(%left.{0}: {1}, %right.{0}: {1}):\n"
      "    %both.{0} = \"{2}\"(%left.{0}, %right.{0}) : ({1}, {1}) -> {1}\n"
      "    \"stablehlo.return\"(%both.{0}) : ({1}) -> ()\n",
      number, scalar, operation);
}

std::string HloEmitter::second(DType dtype) {
  return fmt::format(
      "  ^bb0(%left.{0}: {1}, %right.{0}: {1}):\n"
      "    \"stablehlo.return\"(%right.{0}) : ({1}) -> ()\n",
      count_++, hlo_type({dtype, Shape{}}));
}

HloValue HloEmitter::reduce(std::string_view operation, const HloValue& a, std::span<const int64_t> axes,
                            double start) {
  Shape shape;
  size_t next = 0;
  for (int i = 0; i < a.type.shape.rank(); ++i) {
    if (next < axes.size() && axes[next] == i) {
      ++next;
    } else {
      shape.push_back(a.type.shape.dim(i));
    }
  }
  const HloValue initial = splat({a.type.dtype, Shape{}}, start);
  return emit("stablehlo.reduce", {a, initial}, {a.type.dtype, shape},
              fmt::format("dimensions = {}", hlo_list(axes)), combiner(operation, a.type.dtype));
}

}  // namespace vertebra::pjrt
