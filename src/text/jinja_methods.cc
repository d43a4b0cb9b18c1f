// Methods of strings, lists, tuples and dictionaries: those that read. What would change a list or a
// dictionary is refused, as jinja2's immutable sandbox does.
#include <algorithm>
#include <map>

#include "text/jinja_text.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

using Values = std::vector<Value>;
using Method = Value (*)(Runtime&, const Value& self, Arguments&);

std::string optional_text(Runtime& rt, const std::optional<Value>& value, std::string_view what) {
  return value && !value->is_none() ? rt.to_text(*value, what) : std::string();
}

// ---- strings
Value strip_with(Runtime& rt, std::string_view name, const Value& self, Arguments& args, bool left,
                 bool right) {
  const auto bound = rt.bind(name, args, {"chars"});
  std::string_view text = self.text();
  const bool has_chars = bound[0] && !bound[0]->is_none();
  const std::string chars = optional_text(rt, bound[0], "the characters to strip");
  if (has_chars && chars.empty()) return self;
  rt.step(text.size() * (chars.size() + 1) / 16);
  if (left) text = lstrip(text, chars);
  if (right) text = rstrip(text, chars);
  return rt.string(std::string(text));
}
Value str_strip(Runtime& rt, const Value& self, Arguments& args) {
  return strip_with(rt, "strip", self, args, true, true);
}
Value str_lstrip(Runtime& rt, const Value& self, Arguments& args) {
  return strip_with(rt, "lstrip", self, args, true, false);
}
Value str_rstrip(Runtime& rt, const Value& self, Arguments& args) {
  return strip_with(rt, "rstrip", self, args, false, true);
}

// Searching from the right takes the product of the sizes on texts made for that.
void step_rfind(Runtime& rt, std::string_view text, std::string_view part) {
  rt.step(text.size() / 16 * (1 + part.size() / 16));
}

Values words_from_left(Runtime& rt, std::string_view text, int64_t limit) {
  Values out;
  for (text = lstrip(text); !text.empty(); text = lstrip(text)) {
    if (static_cast<int64_t>(out.size()) == limit) {
      out.push_back(rt.string(std::string(text)));
      break;
    }
    size_t end = 0, next = 0;
    while (end < text.size() && !is_space(next_code_point(text, next))) end = next;
    out.push_back(rt.string(std::string(text.substr(0, end))));
    text.remove_prefix(end);
  }
  return out;
}

Values words_from_right(Runtime& rt, std::string_view text, int64_t limit) {
  Values out;
  for (text = rstrip(text); !text.empty(); text = rstrip(text)) {
    if (static_cast<int64_t>(out.size()) == limit) {
      out.push_back(rt.string(std::string(text)));
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      size_t before = begin - 1;
      while (before > 0 && (text[before] & 0xC0) == 0x80) --before;
      size_t next = before;
      if (is_space(next_code_point(text, next))) break;
      begin = before;
    }
    out.push_back(rt.string(std::string(text.substr(begin))));
    text = text.substr(0, begin);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

Value split_with(Runtime& rt, std::string_view name, const Value& self, Arguments& args, bool from_right) {
  const auto bound = rt.bind(name, args, {"sep", "maxsplit"});
  const int64_t limit = bound[1] ? rt.to_int(*bound[1], "maxsplit") : -1;
  const std::string& text = self.text();
  rt.step_bytes(text.size());
  if (!bound[0] || bound[0]->is_none()) {
    return rt.list(from_right ? words_from_right(rt, text, limit) : words_from_left(rt, text, limit));
  }
  const std::string& separator = rt.to_text(*bound[0], "the separator");
  if (separator.empty()) rt.fail("'{}': the separator is empty", name);
  Values out;
  if (from_right) {
    step_rfind(rt, text, separator);
    size_t end = text.size();
    while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
      const size_t found =
          end < separator.size() ? std::string::npos : text.rfind(separator, end - separator.size());
      if (found == std::string::npos) break;
      out.push_back(rt.string(text.substr(found + separator.size(), end - found - separator.size())));
      end = found;
    }
    out.push_back(rt.string(text.substr(0, end)));
    std::reverse(out.begin(), out.end());
  } else {
    size_t begin = 0;
    while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
      const size_t found = find_text(text, separator, begin);
      if (found == std::string::npos) break;
      rt.step_bytes(separator.size());
      out.push_back(rt.string(text.substr(begin, found - begin)));
      begin = found + separator.size();
    }
    out.push_back(rt.string(text.substr(begin)));
  }
  return rt.list(std::move(out));
}
Value str_split(Runtime& rt, const Value& self, Arguments& args) {
  return split_with(rt, "split", self, args, false);
}
Value str_rsplit(Runtime& rt, const Value& self, Arguments& args) {
  return split_with(rt, "rsplit", self, args, true);
}

Value str_splitlines(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("splitlines", args, {"keepends"});
  const bool keep_ends = bound[0] && rt.truth(*bound[0]);
  Values out;
  for_each_line(self.text(), keep_ends,
                [&](std::string_view line) { out.push_back(rt.string(std::string(line))); });
  return rt.list(std::move(out));
}

// text[start:end] for the methods that take such bounds.
Value bounded(Runtime& rt, const Value& self, const std::optional<Value>& begin,
              const std::optional<Value>& end) {
  rt.step_bytes(self.text().size());
  if (!begin && !end) return self;
  return rt.slice(self, begin ? *begin : Value(), end ? *end : Value(), Value());
}

Value affix(Runtime& rt, std::string_view name, const Value& self, Arguments& args, bool front) {
  const auto bound = rt.bind(name, args, {"affix", "start", "end"});
  if (!bound[0]) rt.fail("'{}' wants a string", name);
  const Value text = bounded(rt, self, bound[1], bound[2]);
  const Values candidates = bound[0]->is(Kind::kTuple) ? bound[0]->items() : Values{*bound[0]};
  for (const Value& candidate : candidates) {
    const std::string& part = rt.to_text(candidate, fmt::format("'{}': the argument", name));
    if (front ? text.text().starts_with(part) : text.text().ends_with(part)) return Value(true);
  }
  return Value(false);
}
Value str_startswith(Runtime& rt, const Value& self, Arguments& args) {
  return affix(rt, "startswith", self, args, true);
}
Value str_endswith(Runtime& rt, const Value& self, Arguments& args) {
  return affix(rt, "endswith", self, args, false);
}

Value str_removeprefix(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("removeprefix", args, {"prefix"});
  const std::string part = optional_text(rt, bound[0], "the prefix");
  return self.text().starts_with(part) ? rt.string(self.text().substr(part.size())) : self;
}
Value str_removesuffix(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("removesuffix", args, {"suffix"});
  const std::string part = optional_text(rt, bound[0], "the suffix");
  return self.text().ends_with(part) ? rt.string(self.text().substr(0, self.text().size() - part.size()))
                                     : self;
}

Value str_replace(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("replace", args, {"old", "new", "count"});
  if (!bound[0] || !bound[1]) rt.fail("'replace' wants what to replace and by what");
  const std::string& new_text = rt.to_text(*bound[1], "'replace': new");
  return rt.string(replaced(rt, self.text(), rt.to_text(*bound[0], "'replace': old"),
                            self.is_markup() ? rt.escaped(*bound[1]) : new_text,
                            bound[2] ? rt.to_int(*bound[2], "'replace': count") : -1));
}

Value find_with(Runtime& rt, std::string_view name, const Value& self, Arguments& args, bool last,
                bool required) {
  const auto bound = rt.bind(name, args, {"sub", "start", "end"});
  if (!bound[0]) rt.fail("'{}' wants a string", name);
  const std::string& wanted = rt.to_text(*bound[0], "what to find");
  const Value text = bounded(rt, self, bound[1], bound[2]);
  if (last) step_rfind(rt, text.text(), wanted);
  const size_t at = last ? text.text().rfind(wanted) : find_text(text.text(), wanted);
  if (at == std::string::npos) {
    if (required) rt.fail("'{}': '{}' was not found", name, wanted.substr(0, 40));
    return Value(int64_t{-1});
  }
  int64_t offset = 0;
  if (bound[1] && !bound[1]->is_none()) {
    offset = rt.to_int(*bound[1], "start");
    if (offset < 0) offset = std::max<int64_t>(0, offset + rt.length(self));
  }
  return Value(static_cast<int64_t>(length(std::string_view(text.text()).substr(0, at))) + offset);
}
Value str_find(Runtime& rt, const Value& self, Arguments& args) {
  return find_with(rt, "find", self, args, false, false);
}
Value str_rfind(Runtime& rt, const Value& self, Arguments& args) {
  return find_with(rt, "rfind", self, args, true, false);
}
Value str_index(Runtime& rt, const Value& self, Arguments& args) {
  return find_with(rt, "index", self, args, false, true);
}

Value str_rindex(Runtime& rt, const Value& self, Arguments& args) {
  return find_with(rt, "rindex", self, args, true, true);
}

Value str_count(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("count", args, {"sub", "start", "end"});
  if (!bound[0]) rt.fail("'count' wants a string");
  const std::string& wanted = rt.to_text(*bound[0], "what to count");
  const Value text = bounded(rt, self, bound[1], bound[2]);
  if (wanted.empty()) return Value(rt.length(text) + 1);
  int64_t count = 0;
  for (size_t at = find_text(text.text(), wanted); at != std::string::npos;
       at = find_text(text.text(), wanted, at + wanted.size())) {
    rt.step_bytes(wanted.size());
    ++count;
  }
  return Value(count);
}

template <std::string (*Map)(std::string_view)>
Value mapped(Runtime& rt, const Value& self, Arguments& args) {
  rt.bind("this method", args, {});
  rt.check_growth(self.text().size());
  return rt.string(Map(self.text()));
}

template <bool (*Holds)(uint32_t)>
Value all_are(Runtime& rt, const Value& self, Arguments& args) {
  rt.bind("this method", args, {});
  rt.step_bytes(self.text().size());
  for (size_t at = 0; at < self.text().size();) {
    if (!Holds(next_code_point(self.text(), at))) return Value(false);
  }
  return Value(!self.text().empty());
}
bool is_alphanumeric(uint32_t c) { return is_alpha(c) || is_numeric(c); }

// str.isupper and str.islower: every letter with case has the right one, and there is one.
template <bool (*Right)(uint32_t), bool (*Wrong)(uint32_t)>
Value cased(Runtime& rt, const Value& self, Arguments& args) {
  rt.bind("this method", args, {});
  rt.step_bytes(self.text().size());
  bool any = false;
  for (size_t at = 0; at < self.text().size();) {
    const uint32_t c = next_code_point(self.text(), at);
    if (Wrong(c)) return Value(false);
    any |= Right(c);
  }
  return Value(any);
}

Value str_isascii(Runtime& rt, const Value& self, Arguments& args) {
  rt.bind("isascii", args, {});
  rt.step_bytes(self.text().size());
  return Value(std::all_of(self.text().begin(), self.text().end(), [](char c) { return (c & 0x80) == 0; }));
}

Value str_join(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("join", args, {"iterable"});
  if (!bound[0]) rt.fail("'join' wants a list of strings");
  std::string out;
  bool first = true;
  for (const Value& item : rt.iterate(*bound[0])) {
    if (!std::exchange(first, false)) out += self.text();
    out += self.is_markup() ? rt.escaped(item) : rt.to_text(item, "'join': an item");
    rt.check_room(out.size());
  }
  return rt.string(std::move(out));
}

Value str_format(Runtime& rt, const Value& self, Arguments& args) { return brace_format(rt, self, args); }

Value partition(Runtime& rt, std::string_view name, const Value& self, Arguments& args, bool last) {
  const auto bound = rt.bind(name, args, {"sep"});
  const std::string separator = optional_text(rt, bound[0], "the separator");
  if (separator.empty()) rt.fail("'{}': the separator is empty", name);
  const std::string& text = self.text();
  rt.step_bytes(text.size());
  if (last) step_rfind(rt, text, separator);
  const size_t at = last ? text.rfind(separator) : find_text(text, separator);
  if (at == std::string::npos) {
    return rt.sequence(Kind::kTuple, last ? Values{rt.string(""), rt.string(""), self}
                                          : Values{self, rt.string(""), rt.string("")});
  }
  return rt.sequence(Kind::kTuple, {rt.string(text.substr(0, at)), rt.string(separator),
                                    rt.string(text.substr(at + separator.size()))});
}
Value str_partition(Runtime& rt, const Value& self, Arguments& args) {
  return partition(rt, "partition", self, args, false);
}
Value str_rpartition(Runtime& rt, const Value& self, Arguments& args) {
  return partition(rt, "rpartition", self, args, true);
}

Value justified(Runtime& rt, std::string_view name, const Value& self, Arguments& args, char side) {
  const auto bound = rt.bind(name, args, {"width", "fillchar"});
  if (!bound[0]) rt.fail("'{}' wants a width", name);
  const int64_t width = rt.to_int(*bound[0], "the width");
  const std::string fill = side == '0' ? "0" : bound[1] ? rt.to_text(*bound[1], "fillchar") : " ";
  if (length(fill) != 1) rt.fail("'{}': fillchar wants one character", name);
  const int64_t missing = width - rt.length(self);
  if (missing <= 0) return self;
  if (missing > (int64_t{1} << 40)) rt.check_room(uint64_t{1} << 62);
  rt.check_room(static_cast<uint64_t>(missing) * fill.size() + self.text().size());
  int64_t left = side == '<' ? 0 : side == '^' ? missing / 2 + (missing & width & 1) : missing;
  std::string out;
  const bool signed_number =
      side == '0' && !self.text().empty() && (self.text()[0] == '-' || self.text()[0] == '+');
  if (signed_number) out += self.text()[0];
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += std::string_view(self.text()).substr(signed_number ? 1 : 0);
  for (int64_t i = left; i < missing; ++i) out += fill;
  return rt.string(std::move(out));
}
Value str_ljust(Runtime& rt, const Value& self, Arguments& args) {
  return justified(rt, "ljust", self, args, '<');
}
Value str_rjust(Runtime& rt, const Value& self, Arguments& args) {
  return justified(rt, "rjust", self, args, '>');
}
Value str_center(Runtime& rt, const Value& self, Arguments& args) {
  return justified(rt, "center", self, args, '^');
}
Value str_zfill(Runtime& rt, const Value& self, Arguments& args) {
  return justified(rt, "zfill", self, args, '0');
}

// ---- dictionaries
const Mapping& mapping_of(const Value& self) { return static_cast<const Mapping&>(*self.object()); }

Value dict_items(Runtime& rt, const Value& self, Arguments& args) {
  rt.bind("items", args, {});
  Values out;
  for (const auto& [key, value] : mapping_of(self).entries)
    out.push_back(rt.sequence(Kind::kTuple, {key, value}));
  return rt.sequence(Kind::kView, std::move(out), "dict_items");
}
Value dict_keys(Runtime& rt, const Value& self, Arguments& args) {
  rt.bind("keys", args, {});
  return rt.sequence(Kind::kView, rt.iterate(self), "dict_keys");
}
Value dict_values(Runtime& rt, const Value& self, Arguments& args) {
  rt.bind("values", args, {});
  Values out;
  for (const auto& entry : mapping_of(self).entries) out.push_back(entry.second);
  return rt.sequence(Kind::kView, std::move(out), "dict_values");
}
Value dict_get(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("get", args, {"key", "default"});
  if (!bound[0]) rt.fail("'get' wants a key");
  if (const Value* found = rt.find(self, *bound[0])) return *found;
  return bound[1] ? *bound[1] : Value();
}
Value copy_of(Runtime& rt, const Value& self, Arguments& args) {
  rt.bind("copy", args, {});
  return self;
}

// ---- lists and tuples
Value list_index(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("index", args, {"value"});
  if (!bound[0]) rt.fail("'index' wants a value");
  for (size_t i = 0; i < self.items().size(); ++i) {
    if (rt.equal(self.items()[i], *bound[0])) return Value(static_cast<int64_t>(i));
  }
  rt.fail("'index': the value is not in the list");
}
Value list_count(Runtime& rt, const Value& self, Arguments& args) {
  const auto bound = rt.bind("count", args, {"value"});
  if (!bound[0]) rt.fail("'count' wants a value");
  int64_t count = 0;
  for (const Value& item : self.items()) count += rt.equal(item, *bound[0]);
  return Value(count);
}

Value refuse_change(Runtime& rt, const Value& self, Arguments&) {
  rt.fail("a {} cannot be changed in a template: build a new one with '+', or keep state in a namespace()",
          rt.type_name(self));
}

// What a method of markup gives: strings, also in lists and tuples, are markup again.
Value as_markup(Runtime& rt, const Value& value) {
  if (value.is_string()) return value.is_markup() ? value : rt.markup(value.text());
  if (!value.is(Kind::kList) && !value.is(Kind::kTuple)) return value;
  Values out;
  for (const Value& item : value.items()) out.push_back(as_markup(rt, item));
  return rt.sequence(value.kind(), std::move(out));
}

using Table = std::map<std::string_view, Method>;

const Table& string_methods() {
  static const Table kTable = {
      {"capitalize", mapped<capitalize>},
      {"casefold", mapped<lower>},
      {"center", str_center},
      {"count", str_count},
      {"endswith", str_endswith},
      {"find", str_find},
      {"format", str_format},
      {"index", str_index},
      {"isalnum", all_are<is_alphanumeric>},
      {"isalpha", all_are<is_alpha>},
      {"isascii", str_isascii},
      {"isdecimal", all_are<is_decimal>},
      {"isdigit", all_are<is_digit>},
      {"islower", cased<is_lower, is_upper>},
      {"isnumeric", all_are<is_numeric>},
      {"isspace", all_are<is_space>},
      {"swapcase", mapped<swap_case>},
      {"isupper", cased<is_upper, is_lower>},
      {"join", str_join},
      {"ljust", str_ljust},
      {"lower", mapped<lower>},
      {"lstrip", str_lstrip},
      {"partition", str_partition},
      {"removeprefix", str_removeprefix},
      {"removesuffix", str_removesuffix},
      {"replace", str_replace},
      {"rfind", str_rfind},
      {"rindex", str_rindex},
      {"rjust", str_rjust},
      {"rpartition", str_rpartition},
      {"rsplit", str_rsplit},
      {"rstrip", str_rstrip},
      {"split", str_split},
      {"splitlines", str_splitlines},
      {"startswith", str_startswith},
      {"strip", str_strip},
      {"title", mapped<title>},
      {"upper", mapped<upper>},
      {"zfill", str_zfill},
  };
  return kTable;
}

const Table& dict_methods() {
  static const Table kTable = {
      {"clear", refuse_change},   {"copy", copy_of},
      {"get", dict_get},          {"items", dict_items},
      {"keys", dict_keys},        {"pop", refuse_change},
      {"popitem", refuse_change}, {"setdefault", refuse_change},
      {"update", refuse_change},  {"values", dict_values},
  };
  return kTable;
}

const Table& list_methods() {
  static const Table kTable = {
      {"append", refuse_change},  {"clear", refuse_change},  {"copy", copy_of},
      {"count", list_count},      {"extend", refuse_change}, {"index", list_index},
      {"insert", refuse_change},  {"pop", refuse_change},    {"remove", refuse_change},
      {"reverse", refuse_change}, {"sort", refuse_change},
  };
  return kTable;
}

const Table& tuple_methods() {
  static const Table kTable = {{"count", list_count}, {"index", list_index}};
  return kTable;
}

}  // namespace

std::optional<Value> find_method(Runtime& runtime, const Value& object, std::string_view name) {
  const Table* table = object.is_string()                                   ? &string_methods()
                       : object.is_dict()                                   ? &dict_methods()
                       : object.is(Kind::kList)                             ? &list_methods()
                       : object.is(Kind::kTuple) || object.is(Kind::kRange) ? &tuple_methods()
                                                                            : nullptr;
  if (table == nullptr) return std::nullopt;
  const auto at = table->find(name);
  if (at == table->end()) return std::nullopt;
  const Method method = at->second;
  if (object.is_markup()) {
    return runtime.function(std::string(name), [method, object](Runtime& rt, Arguments& arguments) {
      return as_markup(rt, method(rt, object, arguments));
    });
  }
  return runtime.function(
      std::string(name),
      [method, object](Runtime& rt, Arguments& arguments) { return method(rt, object, arguments); },
      object.depth());
}

}  // namespace vertebra::jinja
