// A JSON object of a request, field by field: each is read once, with its type; what is left over at the end
// is an error, since a field that is ignored is a wish that is not granted.
#pragma once

#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "base/json.h"

namespace vertebra::server {

class Fields {
 public:
  // `path`: what errors call the object ("messages.0.content"); empty for the whole request. The object must
  // outlive this.
  Fields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
    require(object.is_object(), "{}: an object is wanted, {} was sent", path_.empty() ? "the request" : path_,
            kind(object));
  }

  std::string name(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

  // The value, null when absent; counts as read.
  const Json& raw(const std::string& key) {
    static const Json kNull;
    read_.insert(key);
    const auto it = object_.find(key);
    return it == object_.end() ? kNull : *it;
  }
  bool has(const std::string& key) { return !raw(key).is_null(); }
  void ignore(std::initializer_list<const char*> keys) { read_.insert(keys.begin(), keys.end()); }

  const std::string* text(const std::string& key) {
    const Json& value = raw(key);
    if (value.is_null()) return nullptr;
    require(value.is_string(), "{}: a string is wanted, {} was sent", name(key), kind(value));
    return value.get_ptr<const std::string*>();
  }
  const std::string& wanted_text(const std::string& key) {
    const std::string* value = text(key);
    require(value != nullptr, "{}: field required", name(key));
    return *value;
  }
  std::optional<double> number(const std::string& key, double least, double most) {
    const Json& value = raw(key);
    if (value.is_null()) return std::nullopt;
    require(value.is_number(), "{}: a number is wanted, {} was sent", name(key), kind(value));
    const auto out = value.get<double>();
    require(out >= least && out <= most, "{}: {} was sent, a number from {} to {} is wanted", name(key), out,
            least, most);
    return out;
  }
  std::optional<int64_t> integer(const std::string& key, int64_t least, int64_t most) {
    const Json& value = raw(key);
    if (value.is_null()) return std::nullopt;
    // A number that does not fit int64_t would wrap.
    const bool whole = value.is_number_integer() &&
                       (!value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{INT64_MAX});
    require(whole, "{}: a whole number is wanted, {} was sent", name(key),
            value.is_number() ? value.dump() : kind(value));
    const auto out = value.get<int64_t>();
    require(out >= least && out <= most, "{}: {} was sent, a number from {} to {} is wanted", name(key), out,
            least, most);
    return out;
  }
  bool flag(const std::string& key, bool fallback) {
    const Json& value = raw(key);
    if (value.is_null()) return fallback;
    require(value.is_boolean(), "{}: true or false is wanted, {} was sent", name(key), kind(value));
    return value.get<bool>();
  }
  const Json& list(const std::string& key) {
    const Json& value = raw(key);
    require(value.is_null() || value.is_array(), "{}: a list is wanted, {} was sent", name(key), kind(value));
    return value;
  }

  // Throws invalid_argument naming the first field that nobody read.
  void finish() const {
    for (const auto& [key, value] : object_.items())
      require(read_.contains(key), "{}: this field is not known here", name(key));
  }

  static std::string kind(const Json& value) {
    return value.is_null()      ? "null"
           : value.is_object()  ? "an object"
           : value.is_array()   ? "a list"
           : value.is_string()  ? "a string"
           : value.is_boolean() ? "true or false"
                                : "a number";
  }

 private:
  const Json& object_;
  std::string path_;
  std::set<std::string> read_;
};

}  // namespace vertebra::server
