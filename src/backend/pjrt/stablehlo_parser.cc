#include "backend/pjrt/stablehlo_parser.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "base/error.h"

namespace vertebra::pjrt {
namespace {

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

// Where the text that begins at `at` ends: at one of `ends` outside all brackets and strings; npos when none
// comes.
size_t end_of_value(std::string_view text, size_t at, std::string_view ends) {
  int depth = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      i = text.find('"', i + 1);
      if (i == std::string_view::npos) return i;
      continue;
    }
    if (c == '-' && i + 1 < text.size() && text[i + 1] == '>') {
      ++i;
      continue;
    }
    if (depth == 0 && ends.find(c) != std::string_view::npos) return i;
    if (c == '(' || c == '[' || c == '{' || c == '<') ++depth;
    if (c == ')' || c == ']' || c == '}' || c == '>') --depth;
    if (depth < 0) return std::string_view::npos;
  }
  return std::string_view::npos;
}

// "a = 1, b = [2, 3]"; false when a pair has no '='.
bool split_pairs(std::string_view text, std::vector<std::pair<std::string, std::string>>& out) {
  text = trimmed(text);
  while (!text.empty()) {
    size_t end = end_of_value(text, 0, ",");
    if (end == std::string_view::npos) end = text.size();
    const std::string_view pair = text.substr(0, end);
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos) return false;
    out.emplace_back(trimmed(pair.substr(0, equals)), trimmed(pair.substr(equals + 1)));
    text = end == text.size() ? std::string_view() : trimmed(text.substr(end + 1));
  }
  return true;
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  ParsedOperation whole() {
    ParsedOperation out = operation();
    skip_space();
    check(at_ == text_.size(), "something follows the module");
    return out;
  }

 private:
  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (!condition) [[unlikely]]
      fail(Code::kInternal, "StableHLO text, line {}: {}", line_,
           fmt::format(format, std::forward<Args>(args)...));
  }

  void skip_space() {
    for (; at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0; ++at_) {
      if (text_[at_] == '\n') ++line_;
    }
  }
  bool take(std::string_view token) {
    skip_space();
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }
  void expect(std::string_view token) { check(take(token), "'{}' expected", token); }

  std::string value_name() {
    expect("%");
    const size_t start = at_;
    while (at_ < text_.size() &&
           (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 || text_[at_] == '_' ||
            text_[at_] == '.' || text_[at_] == '$' || text_[at_] == '-'))
      ++at_;
    check(at_ > start, "a value without a name");
    check(std::isdigit(static_cast<unsigned char>(text_[start])) == 0, "the name '{}' begins with a digit",
          text_.substr(start, at_ - start));
    return std::string(text_.substr(start, at_ - start));
  }

  ParsedType type() {
    expect("tensor<");
    const size_t end = end_of_value(text_, at_, ">");
    check(end != std::string_view::npos, "a type does not end");
    std::string_view inside = text_.substr(at_, end - at_);
    at_ = end + 1;
    ParsedType out;
    while (!inside.empty() &&
           (inside[0] == '?' || std::isdigit(static_cast<unsigned char>(inside[0])) != 0)) {
      if (inside.starts_with("?x")) {
        out.sizes.push_back(ParsedType::kDynamic);
        inside.remove_prefix(2);
        continue;
      }
      int64_t size = 0;
      const auto [rest, error] = std::from_chars(inside.data(), inside.data() + inside.size(), size);
      check(error == std::errc() && rest != inside.data() + inside.size() && *rest == 'x',
            "a type's sizes are broken");
      out.sizes.push_back(size);
      inside.remove_prefix(static_cast<size_t>(rest + 1 - inside.data()));
    }
    static constexpr std::string_view kElements[] = {
        "f32", "bf16", "f16",  "f64",  "f8E4M3FN", "f8E4M3", "f8E5M2", "i64",          "i32",
        "i16", "i8",   "ui64", "ui32", "i1",       "ui16",   "ui8",    "complex<f32>", "complex<f64>"};
    check(std::find(std::begin(kElements), std::end(kElements), inside) != std::end(kElements),
          "the element type '{}' is unknown", inside);
    out.element = std::string(inside);
    return out;
  }

  std::vector<ParsedType> types() {  // "(a, b)"
    std::vector<ParsedType> out;
    expect("(");
    if (take(")")) return out;
    do {
      out.push_back(type());
    } while (take(","));
    expect(")");
    return out;
  }

  ParsedOperation operation() {
    ParsedOperation out;
    skip_space();
    out.line = line_;
    if (at_ < text_.size() && text_[at_] == '%') {
      do {
        out.results.push_back(value_name());
      } while (take(","));
      expect("=");
    }
    expect("\"");
    const size_t end = text_.find('"', at_);
    check(end != std::string_view::npos, "an operation's name does not end");
    out.name = std::string(text_.substr(at_, end - at_));
    at_ = end + 1;
    expect("(");
    if (!take(")")) {
      do {
        out.operands.push_back(value_name());
      } while (take(","));
      expect(")");
    }
    if (take("<{")) {
      const size_t stop = end_of_value(text_, at_, "}");
      check(stop != std::string_view::npos && split_pairs(text_.substr(at_, stop - at_), out.attributes),
            "the attributes of {} are broken", out.name);
      at_ = stop;
      expect("}>");
    }
    if (take("({")) {
      do {
        out.regions.push_back(region());
      } while (take(",") && take("{"));
      expect(")");
    }
    if (take("{")) {
      const size_t stop = end_of_value(text_, at_, "}");
      check(stop != std::string_view::npos && split_pairs(text_.substr(at_, stop - at_), out.further),
            "the further attributes of {} are broken", out.name);
      at_ = stop;
      expect("}");
    }
    expect(":");
    out.operand_types = types();
    expect("->");
    skip_space();
    if (at_ < text_.size() && text_[at_] == '(') {
      out.result_types = types();
    } else {
      out.result_types.push_back(type());
    }
    return out;
  }

  ParsedRegion region() {  // after "{", takes "}"
    ParsedRegion out;
    if (take("^bb0(")) {
      if (!take(")")) {
        do {
          std::string name = value_name();
          expect(":");
          out.arguments.emplace_back(std::move(name), type());
        } while (take(","));
        expect(")");
      }
      expect(":");
    }
    while (!take("}")) out.operations.push_back(operation());
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

int64_t ParsedType::elements() const {
  int64_t out = 1;
  for (const int64_t size : sizes) out *= size;
  return out;
}

bool ParsedType::is_static() const { return std::find(sizes.begin(), sizes.end(), kDynamic) == sizes.end(); }

std::string ParsedType::to_string() const {
  std::string out;
  for (const int64_t size : sizes) out += (size == kDynamic ? "?" : std::to_string(size)) + "x";
  return out + element;
}

const std::string* ParsedOperation::attribute(std::string_view attribute_name) const {
  for (const auto& [key, value] : attributes) {
    if (key == attribute_name) return &value;
  }
  return nullptr;
}

ParsedOperation parse_stablehlo(std::string_view text) { return Parser(text).whole(); }

bool parse_list(std::string_view text, std::vector<int64_t>& out) {
  std::string_view inside;
  if (text == "array<i64>" || text == "[]") return true;
  if (text.starts_with("array<i64: ") && text.ends_with(">")) {
    inside = text.substr(11, text.size() - 12);
  } else if (text.starts_with("[") && text.ends_with("]")) {
    inside = text.substr(1, text.size() - 2);
  } else {
    return false;
  }
  while (true) {
    inside = trimmed(inside);
    int64_t value = 0;
    const auto [rest, error] = std::from_chars(inside.data(), inside.data() + inside.size(), value);
    if (error != std::errc()) return false;
    out.push_back(value);
    inside.remove_prefix(static_cast<size_t>(rest - inside.data()));
    if (inside.empty()) return true;
    if (inside[0] != ',') return false;
    inside.remove_prefix(1);
  }
}

bool parse_dictionaries(std::string_view text,
                        std::vector<std::vector<std::pair<std::string, std::string>>>& out) {
  if (!text.starts_with("[") || !text.ends_with("]")) return false;
  text = trimmed(text.substr(1, text.size() - 2));
  while (!text.empty()) {
    const size_t end = text.starts_with("{") ? end_of_value(text, 1, "}") : std::string_view::npos;
    if (end == std::string_view::npos || !split_pairs(text.substr(1, end - 1), out.emplace_back()))
      return false;
    text = trimmed(text.substr(end + 1));
    if (text.empty()) return true;
    if (text[0] != ',') return false;
    text = trimmed(text.substr(1));
    if (text.empty()) return false;
  }
  return true;
}

bool parse_struct(std::string_view text, std::string_view name,
                  std::vector<std::pair<std::string, std::string>>& fields) {
  if (!text.starts_with(name) || !text.substr(name.size()).starts_with("<") || !text.ends_with(">"))
    return false;
  return split_pairs(text.substr(name.size() + 1, text.size() - name.size() - 2), fields);
}

}  // namespace vertebra::pjrt
