// The filters of the Jinja interpreter: one function each, and the table that names them. Those that make
// text of text are in jinja_text_filters.cc.
#include <algorithm>
#include <cmath>
#include <map>

#include "text/jinja_text.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

using Values = std::vector<Value>;

// ---- numbers
Value filter_abs(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("abs", args, {});
  if (v.is(Kind::kFloat)) return Value(std::abs(v.number()));
  const int64_t value = rt.to_int(v, "'abs': the value");
  return value < 0 ? arithmetic(rt, "-", Value(int64_t{0}), Value(value)) : Value(value);
}

Value filter_int(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("int", args, {"default", "base"});
  const Value fallback = bound[0] ? *bound[0] : Value(int64_t{0});
  const int64_t base = bound[1] ? rt.to_int(*bound[1], "'int': base") : 10;
  if (v.is_integral()) return Value(v.integer());
  if (v.is(Kind::kHuge)) return v;
  if (v.is_undefined()) rt.fail_undefined(v);
  double number = 0;
  if (v.is(Kind::kFloat)) {
    number = v.number();
  } else if (v.is_string()) {
    rt.step_bytes(v.text().size());
    if (const auto integer = parse_integer(v.text(), base)) return Value(*integer);
    const auto parsed = parse_float(v.text());
    if (!parsed) return fallback;
    number = *parsed;
  } else {
    return fallback;
  }
  if (!std::isfinite(number)) return fallback;
  number = std::trunc(number);
  if (std::abs(number) >= 9.2e18) rt.fail("'int': {} does not fit into 64 bits", number);
  return Value(static_cast<int64_t>(number));
}

Value filter_float(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("float", args, {"default"});
  if (v.is_undefined()) rt.fail_undefined(v);
  if (v.is_number()) return Value(v.number());
  if (v.is_string()) {
    rt.step_bytes(v.text().size());
    if (const auto parsed = parse_float(v.text())) return Value(*parsed);
  }
  return bound[0] ? *bound[0] : Value(0.0);
}

Value filter_round(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("round", args, {"precision", "method"});
  const int64_t precision = bound[0] ? rt.to_int(*bound[0], "'round': precision") : 0;
  const std::string method = bound[1] ? rt.str(*bound[1]) : "common";
  if (!v.is_number()) rt.fail("'round' wants a number, found {}", rt.type_name(v));
  if (precision < -300 || precision > 300) rt.fail("'round': precision {} is out of range", precision);
  if (method != "common") {
    if (method != "ceil" && method != "floor")
      rt.fail("'round': method '{}' is not common, ceil or floor", method);
    const double scale = std::pow(10.0, static_cast<double>(precision));
    return Value((method == "ceil" ? std::ceil(v.number() * scale) : std::floor(v.number() * scale)) / scale);
  }
  if (v.is_integral()) return Value(v.integer());
  if (precision >= 0) return Value(*parse_float(fmt::format("{:.{}f}", v.number(), precision)));
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  return Value(std::nearbyint(v.number() / scale) * scale);
}

// ---- sequences and dictionaries
Value filter_default(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("default", args, {"default_value", "boolean"});
  if (v.is_undefined() || (rt.flag(bound[1], false) && !rt.truth(v)))
    return bound[0] ? *bound[0] : rt.string("");
  return v;
}

Value filter_length(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("length", args, {});
  return Value(rt.length(v));
}

Value filter_first(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("first", args, {});
  if (v.is(Kind::kGenerator)) {
    auto& generator = static_cast<Sequence&>(*v.object());
    if (generator.consumed < generator.items.size()) return generator.items[generator.consumed++];
    return rt.undefined("no first item, sequence was empty");
  }
  const Values items = rt.iterate(v);
  return items.empty() ? rt.undefined("no first item, sequence was empty") : items.front();
}

Value filter_last(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("last", args, {});
  if (v.is(Kind::kGenerator)) rt.fail("'last' wants a list: put '| list' before it");
  const Values items = rt.iterate(v);
  return items.empty() ? rt.undefined("no last item, sequence was empty") : items.back();
}

Value filter_list(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("list", args, {});
  return rt.list(rt.iterate(v));
}

Value filter_items(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("items", args, {});
  if (v.is_undefined()) return rt.generator({});
  if (!v.is_dict()) rt.fail("'items' wants a dictionary, found {}", rt.type_name(v));
  Values out;
  for (const auto& [key, value] : static_cast<const Mapping&>(*v.object()).entries) {
    out.push_back(rt.sequence(Kind::kTuple, {key, value}));
  }
  return rt.generator(std::move(out));
}

Value filter_reverse(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("reverse", args, {});
  if (v.is_string()) return rt.slice(v, Value(), Value(), Value(int64_t{-1}));
  Values items = rt.iterate(v);
  std::reverse(items.begin(), items.end());
  return rt.generator(std::move(items));
}

// What sorting compares: the item or its attribute, in lower case unless case matters.
Value sort_key(Runtime& rt, const Value& item, const std::optional<Value>& attribute, bool case_sensitive) {
  const Value key = attribute && !attribute->is_none() ? attribute_path(rt, item, *attribute) : item;
  return !case_sensitive && key.is_string() ? rt.string(lower(key.text())) : key;
}

// Sort keys may be lists of attributes ("a,b").
Values sort_keys(Runtime& rt, const Value& item, const std::optional<Value>& attribute, bool case_sensitive) {
  if (!attribute || !attribute->is_string()) return {sort_key(rt, item, attribute, case_sensitive)};
  Values out;
  const std::string& path = attribute->text();
  for (size_t begin = 0; begin <= path.size();) {
    const size_t comma = std::min(path.find(',', begin), path.size());
    out.push_back(sort_key(rt, item, rt.string(path.substr(begin, comma - begin)), case_sensitive));
    begin = comma + 1;
  }
  return out;
}

Values sorted(Runtime& rt, const Values& items, const std::optional<Value>& attribute, bool case_sensitive,
              bool reverse) {
  std::vector<std::pair<Value, size_t>> order;
  for (size_t i = 0; i < items.size(); ++i) {
    order.emplace_back(rt.sequence(Kind::kTuple, sort_keys(rt, items[i], attribute, case_sensitive)), i);
  }
  merge_sort(order, [&](const auto& a, const auto& b) {
    return reverse ? rt.less(b.first, a.first) : rt.less(a.first, b.first);
  });
  Values out;
  for (const auto& [key, i] : order) out.push_back(items[i]);
  return out;
}

Value filter_sort(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("sort", args, {"reverse", "case_sensitive", "attribute"});
  return rt.list(sorted(rt, rt.iterate(v), bound[2], rt.flag(bound[1], false), rt.flag(bound[0], false)));
}

Value filter_dictsort(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = bound[1] ? rt.str(*bound[1]) : "key";
  if (by != "key" && by != "value") rt.fail("'dictsort': by is '{}', wanted: key or value", by);
  if (v.is_undefined()) rt.fail_undefined(v);
  Arguments none;
  const Values pairs = rt.iterate(filter_items(rt, v, none));
  return rt.list(
      sorted(rt, pairs, Value(int64_t{by == "value"}), rt.flag(bound[0], false), rt.flag(bound[2], false)));
}

Value filter_unique(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("unique", args, {"case_sensitive", "attribute"});
  Values out;
  Value seen = rt.dict({});
  std::vector<std::pair<Value, Value>> keys;
  auto& mapping = static_cast<Mapping&>(*seen.object());
  for (const Value& item : rt.iterate(v)) {
    Value key = sort_key(rt, item, bound[1], rt.flag(bound[0], false));
    const Value one = rt.dict({{key, Value()}});
    const std::string canonical = static_cast<Mapping&>(*one.object()).index.begin()->first;
    mapping.charge(canonical.size() + 64);
    if (mapping.index.try_emplace(canonical, 0).second) out.push_back(item);
  }
  return rt.generator(std::move(out));
}

Value extreme(Runtime& rt, std::string_view name, const Value& v, Arguments& args, bool maximum) {
  const auto bound = rt.bind(name, args, {"case_sensitive", "attribute"});
  const Values items = rt.iterate(v);
  if (items.empty()) return rt.undefined("no item, sequence was empty");
  const bool case_sensitive = rt.flag(bound[0], false);
  size_t best = 0;
  Value best_key = sort_key(rt, items[0], bound[1], case_sensitive);
  for (size_t i = 1; i < items.size(); ++i) {
    Value key = sort_key(rt, items[i], bound[1], case_sensitive);
    if (maximum ? rt.less(best_key, key) : rt.less(key, best_key)) {
      best = i;
      best_key = std::move(key);
    }
  }
  return items[best];
}
Value filter_max(Runtime& rt, const Value& v, Arguments& args) { return extreme(rt, "max", v, args, true); }
Value filter_min(Runtime& rt, const Value& v, Arguments& args) { return extreme(rt, "min", v, args, false); }

Value filter_sum(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("sum", args, {"attribute", "start"});
  Value out = bound[1] ? *bound[1] : Value(int64_t{0});
  for (const Value& item : rt.iterate(v)) {
    out = arithmetic(rt, "+", out,
                     bound[0] && !bound[0]->is_none() ? attribute_path(rt, item, *bound[0]) : item);
  }
  return out;
}

Value filter_batch(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("batch", args, {"linecount", "fill_with"});
  const int64_t size = bound[0] ? rt.to_int(*bound[0], "'batch': linecount") : 0;
  if (size <= 0 || size > 1'000'000) rt.fail("'batch': linecount {} is not in 1 ... 1000000", size);
  Values out, line;
  for (const Value& item : rt.iterate(v)) {
    line.push_back(item);
    if (static_cast<int64_t>(line.size()) == size) out.push_back(rt.list(std::exchange(line, {})));
  }
  if (!line.empty()) {
    if (bound[1] && !bound[1]->is_none()) line.resize(static_cast<size_t>(size), *bound[1]);
    out.push_back(rt.list(std::move(line)));
  }
  return rt.generator(std::move(out));
}

Value filter_slice(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("slice", args, {"slices", "fill_with"});
  const int64_t slices = bound[0] ? rt.to_int(*bound[0], "'slice': slices") : 0;
  if (slices <= 0 || slices > 1'000'000) rt.fail("'slice': slices {} is not in 1 ... 1000000", slices);
  const Values items = rt.iterate(v);
  const size_t count = static_cast<size_t>(slices), each = items.size() / count, extra = items.size() % count;
  Values out;
  for (size_t i = 0, at = 0; i < count; ++i) {
    const size_t size = each + (i < extra ? 1 : 0);
    Values part(items.begin() + static_cast<std::ptrdiff_t>(at),
                items.begin() + static_cast<std::ptrdiff_t>(at + size));
    at += size;
    if (bound[1] && !bound[1]->is_none() && i >= extra) part.push_back(*bound[1]);
    out.push_back(rt.list(std::move(part)));
  }
  return rt.generator(std::move(out));
}

Value filter_groupby(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("groupby", args, {"attribute", "default", "case_sensitive"});
  if (!bound[0]) rt.fail("'groupby' wants an attribute");
  const bool case_sensitive = rt.flag(bound[2], false);
  const auto key_of = [&](const Value& item) {
    Value key = attribute_path(rt, item, *bound[0]);
    return key.is_undefined() && bound[1] ? *bound[1] : key;
  };
  Values items = rt.iterate(v);
  std::vector<std::pair<Value, size_t>> order;
  for (size_t i = 0; i < items.size(); ++i) {
    Value key = key_of(items[i]);
    if (!case_sensitive && key.is_string()) key = rt.string(lower(key.text()));
    order.emplace_back(std::move(key), i);
  }
  merge_sort(order, [&](const auto& a, const auto& b) { return rt.less(a.first, b.first); });
  Values out;
  for (size_t i = 0; i < order.size();) {
    Values group;
    const size_t first = i;
    for (; i < order.size() && rt.equal(order[i].first, order[first].first); ++i)
      group.push_back(items[order[i].second]);
    const Value shown = key_of(group.front());
    out.push_back(rt.sequence(Kind::kTuple, {shown, rt.list(std::move(group))}));
  }
  return rt.list(std::move(out));
}

Value filter_attr(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("attr", args, {"name"});
  if (!bound[0]) rt.fail("'attr' wants a name");
  const std::string& name = rt.to_text(*bound[0], "'attr': name");
  if (v.is_dict()) {
    if (auto method = find_method(rt, v, name)) return *method;
    return rt.undefined(fmt::format("'dict object' has no attribute '{}'", name));
  }
  return rt.attribute(v, name);
}

Value filter_map(Runtime& rt, const Value& v, Arguments& args) {
  Values out;
  if (args.positional.empty()) {
    const auto bound = rt.bind("map", args, {"attribute", "default"});
    if (!bound[0]) rt.fail("'map' wants the name of a filter, or attribute=");
    if (!rt.truth(v)) return rt.generator({});  // as jinja2: none is taken for empty
    for (const Value& item : rt.iterate(v)) {
      Value value = attribute_path(rt, item, *bound[0]);
      out.push_back(value.is_undefined() && bound[1] ? *bound[1] : std::move(value));
    }
    return rt.generator(std::move(out));
  }
  const std::string& name = rt.to_text(args.positional[0], "'map': the name of the filter");
  const FilterFn filter = find_filter(name);
  if (filter == nullptr) rt.fail("there is no filter '{}'", name);
  const Runtime::Depth depth(rt);
  if (!rt.truth(v)) return rt.generator({});
  for (const Value& item : rt.iterate(v)) {
    Arguments inner{{args.positional.begin() + 1, args.positional.end()}, args.named};
    out.push_back(filter(rt, item, inner));
  }
  return rt.generator(std::move(out));
}

// select, reject, selectattr, rejectattr: a test on the item or on its attribute.
Value select(Runtime& rt, std::string_view filter_name, const Value& v, Arguments& args, bool by_attribute,
             bool wanted) {
  Values& given = args.positional;
  std::optional<Value> attribute;
  if (by_attribute) {
    if (given.empty()) rt.fail("'{}' wants the name of an attribute", filter_name);
    attribute = given.front();
    given.erase(given.begin());
  }
  TestFn test = nullptr;
  if (!given.empty()) {
    const std::string name = rt.to_text(given.front(), "the name of a test");
    given.erase(given.begin());
    test = find_test(name);
    if (test == nullptr) rt.fail("there is no test '{}'", name);
  }
  Values out;
  if (!rt.truth(v)) return rt.generator({});
  for (const Value& item : rt.iterate(v)) {
    const Value tested = attribute ? attribute_path(rt, item, *attribute) : item;
    Arguments inner = args;
    if ((test != nullptr ? test(rt, tested, inner) : rt.truth(tested)) == wanted) out.push_back(item);
  }
  return rt.generator(std::move(out));
}
Value filter_select(Runtime& rt, const Value& v, Arguments& args) {
  return select(rt, "select", v, args, false, true);
}
Value filter_reject(Runtime& rt, const Value& v, Arguments& args) {
  return select(rt, "reject", v, args, false, false);
}
Value filter_selectattr(Runtime& rt, const Value& v, Arguments& args) {
  return select(rt, "selectattr", v, args, true, true);
}
Value filter_rejectattr(Runtime& rt, const Value& v, Arguments& args) {
  return select(rt, "rejectattr", v, args, true, false);
}

Value filter_tojson(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = rt.flag(bound[0], false);
  style.sort_keys = rt.flag(bound[3], false);
  if (bound[1] && !bound[1]->is_none()) {
    if (bound[1]->is_string()) {
      style.indent = bound[1]->text();
    } else {
      const int64_t width = std::max<int64_t>(0, rt.to_int(*bound[1], "'tojson': indent"));
      if (width > 1000) rt.fail("'tojson': indent {} is above 1000", width);
      style.indent = std::string(static_cast<size_t>(width), ' ');
    }
    style.item_separator = ",";
  }
  if (bound[2] && !bound[2]->is_none()) {
    const Values separators = rt.iterate(*bound[2]);
    if (separators.size() != 2) rt.fail("'tojson': separators wants two strings");
    style.item_separator = rt.to_text(separators[0], "'tojson': a separator");
    style.key_separator = rt.to_text(separators[1], "'tojson': a separator");
  }
  return rt.string(to_json_text(rt, v, style));
}

}  // namespace

FilterFn find_filter(std::string_view name) {
  static const std::map<std::string_view, FilterFn> kFilters = {
      {"abs", filter_abs},           {"attr", filter_attr},
      {"batch", filter_batch},       {"count", filter_length},
      {"d", filter_default},         {"default", filter_default},
      {"dictsort", filter_dictsort}, {"first", filter_first},
      {"float", filter_float},       {"groupby", filter_groupby},
      {"int", filter_int},           {"items", filter_items},
      {"last", filter_last},         {"length", filter_length},
      {"list", filter_list},         {"map", filter_map},
      {"max", filter_max},           {"min", filter_min},
      {"reject", filter_reject},     {"rejectattr", filter_rejectattr},
      {"reverse", filter_reverse},   {"round", filter_round},
      {"select", filter_select},     {"selectattr", filter_selectattr},
      {"slice", filter_slice},       {"sort", filter_sort},
      {"sum", filter_sum},           {"tojson", filter_tojson},
      {"unique", filter_unique},
  };
  const auto at = kFilters.find(name);
  return at == kFilters.end() ? find_text_filter(name) : at->second;
}

}  // namespace vertebra::jinja
