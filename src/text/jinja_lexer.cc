// Splits a Jinja template into text and tokens, with jinja2's whitespace control: trim_blocks and
// lstrip_blocks on, "-" and "+" at the delimiters, one trailing newline of the template dropped.
#include <charconv>
#include <optional>

#include "base/error.h"
#include "text/jinja_syntax.h"
#include "text/jinja_text.h"

namespace vertebra::jinja {

void fail_syntax(const std::string& name, int line, const std::string& message) {
  fail(Code::kInvalidArgument, "chat template '{}', line {}: {}", name, line, message);
}

namespace {

constexpr size_t kMaxSourceBytes = 1 << 20;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}
bool is_name_char(char c) { return is_name_start(c) || is_digit(c); }

std::string with_unix_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name)
      : source_(with_unix_newlines(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t begin = next_delimiter();
      if (begin == std::string::npos) {
        add_data(std::string_view(source_).substr(at_));
        at_ = source_.size();
        break;
      }
      lex_from_delimiter(begin);
    }
    add(Token::Type::kEnd, "end of template");
    return std::move(tokens_);
  }

 private:
  size_t next_delimiter() const {
    for (size_t i = source_.find('{', at_); i != std::string::npos; i = source_.find('{', i + 1)) {
      const char next = i + 1 < source_.size() ? source_[i + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') return i;
    }
    return std::string::npos;
  }

  void lex_from_delimiter(size_t begin) {
    const char kind = source_[begin + 1];
    const char after = begin + 2 < source_.size() ? source_[begin + 2] : '\0';
    const char sign = after == '-' || after == '+' ? after : '\0';
    add_data(stripped_before(begin, sign, kind == '{'));
    count_lines(at_, begin);
    at_ = begin + (sign ? 3 : 2);
    if (kind == '#') return skip_comment();
    if (kind == '%' && skip_raw_begin()) return lex_raw();
    add(kind == '%' ? Token::Type::kBlockBegin : Token::Type::kVariableBegin, kind == '%' ? "{%" : "{{");
    lex_tag(kind == '%' ? '%' : '}');
  }

  // The text before a delimiter, without what its sign or lstrip_blocks removes.
  std::string_view stripped_before(size_t begin, char sign, bool variable) const {
    std::string_view text = std::string_view(source_).substr(at_, begin - at_);
    if (sign == '-') return rstrip(text);
    if (sign == '+' || variable) return text;
    const size_t newline = text.rfind('\n');
    const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
    if (line_begin == 0 && !line_starting_) return text;
    return rstrip(text.substr(line_begin)).empty() ? text.substr(0, line_begin) : text;
  }

  void add_data(std::string_view text) {
    if (!text.empty()) add(Token::Type::kData, std::string(text));
  }

  Token& add(Token::Type type, std::string text) {
    tokens_.push_back({type, std::move(text), line_});
    return tokens_.back();
  }

  void count_lines(size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) line_ += source_[i] == '\n';
  }

  // Moves to `end`, and on over what the closing sign or trim_blocks removes.
  void finish_tag(size_t end, char sign, bool trims_newline) {
    size_t next = end;
    if (sign == '-') {
      next +=
          std::string_view(source_).substr(end).size() - lstrip(std::string_view(source_).substr(end)).size();
    } else if (trims_newline && sign != '+' && next < source_.size() && source_[next] == '\n') {
      ++next;
    }
    count_lines(at_, next);
    at_ = next;
    line_starting_ = next > 0 && source_[next - 1] == '\n';
  }

  void skip_comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_syntax(name_, line_, "a comment is not closed by '#}'");
    const char sign =
        end > at_ && (source_[end - 1] == '-' || source_[end - 1] == '+') ? source_[end - 1] : '\0';
    finish_tag(end + 2, sign, true);
  }

  size_t skip_spaces(size_t at) const {
    return at + std::string_view(source_).substr(at).size() -
           lstrip(std::string_view(source_).substr(at)).size();
  }

  // After "{%": true, and moved behind the tag, when it is {% raw %}.
  bool skip_raw_begin() {
    size_t at = skip_spaces(at_);
    if (source_.compare(at, 3, "raw") != 0) return false;
    at = skip_spaces(at + 3);
    if (source_.compare(at, 3, "-%}") == 0) {
      finish_tag(at + 3, '-', false);
    } else if (source_.compare(at, 2, "%}") == 0) {
      finish_tag(at + 2, '\0', false);
    } else {
      return false;
    }
    return true;
  }

  void lex_raw() {
    for (size_t begin = source_.find("{%", at_); begin != std::string::npos;
         begin = source_.find("{%", begin + 1)) {
      size_t at = begin + 2;
      const char after = at < source_.size() ? source_[at] : '\0';
      const char sign = after == '-' || after == '+' ? after : '\0';
      at = skip_spaces(at + (sign ? 1 : 0));
      if (source_.compare(at, 6, "endraw") != 0) continue;
      at = skip_spaces(at + 6);
      const char close =
          at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
      if (close) ++at;
      if (source_.compare(at, 2, "%}") != 0) continue;
      add_data(stripped_before(begin, sign, false));
      return finish_tag(at + 2, close, true);
    }
    fail_syntax(name_, line_, "{% raw %} is not closed by {% endraw %}");
  }

  // Tokens up to and with the closing delimiter, "%}" or "}}".
  void lex_tag(char close) {
    const int open_line = line_;
    std::vector<char> brackets;
    while (at_ < source_.size()) {
      if (brackets.empty() && try_close(close)) return;
      const size_t next = skip_spaces(at_);
      if (next != at_) {
        count_lines(at_, next);
        at_ = next;
        continue;
      }
      lex_token(brackets);
    }
    fail_syntax(name_, open_line, close == '%' ? "'{%' is not closed by '%}'" : "'{{' is not closed by '}}'");
  }

  bool try_close(char close) {
    const char first = source_[at_];
    const bool signed_close = first == '-' || (first == '+' && close == '%');
    const size_t at = at_ + (signed_close ? 1 : 0);
    if (at + 1 >= source_.size() || source_[at] != close || source_[at + 1] != '}') return false;
    add(close == '%' ? Token::Type::kBlockEnd : Token::Type::kVariableEnd, close == '%' ? "%}" : "}}");
    finish_tag(at + 2, signed_close ? first : '\0', close == '%');
    return true;
  }

  void lex_token(std::vector<char>& brackets) {
    const char c = source_[at_];
    if (is_digit(c)) return lex_number();
    if (is_name_start(c)) {
      size_t end = at_ + 1;
      while (end < source_.size() && is_name_char(source_[end])) ++end;
      add(Token::Type::kName, source_.substr(at_, end - at_));
      at_ = end;
      return;
    }
    if (c == '\'' || c == '"') return lex_string(c);
    for (const std::string_view op : {"//", "**", "==", "!=", ">=", "<="}) {
      if (source_.compare(at_, 2, op) == 0) {
        add(Token::Type::kOperator, std::string(op));
        at_ += 2;
        return;
      }
    }
    if (std::string_view("+-/*%~[](){}<>=.:|,;").find(c) == std::string_view::npos) {
      fail_syntax(name_, line_, fmt::format("unexpected character '{}'", c));
    }
    if (c == '(' || c == '[' || c == '{') brackets.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty()) fail_syntax(name_, line_, fmt::format("unexpected '{}'", c));
      if (brackets.back() != c) {
        fail_syntax(name_, line_, fmt::format("unexpected '{}', expected '{}'", c, brackets.back()));
      }
      brackets.pop_back();
    }
    add(Token::Type::kOperator, std::string(1, c));
    ++at_;
  }

  size_t skip_digits(size_t at, std::string& digits) const {
    while (at < source_.size() && (is_digit(source_[at]) || (source_[at] == '_' && at + 1 < source_.size() &&
                                                             is_digit(source_[at + 1])))) {
      if (source_[at] != '_') digits += source_[at];
      ++at;
    }
    return at;
  }

  void lex_number() {
    if (lex_prefixed_integer()) return;
    std::string digits;
    size_t at = skip_digits(at_, digits);
    bool is_float = false;
    const bool after_dot =
        !tokens_.empty() && tokens_.back().text == "." && at_ > 0 && source_[at_ - 1] == '.';
    if (!after_dot && at + 1 < source_.size() && source_[at] == '.' && is_digit(source_[at + 1])) {
      digits += '.';
      at = skip_digits(at + 1, digits);
      is_float = true;
    }
    if (!after_dot && at < source_.size() && (source_[at] == 'e' || source_[at] == 'E')) {
      size_t exponent = at + 1;
      std::string sign;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) {
        sign = source_[exponent++];
      }
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        digits += "e" + sign;
        at = skip_digits(exponent, digits);
        is_float = true;
      }
    }
    Token& token = add(is_float ? Token::Type::kFloat : Token::Type::kInteger, source_.substr(at_, at - at_));
    const char* end = digits.data() + digits.size();
    const auto result = is_float ? std::from_chars(digits.data(), end, token.number)
                                 : std::from_chars(digits.data(), end, token.integer);
    if (result.ec != std::errc() || result.ptr != end) {
      fail_syntax(name_, line_, fmt::format("the number {} does not fit into 64 bits", digits));
    }
    at_ = at;
  }

  bool lex_prefixed_integer() {
    if (source_[at_] != '0' || at_ + 1 >= source_.size()) return false;
    const char letter = static_cast<char>(source_[at_ + 1] | 0x20);
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (base == 0) return false;
    std::string digits;
    size_t at = at_ + 2;
    for (; at < source_.size() && (is_digit(source_[at]) || is_name_start(source_[at])); ++at) {
      if (source_[at] != '_') digits += source_[at];
    }
    Token& token = add(Token::Type::kInteger, source_.substr(at_, at - at_));
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base);
    if (digits.empty() || result.ec != std::errc() || result.ptr != digits.data() + digits.size()) {
      fail_syntax(name_, line_, fmt::format("'{}' is not a number of 64 bits", token.text));
    }
    at_ = at;
    return true;
  }

  void lex_string(char quote) {
    const int open_line = line_;
    std::string out;
    for (size_t at = at_ + 1; at < source_.size(); ++at) {
      const char c = source_[at];
      if (c == quote) {
        tokens_.push_back({Token::Type::kString, std::move(out), open_line});
        at_ = at + 1;
        return;
      }
      if (c == '\n') ++line_;
      if (c != '\\') {
        out += c;
      } else if (at + 1 < source_.size()) {
        at = unescape(at + 1, out);
      }
    }
    fail_syntax(name_, open_line, fmt::format("a string is not closed by {}", quote));
  }

  // `at` is the character behind the backslash; returns the last character of the escape. Python's
  // rules: an escape it does not know stays as it is.
  size_t unescape(size_t at, std::string& out) {
    const char c = source_[at];
    static constexpr std::string_view kLetters = "abfnrtv\\'\"", kMeanings = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t i = kLetters.find(c); i != std::string_view::npos) {
      out += kMeanings[i];
      return at;
    }
    if (c == '\n') {
      ++line_;
      return at;
    }
    if (c >= '0' && c <= '7') {
      uint32_t value = 0;
      size_t end = at;
      for (; end < source_.size() && end < at + 3 && source_[end] >= '0' && source_[end] <= '7'; ++end) {
        value = value * 8 + static_cast<uint32_t>(source_[end] - '0');
      }
      append_code_point(out, value);
      return end - 1;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      out += '\\';
      out += c;
      return at;
    }
    uint32_t value = hex_escape(at, digits);
    size_t last = at + digits;
    // A surrogate pair written as two escapes is one character.
    if (value >= 0xD800 && value < 0xDC00 && source_.compare(last + 1, 2, "\\u") == 0) {
      const uint32_t low = hex_escape(last + 2, 4);
      if (low >= 0xDC00 && low < 0xE000) {
        value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
        last += 6;
      }
    }
    append_code_point(out, value);
    return last;
  }

  uint32_t hex_escape(size_t at, size_t digits) {
    uint32_t value = 0;
    const char* begin = source_.data() + at + 1;
    const char* end = source_.data() + std::min(source_.size(), at + 1 + digits);
    const auto result = std::from_chars(begin, end, value, 16);
    if (result.ec != std::errc() || result.ptr != begin + digits || value > 0x10FFFF) {
      fail_syntax(
          name_, line_,
          fmt::format("'\\{}' is not followed by {} hexadecimal digits of a character", source_[at], digits));
    }
    return value;
  }

  const std::string source_;
  const std::string& name_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& name) {
  require(source.size() <= kMaxSourceBytes, "chat template '{}' has {} bytes, at most {} are taken", name,
          source.size(), kMaxSourceBytes);
  require(is_utf8(source), "chat template '{}' is not valid UTF-8", name);
  return Lexer(source, name).run();
}

}  // namespace vertebra::jinja
