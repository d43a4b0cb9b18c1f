// The tests (`x is defined`) and the global functions of the Jinja interpreter.
#include <ctime>
#include <map>

#include "text/jinja_text.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

const Value& only(Runtime& rt, std::string_view name, Arguments& args) {
  if (args.positional.size() != 1 || !args.named.empty()) rt.fail("the test '{}' wants one argument", name);
  return args.positional[0];
}

bool leaves(Runtime& rt, const Value& v, const Value& divisor, int64_t remainder) {
  return rt.equal(arithmetic(rt, "%", v, divisor), Value(remainder));
}
bool test_divisible(Runtime& rt, const Value& v, Arguments& args) {
  return leaves(rt, v, only(rt, "divisibleby", args), 0);
}
bool test_even(Runtime& rt, const Value& v, Arguments&) { return leaves(rt, v, Value(int64_t{2}), 0); }
bool test_odd(Runtime& rt, const Value& v, Arguments&) { return leaves(rt, v, Value(int64_t{2}), 1); }
bool test_callable(Runtime&, const Value& v, Arguments&) { return v.is(Kind::kFunction) || v.is_undefined(); }
bool test_iterable(Runtime&, const Value& v, Arguments&) {
  return v.is_undefined() || v.is_string() || v.is_sequence() || v.is_dict();
}
bool test_sequence(Runtime&, const Value& v, Arguments&) {
  return v.is_undefined() || v.is_string() || v.is_dict() ||
         (v.is_sequence() && !v.is(Kind::kGenerator) && !v.is(Kind::kView));
}
bool test_same(Runtime& rt, const Value& v, Arguments& args) {
  const Value& other = only(rt, "sameas", args);
  if (v.kind() != other.kind()) return false;
  return v.object() != nullptr && !v.is_string() ? v.object() == other.object() : rt.equal(v, other);
}
bool test_lower(Runtime& rt, const Value& v, Arguments&) {
  const std::string text = rt.str(v);
  return lower(text) == text && upper(text) != text;
}
bool test_upper(Runtime& rt, const Value& v, Arguments&) {
  const std::string text = rt.str(v);
  return upper(text) == text && lower(text) != text;
}

bool equals(Runtime& rt, const Value& v, Arguments& args) { return rt.equal(v, only(rt, "eq", args)); }
bool differs(Runtime& rt, const Value& v, Arguments& args) { return !rt.equal(v, only(rt, "ne", args)); }
bool is_less(Runtime& rt, const Value& v, Arguments& args) { return rt.less(v, only(rt, "lt", args)); }
bool is_greater(Runtime& rt, const Value& v, Arguments& args) { return rt.less(only(rt, "gt", args), v); }
bool at_most(Runtime& rt, const Value& v, Arguments& args) {
  const Value& other = only(rt, "le", args);
  return rt.less(v, other) || rt.equal(v, other);
}
bool at_least(Runtime& rt, const Value& v, Arguments& args) {
  const Value& other = only(rt, "ge", args);
  return rt.less(other, v) || rt.equal(v, other);
}

// ---- global functions
Value call_raise(Runtime& rt, Arguments& args) {
  const auto bound = rt.bind("raise_exception", args, {"message"});
  rt.fail("the template refuses: {}", bound[0] ? rt.str(*bound[0]) : "no reason given");
}

Value call_range(Runtime& rt, Arguments& args) {
  const auto bound = rt.bind("range", args, {"start", "stop", "step"});
  if (!bound[0]) rt.fail("'range' wants a number");
  int64_t begin = rt.to_int(*bound[0], "'range': the first number"), end = begin;
  if (bound[1]) {
    end = rt.to_int(*bound[1], "'range': the end");
  } else {
    begin = 0;
  }
  const int64_t step = bound[2] ? rt.to_int(*bound[2], "'range': the step") : 1;
  if (step == 0) rt.fail("'range': the step is 0");
  constexpr size_t kMaxRange = 100'000;  // jinja2's sandbox
  std::vector<Value> out;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (out.size() >= kMaxRange) rt.fail("'range': more than {} numbers", kMaxRange);
    out.push_back(Value(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  std::string label = step == 1 ? fmt::format("range({}, {})", begin, end)
                                : fmt::format("range({}, {}, {})", begin, end, step);
  return rt.sequence(Kind::kRange, std::move(out), std::move(label));
}

Value call_strftime(Runtime& rt, Arguments& args, std::optional<int64_t> now_unix_s) {
  const auto bound = rt.bind("strftime_now", args, {"format"});
  if (!bound[0]) rt.fail("'strftime_now' wants a format");
  const std::string& format = rt.to_text(*bound[0], "'strftime_now': the format");
  if (format.size() > 1000) rt.fail("'strftime_now': the format is longer than 1000 bytes");
  std::tm parts = {};
  if (now_unix_s) {
    const auto now = static_cast<std::time_t>(*now_unix_s);
    gmtime_r(&now, &parts);
  } else {
    const std::time_t now = std::time(nullptr);
    localtime_r(&now, &parts);
  }
  // A datetime without a zone shows none, and has microseconds.
  std::string known;
  for (size_t i = 0; i < format.size(); ++i) {
    const char letter = format[i] == '%' && i + 1 < format.size() ? format[i + 1] : '\0';
    if (letter == 'f') known += "000000";
    if (letter != 'f' && letter != 'z' && letter != 'Z') known += format[i];
    if (letter == '\0') continue;
    ++i;
    if (letter != 'f' && letter != 'z' && letter != 'Z') known += letter;
  }
  std::vector<char> out(64 * (known.size() + 1));
  const size_t size = std::strftime(out.data(), out.size(), known.c_str(), &parts);
  return rt.string(std::string(out.data(), size));
}

Value call_joiner(Runtime& rt, Arguments& args) {
  const auto bound = rt.bind("joiner", args, {"sep"});
  const std::string separator = bound[0] ? rt.str(*bound[0]) : ", ";
  return rt.function("joiner", [separator, used = false](Runtime& runtime, Arguments&) mutable {
    return runtime.string(std::exchange(used, true) ? separator : "");
  });
}

}  // namespace

Value dictionary_of(Runtime& rt, std::string_view function, Arguments& args) {
  std::vector<std::pair<Value, Value>> entries;
  if (args.positional.size() > 1) rt.fail("'{}' takes one dictionary or list of pairs", function);
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.is_undefined()) rt.fail_undefined(from);
    if (from.is_dict()) {
      entries = static_cast<const Mapping&>(*from.object()).entries;
    } else {
      for (const Value& pair : rt.iterate(from)) {
        const auto items = rt.iterate(pair);
        if (items.size() != 2) rt.fail("'{}' wants pairs, found {} items", function, items.size());
        entries.emplace_back(items[0], items[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) entries.emplace_back(rt.string(name), value);
  return rt.dict(std::move(entries));
}

TestFn find_test(std::string_view name) {
  static const std::map<std::string_view, TestFn> kTests = {
      {"boolean", [](Runtime&, const Value& v, Arguments&) { return v.is(Kind::kBool); }},
      {"callable", test_callable},
      {"defined", [](Runtime&, const Value& v, Arguments&) { return !v.is_undefined(); }},
      {"divisibleby", test_divisible},
      {"eq", equals},
      {"equalto", equals},
      {"==", equals},
      {"escaped", [](Runtime&, const Value& v, Arguments&) { return v.is_markup(); }},
      {"even", test_even},
      {"false", [](Runtime&, const Value& v, Arguments&) { return v.is(Kind::kBool) && v.integer() == 0; }},
      {"filter", [](Runtime&, const Value& v,
                    Arguments&) { return v.is_string() && find_filter(v.text()) != nullptr; }},
      {"float", [](Runtime&, const Value& v, Arguments&) { return v.is(Kind::kFloat); }},
      {"ge", at_least},
      {">=", at_least},
      {"gt", is_greater},
      {"greaterthan", is_greater},
      {">", is_greater},
      {"in",
       [](Runtime& rt, const Value& v, Arguments& args) { return rt.contains(only(rt, "in", args), v); }},
      {"integer", [](Runtime&, const Value& v, Arguments&) { return v.is(Kind::kInt) || v.is(Kind::kHuge); }},
      {"iterable", test_iterable},
      {"le", at_most},
      {"<=", at_most},
      {"lower", test_lower},
      {"lt", is_less},
      {"lessthan", is_less},
      {"<", is_less},
      {"mapping", [](Runtime&, const Value& v, Arguments&) { return v.is_dict(); }},
      {"ne", differs},
      {"!=", differs},
      {"none", [](Runtime&, const Value& v, Arguments&) { return v.is_none(); }},
      {"number", [](Runtime&, const Value& v, Arguments&) { return v.is_number(); }},
      {"odd", test_odd},
      {"sameas", test_same},
      {"sequence", test_sequence},
      {"string", [](Runtime&, const Value& v, Arguments&) { return v.is_string(); }},
      {"test",
       [](Runtime&, const Value& v, Arguments&) { return v.is_string() && find_test(v.text()) != nullptr; }},
      {"true", [](Runtime&, const Value& v, Arguments&) { return v.is(Kind::kBool) && v.integer() == 1; }},
      {"undefined", [](Runtime&, const Value& v, Arguments&) { return v.is_undefined(); }},
      {"upper", test_upper},
  };
  const auto at = kTests.find(name);
  return at == kTests.end() ? nullptr : at->second;
}

std::optional<Value> find_global(Runtime& runtime, std::string_view name, std::optional<int64_t> now_unix_s) {
  if (name == "raise_exception") return runtime.function("raise_exception", call_raise);
  if (name == "range") return runtime.function("range", call_range);
  if (name == "dict") {
    return runtime.function("dict",
                            [](Runtime& rt, Arguments& args) { return dictionary_of(rt, "dict", args); });
  }
  if (name == "joiner") return runtime.function("joiner", call_joiner);
  if (name == "strftime_now") {
    return runtime.function("strftime_now", [now_unix_s](Runtime& rt, Arguments& args) {
      return call_strftime(rt, args, now_unix_s);
    });
  }
  return std::nullopt;
}

}  // namespace vertebra::jinja
