// Arithmetic of the Jinja interpreter, and the conversions and replacements that filters and methods
// share. Whole numbers are 64 bits: what overflows is an error, not a wrong number.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_text.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

[[noreturn]] void fail_operands(Runtime& rt, std::string_view op, const Value& a, const Value& b) {
  rt.fail("'{}' does not work between {} and {}", op, rt.type_name(a), rt.type_name(b));
}

Value repeated(Runtime& rt, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  const uint64_t size = value.is_string() ? value.text().size() : value.items().size() * sizeof(Value);
  if (size > 0 && static_cast<uint64_t>(count) > (uint64_t{1} << 40) / size) rt.check_room(uint64_t{1} << 62);
  rt.check_room(size * static_cast<uint64_t>(count));
  rt.step_bytes(size * static_cast<uint64_t>(count));
  if (size == 0) count = 0;
  if (value.is_string()) {
    std::string out;
    out.reserve(size * static_cast<uint64_t>(count));
    for (int64_t i = 0; i < count; ++i) out += value.text();
    return rt.string_like(value, std::move(out));
  }
  std::vector<Value> out;
  for (int64_t i = 0; i < count; ++i) out.insert(out.end(), value.items().begin(), value.items().end());
  return rt.sequence(value.kind(), std::move(out));
}

Value integer_power(Runtime& rt, int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) rt.fail("0 cannot be raised to a negative power");
    return Value(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  int64_t out = 1;
  bool overflow = false, base_overflow = false;
  while (exponent > 0 && !overflow) {
    if (exponent & 1) overflow |= base_overflow || __builtin_mul_overflow(out, base, &out);
    base_overflow |= __builtin_mul_overflow(base, base, &base);
    exponent >>= 1;
  }
  if (overflow) rt.fail("the result of '**' does not fit into 64 bits");
  return Value(out);
}

Value integer_arithmetic(Runtime& rt, std::string_view op, int64_t a, int64_t b) {
  int64_t out = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &out);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &out);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &out);
  } else if (op == "**") {
    return integer_power(rt, a, b);
  } else {
    if (b == 0) rt.fail("division by zero");
    if (op == "/") return Value(static_cast<double>(a) / static_cast<double>(b));
    overflow = a == INT64_MIN && b == -1;
    if (!overflow) {
      const int64_t remainder = a % b;
      const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
      out = op == "//" ? a / b - adjust : remainder + (adjust ? b : 0);
    } else if (op == "%") {
      return Value(int64_t{0});
    }
  }
  if (overflow) rt.fail("the result of {} {} {} does not fit into 64 bits", a, op, b);
  return Value(out);
}

Value float_arithmetic(Runtime& rt, std::string_view op, double a, double b) {
  if (op == "+") return Value(a + b);
  if (op == "-") return Value(a - b);
  if (op == "*") return Value(a * b);
  if (op == "**") {
    const double out = std::pow(a, b);
    if (std::isnan(out) && !std::isnan(a) && !std::isnan(b))
      rt.fail("the result of '**' is not a real number");
    return Value(out);
  }
  if (b == 0) rt.fail("division by zero");
  if (op == "/") return Value(a / b);
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  return op == "%" ? Value(remainder) : Value(std::floor((a - remainder) / b + 0.5));
}

}  // namespace

Value arithmetic(Runtime& rt, std::string_view op, const Value& a, const Value& b) {
  rt.step();
  if (op == "~") {
    std::string out = rt.str(a);
    out += rt.str(b);
    return rt.string(std::move(out));
  }
  if (a.is_undefined()) rt.fail_undefined(a);
  if (op == "%" && a.is_string()) return percent_format(rt, a, b);
  if (b.is_undefined()) rt.fail_undefined(b);
  if (a.is_integral() && b.is_integral()) return integer_arithmetic(rt, op, a.integer(), b.integer());
  if (a.is(Kind::kHuge) || b.is(Kind::kHuge)) rt.fail("'{}' does not work with numbers beyond 63 bits", op);
  if (a.is_number() && b.is_number()) return float_arithmetic(rt, op, a.number(), b.number());
  if (op == "+" && a.is_string() && b.is_string()) {
    if (a.is_markup() || b.is_markup()) return rt.markup(rt.escaped(a) + rt.escaped(b));
    return rt.string(a.text() + b.text());
  }
  const auto is_list = [](const Value& v) { return v.is(Kind::kList) || v.is(Kind::kTuple); };
  if (op == "+" && a.kind() == b.kind() && is_list(a)) {
    std::vector<Value> items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return rt.sequence(a.kind(), std::move(items));
  }
  if (op == "*" && (a.is_string() || is_list(a)) && b.is_integral()) return repeated(rt, a, b.integer());
  if (op == "*" && (b.is_string() || is_list(b)) && a.is_integral()) return repeated(rt, b, a.integer());
  fail_operands(rt, op, a, b);
}

std::optional<int64_t> parse_integer(std::string_view text, int64_t base) {
  text = rstrip(lstrip(text));
  bool negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (text.size() > 2 && text[0] == '0') {
    const char letter = static_cast<char>(text[1] | 0x20);
    const int64_t prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix != 0 && (base == prefix || base == 0)) {
      base = prefix;
      text.remove_prefix(2);
    }
  }
  if (base == 0) base = 10;
  if (base < 2 || base > 36 || text.empty() || text.front() == '_' || text.back() == '_') return std::nullopt;
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '_' && text[i - 1] == '_') return std::nullopt;
    if (text[i] != '_') digits += text[i];
  }
  if (digits.find_first_of("+-") != std::string::npos) return std::nullopt;
  if (negative) digits.insert(digits.begin(), '-');
  int64_t out = 0;
  const auto result =
      std::from_chars(digits.data(), digits.data() + digits.size(), out, static_cast<int>(base));
  if (result.ec != std::errc() || result.ptr != digits.data() + digits.size()) return std::nullopt;
  return out;
}

std::optional<double> parse_float(std::string_view text) {
  text = rstrip(lstrip(text));
  if (!text.empty() && text[0] == '+') {
    text.remove_prefix(1);
    if (!text.empty() && text[0] == '-') return std::nullopt;
  }
  double out = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), out);
  if (text.empty() || result.ptr != text.data() + text.size() || text.find('(') != std::string_view::npos) {
    return std::nullopt;
  }
  if (result.ec == std::errc::result_out_of_range) return std::strtod(std::string(text).c_str(), nullptr);
  return result.ec == std::errc() ? std::optional(out) : std::nullopt;
}

std::string replaced(Runtime& rt, const std::string& text, const std::string& old_text,
                     const std::string& new_text, int64_t count) {
  uint64_t found = 0;
  rt.step_bytes(old_text.size());
  if (old_text.empty()) {
    found = text.size() + 1;
  } else {
    for (size_t at = find_text(text, old_text); at != std::string::npos;
         at = find_text(text, old_text, at + old_text.size())) {
      ++found;
    }
  }
  rt.step(found * (1 + old_text.size() / 16));
  if (count >= 0) found = std::min(found, static_cast<uint64_t>(count));
  rt.step_bytes(text.size());
  rt.check_room(text.size() + found * new_text.size());
  return replace_all(text, old_text, new_text, count);
}

Value attribute_path(Runtime& rt, const Value& object, const Value& path) {
  if (path.is_integral()) return rt.item(object, path);
  const std::string& text = rt.to_text(path, "the name of an attribute");
  Value out = object;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t dot = std::min(text.find('.', begin), text.size());
    const std::string part = text.substr(begin, dot - begin);
    const bool is_index = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    const auto index = is_index ? parse_integer(part, 10) : std::nullopt;
    out = rt.item(out, index ? Value(*index) : rt.string(part));
    begin = dot + 1;
  }
  return out;
}

}  // namespace vertebra::jinja
