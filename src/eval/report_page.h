// The frame of an HTML page that needs nothing else: style sheet, script, escaping and number formats.
// Used by report.cc and report_chart.cc.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace vertebra {

// A text for HTML content or a double-quoted attribute. Bytes that are no UTF-8 and control characters
// other than line end and tab become U+FFFD.
std::string escape_html(std::string_view text);
// A relative path for href: everything but letters, digits and "-._~/" is percent-encoded, so that it
// cannot name another scheme or host.
std::string escape_path(std::string_view path);

// At most `limit` bytes, cut at a character, with an ellipsis where something is missing.
std::string shorten(std::string_view text, size_t limit);

// "1,234,567".
std::string format_count(double value);
// Up to `digits` significant digits, without trailing zeros: "0.0123", "12.3", "1.23e+09".
std::string format_number(double value, int digits = 3);
// "950", "1.5 k", "2.3 M", "4 G": for axes and tiles.
std::string format_compact(double value);
std::string format_percent(double share);

// A finite number of an object; nothing when it is missing, null or of another type.
std::optional<double> number_of(const Json& object, const char* key);
// A text of an object; empty when it is missing or of another type.
std::string text_of(const Json& object, const char* key);

// The page: `body` is HTML, `title` is plain text. A content security policy forbids every load and every
// script but its own.
std::string html_page(std::string_view title, std::string_view body);

}  // namespace vertebra
