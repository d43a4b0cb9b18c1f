// The filters of the Jinja interpreter that make text of text.
#include <algorithm>
#include <map>

#include "text/jinja_text.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

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
  const bool blank = rt.flag(bound[2], false);
  const std::string text = rt.to_text(v, "'indent': the value") + "\n";
  rt.step_bytes(text.size());
  std::string out = rt.flag(bound[1], false) ? indention : "";
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
  if (!rt.flag(bound[1], false)) {
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

}  // namespace

FilterFn find_text_filter(std::string_view name) {
  static const std::map<std::string_view, FilterFn> kFilters = {
      {"capitalize", filter_capitalize},
      {"center", filter_center},
      {"e", filter_escape},
      {"escape", filter_escape},
      {"forceescape", filter_forceescape},
      {"format", filter_format},
      {"indent", filter_indent},
      {"join", filter_join},
      {"lower", filter_lower},
      {"replace", filter_replace},
      {"safe", filter_safe},
      {"string", filter_string},
      {"title", filter_title},
      {"trim", filter_trim},
      {"truncate", filter_truncate},
      {"upper", filter_upper},
      {"urlencode", filter_urlencode},
      {"wordcount", filter_wordcount},
  };
  const auto at = kFilters.find(name);
  return at == kFilters.end() ? nullptr : at->second;
}

}  // namespace vertebra::jinja
