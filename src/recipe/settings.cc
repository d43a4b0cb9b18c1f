#include "recipe/settings.h"

#include <algorithm>

#include "base/error.h"

namespace vertebra {
namespace {

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest_name(const std::string& name, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(3, name.size() / 2 + 1);
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

Settings::Settings(Json table, std::string path, std::string source)
    : table_(std::move(table)), path_(std::move(path)), source_(std::move(source)) {
  require(table_.is_object(), "{}: '{}' is {}, a table was wanted", source_, path_, json_line(table_));
}

std::string Settings::name_of(const std::string& key) const {
  return path_.empty() ? key : path_ + "." + key;
}

void Settings::wrong(const std::string& key, const std::string& wanted) const {
  fail(Code::kInvalidArgument, "{}: {} is {}, {} was wanted", source_, name_of(key),
       json_line(table_.at(key)), wanted);
}

bool Settings::has(const std::string& key) const { return table_.contains(key); }

const Json* Settings::find(const std::string& key) {
  known_.insert(key);
  const auto it = table_.find(key);
  return it == table_.end() ? nullptr : &*it;
}

template <class T>
T Settings::missing_or(const std::string& key, const std::optional<T>& fallback) {
  require(fallback.has_value(), "{}: {} is missing", source_, name_of(key));
  resolved_[key] = *fallback;
  return *fallback;
}

int64_t Settings::integer(const std::string& key, std::optional<int64_t> fallback, int64_t low,
                          int64_t high) {
  const Json* found = find(key);
  if (found == nullptr) return missing_or(key, fallback);
  const auto wanted = fmt::format("a whole number from {} to {}", low, high);
  if (!found->is_number_integer()) wrong(key, wanted);
  const auto value = found->get<int64_t>();
  if (value < low || value > high) wrong(key, wanted);
  resolved_[key] = value;
  return value;
}

double Settings::number(const std::string& key, std::optional<double> fallback, double low, double high) {
  const Json* found = find(key);
  if (found == nullptr) return missing_or(key, fallback);
  const auto wanted = fmt::format("a number from {} to {}", low, high);
  if (!found->is_number()) wrong(key, wanted);
  const auto value = found->get<double>();
  if (!(value >= low && value <= high)) wrong(key, wanted);
  resolved_[key] = value;
  return value;
}

std::optional<int64_t> Settings::integer_if_set(const std::string& key, int64_t low, int64_t high) {
  if (find(key) == nullptr) return std::nullopt;
  return integer(key, std::nullopt, low, high);
}

std::optional<double> Settings::number_if_set(const std::string& key, double low, double high) {
  if (find(key) == nullptr) return std::nullopt;
  return number(key, std::nullopt, low, high);
}

bool Settings::flag(const std::string& key, std::optional<bool> fallback) {
  const Json* found = find(key);
  if (found == nullptr) return missing_or(key, fallback);
  if (!found->is_boolean()) wrong(key, "true or false");
  resolved_[key] = *found;
  return found->get<bool>();
}

std::string Settings::text(const std::string& key, std::optional<std::string> fallback) {
  const Json* found = find(key);
  if (found == nullptr) return missing_or(key, fallback);
  if (!found->is_string()) wrong(key, "a text in quotes");
  resolved_[key] = *found;
  return found->get<std::string>();
}

std::vector<std::string> Settings::texts(const std::string& key,
                                         std::optional<std::vector<std::string>> fallback) {
  const Json* found = find(key);
  if (found == nullptr) return missing_or(key, fallback);
  if (!found->is_array()) wrong(key, "a list of texts");
  std::vector<std::string> out;
  for (const Json& item : *found) {
    if (!item.is_string()) wrong(key, "a list of texts");
    out.push_back(item.get<std::string>());
  }
  resolved_[key] = *found;
  return out;
}

std::string Settings::choice(const std::string& key, std::optional<std::string> fallback,
                             const std::vector<std::string>& choices) {
  const std::string value = text(key, std::move(fallback));
  if (std::find(choices.begin(), choices.end(), value) == choices.end()) {
    const std::string nearest = nearest_name(value, choices);
    wrong(key, fmt::format("one of {}{}", fmt::join(choices, ", "),
                           nearest.empty() ? "" : fmt::format(" (did you mean '{}'?)", nearest)));
  }
  return value;
}

Settings Settings::table(const std::string& key) {
  const Json* found = find(key);
  return Settings(found == nullptr ? Json::object() : *found, name_of(key), source_);
}

std::vector<std::pair<std::string, double>> Settings::numbers(const std::string& key) {
  const Json* found = find(key);
  std::vector<std::pair<std::string, double>> out;
  if (found == nullptr) return out;
  if (!found->is_object()) wrong(key, "a table of numbers");
  for (const auto& [name, value] : found->items()) {
    if (!value.is_number()) wrong(key, "a table of numbers");
    out.emplace_back(name, value.get<double>());
  }
  resolved_[key] = *found;
  return out;
}

void Settings::finish() const {
  for (const auto& [key, value] : table_.items()) {
    if (known_.contains(key)) continue;
    const std::string nearest = nearest_name(key, {known_.begin(), known_.end()});
    fail(Code::kInvalidArgument, "{}: {} is not known{}; known here are: {}", source_, name_of(key),
         nearest.empty() ? "" : fmt::format(" (did you mean '{}'?)", name_of(nearest)),
         fmt::join(known_, ", "));
  }
}

}  // namespace vertebra
