#include "base/json.h"

#include "base/error.h"
#include "base/file.h"

namespace vertebra {
namespace {

constexpr int kMaxDepth = 128;

std::string shortened(const Json& value) {
  std::string text = json_line(value);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

}  // namespace

Json parse_json(std::string_view text, std::string_view source) {
  bool too_deep = false;
  const auto bound = [&](int depth, nlohmann::json::parse_event_t, Json&) {
    too_deep |= depth > kMaxDepth;
    return !too_deep;
  };
  try {
    Json value = Json::parse(text.begin(), text.end(), bound);
    require(!too_deep, "{}: JSON nested deeper than {} levels", source, kMaxDepth);
    return value;
  } catch (const nlohmann::json::exception& error) {
    std::string_view reason = error.what();  // "[json.exception.parse_error.101] parse error at line 1, ..."
    if (const auto end = reason.find("] "); end != std::string_view::npos) reason.remove_prefix(end + 2);
    fail(Code::kInvalidArgument, "{}: not valid JSON: {}", source, reason);
  }
}

Json read_json_file(const std::filesystem::path& path) { return parse_json(read_file(path), path.string()); }

void write_json_file(const std::filesystem::path& path, const Json& value) {
  write_file_atomic(path, value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

std::string json_line(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void json_field_missing(const std::string& key, std::string_view source) {
  fail(Code::kInvalidArgument, "{}: key '{}' is missing", source, key);
}

void json_field_wrong(const std::string& key, const Json& found, std::string_view wanted,
                      std::string_view source) {
  fail(Code::kInvalidArgument, "{}: key '{}' is {}, {} was wanted", source, key, shortened(found), wanted);
}

}  // namespace vertebra
