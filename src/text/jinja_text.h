// Python's view of text for the Jinja interpreter: strings of code points, str.strip and friends,
// case mapping, repr of strings and floats. UTF-8 throughout.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace vertebra::jinja {

bool is_utf8(std::string_view text);
// Surrogates and values above U+10FFFF become U+FFFD.
void append_code_point(std::string& out, uint32_t code_point);
// Decodes the code point at `at` and moves behind it. The text is valid UTF-8.
uint32_t next_code_point(std::string_view text, size_t& at);

size_t length(std::string_view text);  // in code points
// Byte offset of the code point `index`, or the size.
size_t code_point_offset(std::string_view text, size_t index);
// Byte offset of each code point, and the size at the end.
std::vector<size_t> code_point_offsets(std::string_view text);

bool is_space(uint32_t code_point);      // str.isspace
bool is_printable(uint32_t code_point);  // str.isprintable
bool is_alpha(uint32_t code_point);
bool is_decimal(uint32_t code_point);
bool is_digit(uint32_t code_point);  // str.isdigit: superscripts and digits in circles too
bool is_numeric(uint32_t code_point);
bool is_upper(uint32_t code_point);
bool is_lower(uint32_t code_point);

// `characters` empty: whitespace.
std::string_view lstrip(std::string_view text, std::string_view characters = {});
std::string_view rstrip(std::string_view text, std::string_view characters = {});

std::string lower(std::string_view text);  // str.lower, with final sigma
std::string upper(std::string_view text);  // str.upper, with the special cases ("ß" -> "SS")
std::string title(std::string_view text);  // str.title
std::string capitalize(std::string_view text);
std::string swap_case(std::string_view text);
// str.splitlines(keep_ends), line by line.
void for_each_line(std::string_view text, bool keep_ends, const std::function<void(std::string_view)>& take);
// str.find from byte `from` on, npos where there is none; in linear time whatever the texts are.
size_t find_text(std::string_view text, std::string_view part, size_t from = 0);
std::string replace_all(std::string_view text, std::string_view old_text, std::string_view new_text,
                        int64_t count);  // str.replace; count < 0: all

std::string python_repr(std::string_view text);
std::string python_repr(double value);
// & < > ' " as markupsafe escapes them.
std::string html_escaped(std::string_view text);
// json.dumps of a string.
std::string json_quoted(std::string_view text, bool ensure_ascii);

}  // namespace vertebra::jinja
