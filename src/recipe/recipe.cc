#include "recipe/recipe.h"

#include <toml++/toml.h>

#include <sstream>

#include "base/error.h"
#include "base/file.h"

namespace vertebra {
namespace {

Json to_json(const toml::node& node) {
  if (const auto* table = node.as_table()) {
    Json out = Json::object();
    for (const auto& [key, value] : *table) out[std::string(key.str())] = to_json(value);
    return out;
  }
  if (const auto* array = node.as_array()) {
    Json out = Json::array();
    for (const auto& value : *array) out.push_back(to_json(value));
    return out;
  }
  if (const auto* value = node.as_boolean()) return value->get();
  if (const auto* value = node.as_integer()) return value->get();
  if (const auto* value = node.as_floating_point()) return value->get();
  if (const auto* value = node.as_string()) return value->get();
  std::ostringstream out;
  node.visit([&](const auto& value) {
    if constexpr (toml::is_value<decltype(value)>) out << value.get();
  });
  return out.str();
}

// "a.b.c=value" into the nested tables.
void apply_override(Json& tables, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  require(equals != std::string::npos && equals > 0,
          "--set {}: KEY=VALUE was wanted, such as --set pretrain.steps=50", assignment);
  const std::string key = assignment.substr(0, equals), value = assignment.substr(equals + 1);
  Json parsed;
  try {
    parsed = parse_toml("value = " + value, "--set").at("value");
  } catch (const Error&) {
    parsed = value;
  }
  Json* place = &tables;
  for (size_t start = 0;;) {
    const size_t dot = key.find('.', start);
    const std::string part = key.substr(start, dot - start);
    require(!part.empty(), "--set {}: the key has an empty part", assignment);
    require(place->is_object(), "--set {}: '{}' is no table", assignment, key.substr(0, start - 1));
    place = &(*place)[part];
    if (dot == std::string::npos) break;
    if (place->is_null()) *place = Json::object();
    start = dot + 1;
  }
  *place = parsed;
}

}  // namespace

Json parse_toml(std::string_view text, const std::string& source) {
  try {
    return to_json(toml::parse(text, source));
  } catch (const toml::parse_error& error) {
    fail(Code::kInvalidArgument, "{}:{}:{}: not valid TOML: {}", source, error.source().begin.line,
         error.source().begin.column, error.description());
  }
}

std::filesystem::path Recipe::resolve(const std::string& path) const {
  const std::filesystem::path given(path);
  if (given.is_absolute()) return given;
  const std::filesystem::path beside = (file.parent_path() / given).lexically_normal();
  return !std::filesystem::exists(beside) && std::filesystem::exists(given) ? given : beside;
}

Settings Recipe::table(const std::string& table_name) const {
  return Settings(tables.value(table_name, Json::object()), table_name, file.string());
}

Recipe load_recipe(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  Recipe recipe;
  recipe.file = file;
  recipe.text = read_file(file);
  recipe.tables = parse_toml(recipe.text, file.string());
  for (const std::string& assignment : overrides) apply_override(recipe.tables, assignment);
  Settings top(recipe.tables, "", file.string());
  recipe.name = top.text("name", file.stem().string());
  const bool plain =
      !recipe.name.empty() && recipe.name.find('/') == std::string::npos && recipe.name[0] != '.';
  require(plain, "{}: name is '{}', a plain folder name was wanted", file.string(), recipe.name);
  recipe.seed = static_cast<uint64_t>(top.integer("seed", 1, 0, INT64_MAX));
  recipe.tables.erase("name");
  recipe.tables.erase("seed");
  return recipe;
}

}  // namespace vertebra
