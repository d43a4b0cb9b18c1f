// JSON values (nlohmann's, keys in insertion order) and parsing of strangers' JSON with bounds and
// errors that name the source and the place.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace vertebra {

using Json = nlohmann::ordered_json;

// `source` names the text in errors ("runs/x/config.json", "line 7 of data.jsonl"). Throws
// invalid_argument with line and column, also for nesting deeper than 128 or broken UTF-8.
Json parse_json(std::string_view text, std::string_view source);
Json read_json_file(const std::filesystem::path& path);

// Indented by two spaces, ending in a newline; invalid UTF-8 is replaced by U+FFFD. Atomic.
void write_json_file(const std::filesystem::path& path, const Json& value);
// One line, no trailing newline; invalid UTF-8 is replaced by U+FFFD.
std::string json_line(const Json& value);

// Field access with errors that name source and key. `json_get<T>(object, "key", source)` throws
// invalid_argument when the key is missing or of another type; the overload with a fallback
// returns it when the key is missing or null.
template <class T>
T json_get(const Json& object, const std::string& key, std::string_view source);
template <class T>
T json_get(const Json& object, const std::string& key, std::string_view source, const T& fallback);

[[noreturn]] void json_field_missing(const std::string& key, std::string_view source);
[[noreturn]] void json_field_wrong(const std::string& key, const Json& found, std::string_view wanted,
                                   std::string_view source);

template <class T>
T json_convert(const Json& value, const std::string& key, std::string_view source) {
  if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) json_field_wrong(key, value, "true or false", source);
  } else if constexpr (std::is_integral_v<T>) {
    if (!value.is_number_integer()) json_field_wrong(key, value, "a whole number", source);
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!value.is_number()) json_field_wrong(key, value, "a number", source);
  } else if constexpr (std::is_same_v<T, std::string>) {
    if (!value.is_string()) json_field_wrong(key, value, "a string", source);
  }
  try {
    return value.template get<T>();
  } catch (const nlohmann::json::exception&) {
    json_field_wrong(key, value, "another type", source);
  }
}

template <class T>
T json_get(const Json& object, const std::string& key, std::string_view source) {
  if (!object.is_object()) json_field_wrong(key, object, "an object around it", source);
  const auto it = object.find(key);
  if (it == object.end()) json_field_missing(key, source);
  return json_convert<T>(*it, key, source);
}

template <class T>
T json_get(const Json& object, const std::string& key, std::string_view source, const T& fallback) {
  if (!object.is_object()) json_field_wrong(key, object, "an object around it", source);
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return fallback;
  return json_convert<T>(*it, key, source);
}

}  // namespace vertebra
