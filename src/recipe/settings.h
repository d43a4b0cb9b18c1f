// One table of a recipe while it is read: typed access with bounds and defaults, errors that name the
// key, and a complete record of what was used. An unknown key is an error naming the nearest known one.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"

namespace vertebra {

class Settings {
 public:
  // `path`: the table's name in messages ("pretrain"; empty for the top level); `source`: the recipe's file.
  Settings(Json table, std::string path, std::string source);

  bool has(const std::string& key) const;

  // Each reads one key; without a fallback a missing key is an error. Numbers must lie in [low, high].
  int64_t integer(const std::string& key, std::optional<int64_t> fallback, int64_t low, int64_t high);
  double number(const std::string& key, std::optional<double> fallback, double low, double high);
  // Nothing for a missing key, whose value is decided later.
  std::optional<int64_t> integer_if_set(const std::string& key, int64_t low, int64_t high);
  std::optional<double> number_if_set(const std::string& key, double low, double high);
  bool flag(const std::string& key, std::optional<bool> fallback);
  std::string text(const std::string& key, std::optional<std::string> fallback);
  std::vector<std::string> texts(const std::string& key, std::optional<std::vector<std::string>> fallback);
  // One of `choices`.
  std::string choice(const std::string& key, std::optional<std::string> fallback,
                     const std::vector<std::string>& choices);
  // A table below this one (empty when missing); its own finish() is the caller's.
  Settings table(const std::string& key);
  // Table of numbers with free keys (the gate's thresholds).
  std::vector<std::pair<std::string, double>> numbers(const std::string& key);

  // Call when all keys are read: throws invalid_argument for a key that nothing read.
  void finish() const;
  // Every key that was read with the value used; goes into the manifest.
  const Json& resolved() const { return resolved_; }
  std::string name_of(const std::string& key) const;  // "pretrain.steps"
  [[noreturn]] void wrong(const std::string& key, const std::string& wanted) const;

 private:
  const Json* find(const std::string& key);  // notes the key as known; null when missing
  template <class T>
  T missing_or(const std::string& key, const std::optional<T>& fallback);

  Json table_;
  std::string path_, source_;
  std::set<std::string> known_;
  Json resolved_ = Json::object();
};

// The candidate with the smallest edit distance, or empty when none is near.
std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates);

}  // namespace vertebra
