// The filters of the Jinja interpreter: one function each, and the table that names them.
#include <algorithm>
#include <cmath>
#include <map>

#include "text/jinja_text.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

using Values = std::vector<Value>;

bool flag(Runtime& rt, const std::optional<Value>& value, bool fallback) {
  return value ? rt.truth(*value) : fallback;
}

// ---- text
Value filter_lower(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("lower", args, {});
  const std::string text = rt.str(v);
  rt.check_growth(text.size());
  return rt.string_like(v, lower(text));
}
Value filter_upper(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("upper", args, {});
  const std::string text = rt.str(v);
  rt.check_growth(text.size());
  return rt.string_like(v, upper(text));
}
Value filter_capitalize(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("capitalize", args, {});
  const std::string text = rt.str(v);
  rt.check_growth(text.size());
  return rt.string_like(v, capitalize(text));
}

// Words begin behind white space and - ( { [ <, other than in str.title.
Value filter_title(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("title", args, {});
  const std::string text = rt.str(v);
  rt.check_growth(text.size());
  std::string out, word;
  const auto finish = [&] {
    if (word.empty()) return;
    size_t first = 0;
    next_code_point(word, first);
    out += upper(word.substr(0, first)) + lower(word.substr(first));
    word.clear();
  };
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const uint32_t c = next_code_point(text, at);
    const bool separates = is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    if (separates) finish();
    (separates ? out : word).append(text, begin, at - begin);
  }
  finish();
  return rt.string(out);
}

Value filter_trim(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("trim", args, {"chars"});
  const std::string text = rt.str(v);
  if (!bound[0] || bound[0]->is_none()) return rt.string_like(v, std::string(rstrip(lstrip(text))));
  const std::string& chars = rt.to_text(*bound[0], "'trim': chars");
  if (chars.empty()) return rt.string_like(v, text);
  rt.step(text.size() * chars.size() / 16);
  return rt.string_like(v, std::string(rstrip(lstrip(text, chars), chars)));
}

Value filter_replace(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("replace", args, {"old", "new", "count"});
  if (!bound[0] || !bound[1]) rt.fail("'replace' wants what to replace and by what");
  const int64_t count = bound[2] && !bound[2]->is_none() ? rt.to_int(*bound[2], "'replace': count") : -1;
  const std::string text = rt.str(v), old_text = rt.str(*bound[0]), new_text = rt.str(*bound[1]);
  return rt.string(replaced(rt, text, old_text, new_text, count));
}

Value filter_indent(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("indent", args, {"width", "first", "blank"});
  std::string indention(4, ' ');
  if (bound[0] && bound[0]->is_string()) {
    indention = bound[0]->text();
  } else if (bound[0]) {
    const int64_t width = std::max<int64_t>(0, rt.to_int(*bound[0], "'indent': width"));
    rt.check_room(static_cast<uint64_t>(width));
    indention = std::string(static_cast<size_t>(width), ' ');
  }
  const bool blank = flag(rt, bound[2], false);
  const std::string text = rt.to_text(v, "'indent': the value") + "\n";
  rt.step_bytes(text.size());
  std::string out = flag(rt, bound[1], false) ? indention : "";
  bool is_first = true;
  for_each_line(text, false, [&](std::string_view line) {
    if (!is_first) out += "\n";
    if (!is_first && (blank || !line.empty())) out += indention;
    out += line;
    is_first = false;
    rt.check_room(out.size());
  });
  return rt.string_like(v, std::move(out));
}

Value filter_join(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("join", args, {"d", "attribute"});
  const std::string separator = bound[0] ? rt.str(*bound[0]) : "";
  std::string out;
  bool first = true;
  for (const Value& item : rt.iterate(v)) {
    if (!std::exchange(first, false)) out += separator;
    out += rt.str(bound[1] && !bound[1]->is_none() ? attribute_path(rt, item, *bound[1]) : item);
    rt.check_room(out.size());
  }
  return rt.string(out);
}

Value filter_string(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("string", args, {});
  return v.is_string() ? v : rt.string(rt.str(v));
}

Value filter_safe(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("safe", args, {});
  return v.is_markup() ? v : rt.markup(rt.str(v));
}

Value filter_escape(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("escape", args, {});
  return v.is_markup() ? v : rt.markup(rt.escaped(v));
}

Value filter_forceescape(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("forceescape", args, {});
  const std::string text = rt.str(v);
  rt.check_growth(text.size());
  return rt.markup(html_escaped(text));
}

Value filter_format(Runtime& rt, const Value& v, Arguments& args) {
  const Value format = v.is_string() ? v : rt.string(rt.str(v));
  if (args.named.empty()) return percent_format(rt, format, rt.sequence(Kind::kTuple, args.positional));
  if (!args.positional.empty()) rt.fail("'format' takes positional or keyword arguments, not both");
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [name, value] : args.named) entries.emplace_back(rt.string(name), value);
  return percent_format(rt, format, rt.dict(std::move(entries)));
}

Value filter_center(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("center", args, {"width"});
  const int64_t width = bound[0] ? rt.to_int(*bound[0], "'center': width") : 80;
  const std::string text = rt.str(v);
  const int64_t missing = width - static_cast<int64_t>(length(text));
  if (missing <= 0) return rt.string(text);
  rt.check_room(static_cast<uint64_t>(missing) + text.size());
  const int64_t left = missing / 2 + (missing & width & 1);
  return rt.string(std::string(static_cast<size_t>(left), ' ') + text +
                   std::string(static_cast<size_t>(missing - left), ' '));
}

Value filter_truncate(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("truncate", args, {"length", "killwords", "end", "leeway"});
  const int64_t limit = bound[0] ? rt.to_int(*bound[0], "'truncate': length") : 255;
  const std::string end = bound[2] ? rt.str(*bound[2]) : "...";
  const int64_t leeway = bound[3] && !bound[3]->is_none() ? rt.to_int(*bound[3], "'truncate': leeway") : 5;
  const auto end_length = static_cast<int64_t>(length(end));
  if (limit < end_length) rt.fail("'truncate': length {} is below that of its end, {}", limit, end_length);
  if (leeway < 0) rt.fail("'truncate': leeway {} is negative", leeway);
  if (rt.length(v) - leeway <= limit) return v;
  const std::string& text = rt.to_text(v, "'truncate': the value");
  std::string kept = text.substr(0, code_point_offset(text, static_cast<size_t>(limit - end_length)));
  if (!flag(rt, bound[1], false)) {
    if (const size_t space = kept.rfind(' '); space != std::string::npos) kept.resize(space);
  }
  if (!v.is_markup()) return rt.string(kept + end);
  return rt.markup(kept + (bound[2] ? rt.escaped(*bound[2]) : end));
}

Value filter_wordcount(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("wordcount", args, {});
  int64_t count = 0;
  bool inside = false;
  const std::string text = rt.str(v);
  rt.step_bytes(4 * text.size());
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = next_code_point(text, at);
    const bool word = is_alpha(c) || is_numeric(c) || c == '_';
    count += word && !inside;
    inside = word;
  }
  return Value(count);
}

Value filter_urlencode(Runtime& rt, const Value& v, Arguments& args) {
  rt.bind("urlencode", args, {});
  std::string out;
  const std::string text = rt.str(v);
  rt.check_growth(text.size());
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("_.-~/").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return rt.string(out);
}

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
  if (v.is_undefined() || (flag(rt, bound[1], false) && !rt.truth(v)))
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
  return rt.list(sorted(rt, rt.iterate(v), bound[2], flag(rt, bound[1], false), flag(rt, bound[0], false)));
}

Value filter_dictsort(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("dictsort", args, {"case_sensitive", "by", "reverse"});
  const std::string by = bound[1] ? rt.str(*bound[1]) : "key";
  if (by != "key" && by != "value") rt.fail("'dictsort': by is '{}', wanted: key or value", by);
  if (v.is_undefined()) rt.fail_undefined(v);
  Arguments none;
  const Values pairs = rt.iterate(filter_items(rt, v, none));
  return rt.list(
      sorted(rt, pairs, Value(int64_t{by == "value"}), flag(rt, bound[0], false), flag(rt, bound[2], false)));
}

Value filter_unique(Runtime& rt, const Value& v, Arguments& args) {
  const auto bound = rt.bind("unique", args, {"case_sensitive", "attribute"});
  Values out;
  Value seen = rt.dict({});
  std::vector<std::pair<Value, Value>> keys;
  auto& mapping = static_cast<Mapping&>(*seen.object());
  for (const Value& item : rt.iterate(v)) {
    Value key = sort_key(rt, item, bound[1], flag(rt, bound[0], false));
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
  const bool case_sensitive = flag(rt, bound[0], false);
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
  const bool case_sensitive = flag(rt, bound[2], false);
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
  style.ensure_ascii = flag(rt, bound[0], false);
  style.sort_keys = flag(rt, bound[3], false);
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
      {"abs", filter_abs},
      {"attr", filter_attr},
      {"batch", filter_batch},
      {"capitalize", filter_capitalize},
      {"center", filter_center},
      {"count", filter_length},
      {"d", filter_default},
      {"default", filter_default},
      {"dictsort", filter_dictsort},
      {"e", filter_escape},
      {"escape", filter_escape},
      {"first", filter_first},
      {"float", filter_float},
      {"forceescape", filter_forceescape},
      {"format", filter_format},
      {"groupby", filter_groupby},
      {"indent", filter_indent},
      {"int", filter_int},
      {"items", filter_items},
      {"join", filter_join},
      {"last", filter_last},
      {"length", filter_length},
      {"list", filter_list},
      {"lower", filter_lower},
      {"map", filter_map},
      {"max", filter_max},
      {"min", filter_min},
      {"reject", filter_reject},
      {"rejectattr", filter_rejectattr},
      {"replace", filter_replace},
      {"reverse", filter_reverse},
      {"round", filter_round},
      {"safe", filter_safe},
      {"select", filter_select},
      {"selectattr", filter_selectattr},
      {"slice", filter_slice},
      {"sort", filter_sort},
      {"string", filter_string},
      {"sum", filter_sum},
      {"title", filter_title},
      {"tojson", filter_tojson},
      {"trim", filter_trim},
      {"truncate", filter_truncate},
      {"unique", filter_unique},
      {"upper", filter_upper},
      {"urlencode", filter_urlencode},
      {"wordcount", filter_wordcount},
  };
  const auto at = kFilters.find(name);
  return at == kFilters.end() ? nullptr : at->second;
}

}  // namespace vertebra::jinja
