#include "server/http.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace vertebra::server {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  const auto it = headers.find(name);
  return it == headers.end() ? std::string_view() : std::string_view(it->second);
}

std::string percent_decode(std::string_view text, bool plus_is_space) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+' && plus_is_space) {
      out += ' ';
    } else if (text[i] != '%') {
      out += text[i];
    } else {
      const int high = i + 1 < text.size() ? hex_digit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
      require(high >= 0 && low >= 0, "the URL holds a '%' that two hexadecimal digits must follow");
      out += static_cast<char>(high * 16 + low);
      i += 2;
    }
  }
  return out;
}

void parse_target(std::string_view target, HttpRequest& request) {
  require(target.starts_with('/'), "the request target must be a path that begins with '/'");
  const size_t mark = target.find('?');
  request.path = target.substr(0, mark);
  request.segments.clear();
  request.query.clear();
  for (size_t start = 1; start <= request.path.size();) {
    const size_t end = std::min(request.path.find('/', start), request.path.size());
    request.segments.push_back(percent_decode(std::string_view(request.path).substr(start, end - start)));
    start = end + 1;
  }
  if (mark == std::string_view::npos) return;
  std::string_view query = target.substr(mark + 1);
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    if (pair.empty()) continue;
    const size_t equals = std::min(pair.find('='), pair.size());
    const std::string_view value = equals < pair.size() ? pair.substr(equals + 1) : std::string_view();
    request.query.emplace_back(percent_decode(pair.substr(0, equals), true), percent_decode(value, true));
  }
}

bool names_host(std::string_view text, const std::vector<std::string>& allowed) {
  if (const size_t scheme = text.find("://"); scheme != std::string_view::npos)
    text.remove_prefix(scheme + 3);
  const size_t bracket = text.starts_with('[') ? text.find(']') : 0;
  if (bracket == std::string_view::npos) return false;
  const std::string_view host = text.substr(0, text.find(':', bracket));
  return std::any_of(allowed.begin(), allowed.end(),
                     [&](const std::string& each) { return equals_ignoring_case(each, host); });
}

}  // namespace vertebra::server
