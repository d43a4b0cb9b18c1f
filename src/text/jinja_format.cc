// Text made from values: JSON as Python's json.dumps writes it, printf-style and brace-style formats.
#include <algorithm>
#include <cmath>

#include "text/jinja_text.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

// ---- JSON
class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : rt_(runtime), style_(style) {}

  void write(const Value& value, size_t level) {
    const Runtime::Depth depth(rt_);
    rt_.step();
    rt_.check_room(out.size());
    switch (value.kind()) {
      case Kind::kNone:
        out += "null";
        return;
      case Kind::kBool:
        out += value.integer() ? "true" : "false";
        return;
      case Kind::kInt:
        out += std::to_string(value.integer());
        return;
      case Kind::kHuge:
        out += std::to_string(value.huge());
        return;
      case Kind::kFloat:
        out += number(value.number());
        return;
      case Kind::kString:
        rt_.check_growth(value.text().size());
        out += json_quoted(value.text(), style_.ensure_ascii);
        return;
      case Kind::kList:
      case Kind::kTuple:
        return write_list(value, level);
      case Kind::kDict:
        return write_dict(value, level);
      case Kind::kUndefined:
        rt_.fail_undefined(value);
      default:
        rt_.fail("'tojson': a {} is not JSON", rt_.type_name(value));
    }
  }

  std::string out;

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return python_repr(value);
  }

  void new_line(size_t level) {
    if (!style_.indent) return;
    out += '\n';
    for (size_t i = 0; i < level; ++i) out += *style_.indent;
    rt_.check_room(out.size());
  }

  void write_list(const Value& value, size_t level) {
    if (value.items().empty()) {
      out += "[]";
      return;
    }
    out += '[';
    for (size_t i = 0; i < value.items().size(); ++i) {
      if (i > 0) out += style_.item_separator;
      new_line(level + 1);
      write(value.items()[i], level + 1);
    }
    new_line(level);
    out += ']';
  }

  std::string key_text(const Value& key) {
    switch (key.kind()) {
      case Kind::kString:
        return key.text();
      case Kind::kNone:
        return "null";
      case Kind::kBool:
        return key.integer() ? "true" : "false";
      case Kind::kInt:
        return std::to_string(key.integer());
      case Kind::kHuge:
        return std::to_string(key.huge());
      case Kind::kFloat:
        return number(key.number());
      default:
        rt_.fail("'tojson': a {} cannot be a key in JSON", rt_.type_name(key));
    }
  }

  void write_dict(const Value& value, size_t level) {
    const auto& mapping = static_cast<const Mapping&>(*value.object());
    if (mapping.entries.empty()) {
      out += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : mapping.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      merge_sort(entries, [&](auto* a, auto* b) { return rt_.less(a->first, b->first); });
    }
    out += '{';
    bool first = true;
    for (const auto* entry : entries) {
      if (!std::exchange(first, false)) out += style_.item_separator;
      new_line(level + 1);
      out += json_quoted(key_text(entry->first), style_.ensure_ascii) + style_.key_separator;
      write(entry->second, level + 1);
    }
    new_line(level);
    out += '}';
  }

  Runtime& rt_;
  const JsonStyle& style_;
};

// ---- numbers and padding of both kinds of format
struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =
  bool plus = false, space = false, alternate = false, thousands = false;
  int64_t width = 0;
  std::optional<int64_t> precision;
  char type = '\0';
};

constexpr int64_t kMaxWidth = 100'000;

std::string with_thousands(std::string digits) {
  const size_t point = std::min(digits.find_first_of(".e"), digits.size());
  for (size_t at = point; at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

std::string format_magnitude(Runtime& rt, const Value& value, const FormatSpec& spec) {
  const char type = spec.type == '\0' ? (value.is(Kind::kFloat) ? 'r' : 'd') : spec.type;
  if (type == 'd' || type == 'x' || type == 'X' || type == 'o' || type == 'b') {
    if (!value.is_integral())
      rt.fail("format '{}' wants a whole number, found {}", type, rt.type_name(value));
    const uint64_t magnitude = value.integer() < 0 ? 0 - static_cast<uint64_t>(value.integer())
                                                   : static_cast<uint64_t>(value.integer());
    switch (type) {
      case 'x':
        return fmt::format("{}{:x}", spec.alternate ? "0x" : "", magnitude);
      case 'X':
        return fmt::format("{}{:X}", spec.alternate ? "0X" : "", magnitude);
      case 'o':
        return fmt::format("{}{:o}", spec.alternate ? "0o" : "", magnitude);
      case 'b':
        return fmt::format("{}{:b}", spec.alternate ? "0b" : "", magnitude);
      default:
        return spec.thousands ? with_thousands(std::to_string(magnitude)) : std::to_string(magnitude);
    }
  }
  const double magnitude = std::abs(value.number());
  const int precision = static_cast<int>(spec.precision.value_or(6));
  std::string out;
  switch (type) {
    case 'f':
    case 'F':
      out = fmt::format("{:.{}f}", magnitude, precision);
      break;
    case 'e':
      out = fmt::format("{:.{}e}", magnitude, precision);
      break;
    case 'g':
      out = fmt::format("{:.{}g}", magnitude, std::max(precision, 1));
      break;
    case '%':
      out = fmt::format("{:.{}f}%", magnitude * 100, precision);
      break;
    case 'r':
      out =
          spec.precision ? fmt::format("{:.{}g}", magnitude, std::max(precision, 1)) : python_repr(magnitude);
      break;
    default:
      rt.fail("format '{}' is not known for a number", type);
  }
  return spec.thousands ? with_thousands(out) : out;
}

std::string padded(const std::string& sign, const std::string& body, const FormatSpec& spec,
                   char default_align) {
  const auto size = static_cast<int64_t>(length(sign) + length(body));
  if (size >= spec.width) return sign + body;
  const auto missing = static_cast<size_t>(spec.width - size);
  const auto fill = [&](size_t count) {
    std::string out;
    for (size_t i = 0; i < count; ++i) out += spec.fill;
    return out;
  };
  switch (spec.align == '\0' ? default_align : spec.align) {
    case '<':
      return sign + body + fill(missing);
    case '^':
      return fill(missing / 2) + sign + body + fill(missing - missing / 2);
    case '=':
      return sign + fill(missing) + body;
    default:
      return fill(missing) + sign + body;
  }
}

std::string format_number(Runtime& rt, const Value& value, const FormatSpec& spec) {
  const bool negative = value.is(Kind::kFloat) ? std::signbit(value.number()) : value.integer() < 0;
  const std::string sign = negative ? "-" : spec.plus ? "+" : spec.space ? " " : "";
  return padded(sign, format_magnitude(rt, value, spec), spec, '>');
}

std::string format_text(const std::string& text, const FormatSpec& spec, char default_align) {
  std::string out = text;
  if (spec.precision) {
    out.resize(code_point_offset(text, static_cast<size_t>(*spec.precision)));
  }
  return padded("", out, spec, default_align);
}

int64_t read_width(Runtime& rt, const std::string& format, size_t& at) {
  int64_t out = 0;
  for (; at < format.size() && format[at] >= '0' && format[at] <= '9'; ++at) {
    out = out * 10 + (format[at] - '0');
    if (out > kMaxWidth) rt.fail("a format asks for more than {} characters", kMaxWidth);
  }
  return out;
}

}  // namespace

std::string to_json_text(Runtime& runtime, const Value& value, const JsonStyle& style) {
  JsonWriter writer(runtime, style);
  writer.write(value, 0);
  return std::move(writer.out);
}

Value percent_format(Runtime& rt, const Value& format_value, const Value& values) {
  const std::string& format = format_value.text();
  rt.step_bytes(format.size());
  std::string out;
  size_t used = 0;
  const bool is_tuple = values.is(Kind::kTuple);
  const auto next_value = [&]() -> Value {
    const size_t count = is_tuple ? values.items().size() : 1;
    if (used >= count) rt.fail("not enough values for the format '{}'", format.substr(0, 60));
    ++used;
    return is_tuple ? values.items()[used - 1] : values;
  };
  for (size_t at = 0; at < format.size(); ++at) {
    rt.check_room(out.size());
    if (format[at] != '%') {
      out += format[at];
      continue;
    }
    ++at;
    FormatSpec spec;
    std::optional<Value> named;
    if (at < format.size() && format[at] == '(') {
      const size_t close = format.find(')', at);
      if (close == std::string::npos || !values.is_dict()) rt.fail("a format with names wants a dictionary");
      const Value* found = rt.find(values, std::string_view(format).substr(at + 1, close - at - 1));
      if (found == nullptr) rt.fail("the format's '{}' was not given", format.substr(at + 1, close - at - 1));
      named = *found;
      at = close + 1;
    }
    for (; at < format.size() && std::string_view("-+ 0#").find(format[at]) != std::string_view::npos; ++at) {
      if (format[at] == '-') spec.align = '<';
      if (format[at] == '+') spec.plus = true;
      if (format[at] == ' ') spec.space = true;
      if (format[at] == '#') spec.alternate = true;
      if (format[at] == '0' && spec.align == '\0') {
        spec.align = '=';
        spec.fill = "0";
      }
    }
    if (spec.align == '<') spec.fill = " ";
    spec.width = read_width(rt, format, at);
    if (at < format.size() && format[at] == '.') spec.precision = read_width(rt, format, ++at);
    if (at >= format.size()) rt.fail("the format '{}' ends too early", format.substr(0, 60));
    const char type = format[at];
    if (type == '%') {
      out += '%';
      continue;
    }
    const Value value = named ? *named : next_value();
    if (type == 's' || type == 'r') {
      if (spec.align == '=') spec.align = '\0', spec.fill = " ";
      std::string text = type == 'r'                ? rt.repr(value)
                         : format_value.is_markup() ? rt.escaped(value)
                                                    : rt.str(value);
      if (type == 'r' && format_value.is_markup()) text = html_escaped(text);
      out += format_text(text, spec, '>');
      continue;
    }
    spec.type = type == 'i' || type == 'u' ? 'd' : type;
    if (value.is_undefined()) rt.fail_undefined(value);
    if (!value.is_number() || std::string_view("dxXofFeg").find(spec.type) == std::string_view::npos) {
      rt.fail("format '%{}' does not take {}", type, rt.type_name(value));
    }
    const bool whole = spec.type == 'd' && value.is(Kind::kFloat);
    if (whole && !(std::abs(value.number()) < 9e18)) rt.fail("format '%d': the number is too large");
    out += format_number(rt, whole ? Value(static_cast<int64_t>(value.number())) : value, spec);
  }
  // One value that could be looked into by key may stay unused, as in Python.
  const bool may_be_unused = values.is_dict() || values.is_undefined() || (values.is_sequence() && !is_tuple);
  if (is_tuple ? used < values.items().size() : used == 0 && !may_be_unused)
    rt.fail("too many values for the format '{}'", format.substr(0, 60));
  return rt.string_like(format_value, std::move(out));
}

namespace {

FormatSpec parse_brace_spec(Runtime& rt, const std::string& text) {
  FormatSpec spec;
  size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  size_t after_fill = 0;
  if (!text.empty()) next_code_point(text, after_fill);
  if (after_fill > 0 && after_fill < text.size() && is_align(text[after_fill])) {
    spec.fill = text.substr(0, after_fill);
    spec.align = text[after_fill];
    at = after_fill + 1;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[at++];
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) {
    spec.plus = text[at] == '+';
    spec.space = text[at] == ' ';
    ++at;
  }
  if (at < text.size() && text[at] == '#') spec.alternate = true, ++at;
  if (at < text.size() && text[at] == '0' && spec.align == '\0') spec.align = '=', spec.fill = "0", ++at;
  spec.width = read_width(rt, text, at);
  if (at < text.size() && text[at] == ',') spec.thousands = true, ++at;
  if (at < text.size() && text[at] == '.') spec.precision = read_width(rt, text, ++at);
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size()) rt.fail("the format specification '{}' is not known", text.substr(0, 40));
  return spec;
}

// "name.attribute[key]" of a replacement field.
// `automatic` counts the fields without a number; kManual once a field had one.
constexpr int64_t kManual = -1;
Value brace_field(Runtime& rt, const std::string& field, Arguments& arguments,
                  std::optional<int64_t>& automatic) {
  const size_t first_end = std::min(field.find_first_of(".["), field.size());
  const std::string first = field.substr(0, first_end);
  Value out;
  if (first.empty() || first.find_first_not_of("0123456789") == std::string::npos) {
    if (automatic && (*automatic == kManual) == first.empty()) {
      rt.fail("'format': fields with and without numbers are mixed");
    }
    const int64_t index = first.empty() ? automatic.value_or(0) : parse_integer(first, 10).value_or(-1);
    automatic = first.empty() ? index + 1 : kManual;
    if (index < 0 || index >= static_cast<int64_t>(arguments.positional.size())) {
      rt.fail("'format': there is no argument {}", first.empty() ? std::to_string(index) : first);
    }
    out = arguments.positional[static_cast<size_t>(index)];
  } else {
    const auto at = std::find_if(arguments.named.begin(), arguments.named.end(),
                                 [&](const auto& named) { return named.first == first; });
    if (at == arguments.named.end()) rt.fail("'format': there is no argument '{}'", first);
    out = at->second;
  }
  for (size_t at = first_end; at < field.size();) {
    const bool bracket = field[at] == '[';
    const size_t end =
        bracket ? field.find(']', at) : std::min(field.find_first_of(".[", at + 1), field.size());
    if (end == std::string::npos) rt.fail("'format': '[' is not closed in '{}'", field);
    const std::string key = field.substr(at + 1, end - at - 1);
    if (bracket) {
      const auto index = parse_integer(key, 10);
      out = rt.item(out, index ? Value(*index) : rt.string(key));
    } else {
      out = rt.attribute(out, key);
    }
    at = bracket ? end + 1 : end;
  }
  return out;
}

}  // namespace

Value brace_format(Runtime& rt, const Value& format_value, Arguments& arguments) {
  const std::string& format = format_value.text();
  rt.step_bytes(format.size());
  std::string out;
  std::optional<int64_t> automatic;
  for (size_t at = 0; at < format.size(); ++at) {
    rt.check_room(out.size());
    const char c = format[at];
    if ((c == '{' || c == '}') && at + 1 < format.size() && format[at + 1] == c) {
      out += c;
      ++at;
      continue;
    }
    if (c == '}') rt.fail("'format': a single '}}' in '{}'", format.substr(0, 60));
    if (c != '{') {
      out += c;
      continue;
    }
    const size_t close = format.find('}', at);
    if (close == std::string::npos) rt.fail("'format': '{{' is not closed in '{}'", format.substr(0, 60));
    std::string field = format.substr(at + 1, close - at - 1), spec_text;
    if (const size_t colon = field.find(':'); colon != std::string::npos) {
      spec_text = field.substr(colon + 1);
      field.resize(colon);
    }
    char conversion = 's';
    if (const size_t mark = field.find('!'); mark != std::string::npos) {
      if (mark + 2 != field.size() || (field[mark + 1] != 'r' && field[mark + 1] != 's')) {
        rt.fail("'format': the conversion in '{}' is not !r or !s", field);
      }
      conversion = field[mark + 1];
      field.resize(mark);
    }
    const Value value = brace_field(rt, field, arguments, automatic);
    const FormatSpec spec = parse_brace_spec(rt, spec_text);
    const bool as_number = value.is_number() && conversion == 's' && !spec_text.empty() && spec.type != 's';
    std::string shown = as_number
                            ? format_number(rt, value, spec)
                            : format_text(conversion == 'r' ? rt.repr(value) : rt.str(value), spec, '<');
    out += format_value.is_markup() && !value.is_markup() ? html_escaped(shown) : shown;
    at = close;
  }
  return rt.string_like(format_value, std::move(out));
}

}  // namespace vertebra::jinja
