// A recipe: one TOML file that reads like a paper's method section. Parsed here into tables; each stage
// (stage.h) reads its own. Knows nothing about what the stages do.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "recipe/settings.h"

namespace vertebra {

struct Recipe {
  std::filesystem::path file;  // where it came from; relative paths in it are relative to its folder
  std::string name;            // names the run's folder
  uint64_t seed = 0;
  Json tables = Json::object();  // model and stages, by name
  std::string text;              // the file as written, for the report

  // A path of the recipe: absolute, or relative to the recipe's folder, or else (as people type it in --set)
  // to the working folder, where it exists there and not beside the recipe.
  std::filesystem::path resolve(const std::string& path) const;
  Settings table(const std::string& name) const;
};

// Reads a recipe and applies overrides "table.key=value" in order (value as TOML; a bare word is taken as a
// text). Throws invalid_argument with file, line and column for broken TOML, and for an override that is
// none.
Recipe load_recipe(const std::filesystem::path& file, const std::vector<std::string>& overrides);

// TOML text as JSON: tables, arrays, numbers, texts, booleans; dates become texts.
Json parse_toml(std::string_view text, const std::string& source);

}  // namespace vertebra
