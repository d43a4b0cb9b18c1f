// Making, comparing, printing and indexing values.
#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_text.h"

namespace vertebra::jinja {
namespace {

constexpr uint8_t kMaxValueDepth = 200;

uint8_t deeper(Runtime& runtime, uint8_t depth) {
  if (depth >= kMaxValueDepth)
    runtime.fail("lists and dictionaries nested deeper than {} levels", kMaxValueDepth);
  return static_cast<uint8_t>(depth + 1);
}

// Python's clamping of slice bounds.
struct SliceRange {
  int64_t begin, end, step;
};

SliceRange clamp_slice(Runtime& runtime, int64_t size, const Value& begin, const Value& end,
                       const Value& step) {
  SliceRange out{};
  out.step = step.is_none() ? 1 : runtime.to_int(step, "the step of a slice");
  if (out.step == 0) runtime.fail("the step of a slice is 0");
  const int64_t low = out.step > 0 ? 0 : -1;
  const int64_t high = out.step > 0 ? size : size - 1;
  const auto clamp = [&](const Value& bound, int64_t fallback) {
    if (bound.is_none()) return fallback;
    int64_t at = runtime.to_int(bound, "the bound of a slice");
    if (at < 0) at += size;
    return std::min(std::max(at, low), high);
  };
  out.begin = clamp(begin, out.step > 0 ? low : high);
  out.end = clamp(end, out.step > 0 ? high : low);
  return out;
}

template <class Take>
void walk_slice(const SliceRange& range, const Take& take) {
  int64_t i = range.begin;
  while (range.step > 0 ? i < range.end : i > range.end) {
    take(static_cast<size_t>(i));
    if (__builtin_add_overflow(i, range.step, &i)) return;
  }
}

}  // namespace

Object::Object(Runtime& runtime, uint64_t size_bytes) : runtime_(runtime), size_bytes_(size_bytes) {
  runtime.charge(size_bytes);
}
Object::~Object() { runtime_.release(size_bytes_); }
void Object::charge(uint64_t size_bytes) {
  runtime_.charge(size_bytes);
  size_bytes_ += size_bytes;
}

const std::string& Value::text() const {
  VERTEBRA_CHECK(is_string() || is_undefined(), "the text of a value that is not a string");
  return static_cast<const Text&>(*object_).text;
}

bool Value::is_markup() const { return is_string() && static_cast<const Text&>(*object_).is_markup; }

const std::vector<Value>& Value::items() const {
  VERTEBRA_CHECK(is_sequence(), "the items of a value that is not a sequence");
  return static_cast<const Sequence&>(*object_).items;
}

// ---- making values

Value Runtime::string(std::string text) {
  step(1 + text.size() / 16);
  return Value(Kind::kString, std::make_shared<Text>(*this, std::move(text)));
}

Value Runtime::markup(std::string text) {
  step(1 + text.size() / 16);
  return Value(Kind::kString, std::make_shared<Text>(*this, std::move(text), true));
}

Value Runtime::string_like(const Value& model, std::string text) {
  return model.is_markup() ? markup(std::move(text)) : string(std::move(text));
}

Value Runtime::undefined(std::string what) {
  return Value(Kind::kUndefined, std::make_shared<Text>(*this, std::move(what)));
}

Value Runtime::sequence(Kind kind, std::vector<Value> items, std::string label) {
  step(1 + items.size());
  const uint8_t depth = depth_above(items);
  return Value(kind, std::make_shared<Sequence>(*this, std::move(items), std::move(label)), depth);
}

uint8_t Runtime::depth_above(const std::vector<Value>& items) {
  uint8_t depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return deeper(*this, depth);
}

Value Runtime::dict(std::vector<std::pair<Value, Value>> entries) {
  step(1 + 4 * entries.size());
  auto object = std::make_shared<Mapping>(*this, sizeof(Mapping));
  uint8_t depth = 0;
  for (auto& [key, value] : entries) {
    depth = std::max({depth, key.depth(), value.depth()});
    std::string canonical = key_of(key);
    object->charge(sizeof(std::pair<Value, Value>) + canonical.size() + 64);
    const auto [at, added] = object->index.try_emplace(std::move(canonical), object->entries.size());
    if (added) {
      object->entries.emplace_back(std::move(key), std::move(value));
    } else {
      object->entries[at->second].second = std::move(value);
    }
  }
  depth = deeper(*this, depth);
  return Value(Kind::kDict, std::move(object), depth);
}

Value Runtime::function(std::string name, std::function<Value(Runtime&, Arguments&)> call,
                        uint8_t held_depth) {
  step();
  const uint8_t depth = deeper(*this, held_depth);
  return Value(Kind::kFunction, std::make_shared<Function>(*this, std::move(name), std::move(call)), depth);
}

Value Runtime::from_json(const Json& value) {
  const Depth depth(*this);
  switch (value.type()) {
    case Json::value_t::boolean:
      return Value(value.get<bool>());
    case Json::value_t::number_integer:
      return Value(value.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (value.get<uint64_t>() > INT64_MAX) return Value::huge(value.get<uint64_t>());
      return Value(value.get<int64_t>());
    case Json::value_t::number_float:
      return Value(value.get<double>());
    case Json::value_t::string:
      if (!is_utf8(value.get_ref<const std::string&>()))
        fail("a variable of the template is not valid UTF-8");
      return string(value.get<std::string>());
    case Json::value_t::array: {
      std::vector<Value> items;
      items.reserve(value.size());
      for (const Json& item : value) items.push_back(from_json(item));
      return list(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      entries.reserve(value.size());
      for (const auto& [key, item] : value.items()) {
        if (!is_utf8(key)) fail("a key of the template's variables is not valid UTF-8");
        entries.emplace_back(string(key), from_json(item));
      }
      return dict(std::move(entries));
    }
    default:
      return Value();
  }
}

// ---- bounds and errors

void Runtime::charge(uint64_t size_bytes) {
  check_room(size_bytes);
  memory_bytes_ += size_bytes;
}

void Runtime::check_room(uint64_t size_bytes) {
  if (size_bytes > limits_.memory_bytes - std::min(memory_bytes_, limits_.memory_bytes)) {
    fail_text(Code::kResourceExhausted,
              fmt::format("more than {} bytes of values and output", limits_.memory_bytes));
  }
}

void Runtime::check_growth(uint64_t size_bytes) {
  step_bytes(size_bytes);
  check_room(6 * size_bytes);  // "\u0000" for one byte
}

void Runtime::enter() {
  if (depth_ >= limits_.depth) {
    fail_text(Code::kResourceExhausted,
              fmt::format("nested or recursive deeper than {} levels", limits_.depth));
  }
  ++depth_;
}

void Runtime::fail_steps() {
  fail_text(Code::kResourceExhausted, fmt::format("did not finish within {} steps", limits_.steps));
}

void Runtime::fail_text(Code code, const std::string& message) {
  throw Error(code, fmt::format("chat template '{}', line {}: {}", name_, line, message));
}

void Runtime::fail_undefined(const Value& value) { fail("{}", value.text()); }

int64_t Runtime::to_int(const Value& value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_integral())
    fail("{} is {} ({}), a whole number was wanted", what, type_name(value), repr(value).substr(0, 40));
  return value.integer();
}

const std::string& Runtime::to_text(const Value& value, std::string_view what) {
  if (value.is_undefined()) fail_undefined(value);
  if (!value.is_string())
    fail("{} is {} ({}), a string was wanted", what, type_name(value), repr(value).substr(0, 40));
  return value.text();
}

std::string_view Runtime::type_name(const Value& value) const {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "undefined";
    case Kind::kNone:
      return "none";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
    case Kind::kHuge:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kRange:
      return "range";
    case Kind::kView:
      return "view of a dict";
    case Kind::kGenerator:
      return "generator";
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "namespace";
    case Kind::kFunction:
      return "function";
    case Kind::kLoop:
      return "loop";
  }
  return "unknown";
}

// ---- operations

bool Runtime::truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.integer() != 0;
    case Kind::kFloat:
      return value.number() != 0;
    case Kind::kString:
      return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
      return !value.items().empty();
    case Kind::kDict:
      return !static_cast<const Mapping&>(*value.object()).entries.empty();
    default:
      return true;
  }
}

bool Runtime::equal(const Value& a, const Value& b) {
  step();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    if (a.is(Kind::kHuge) && b.is(Kind::kHuge)) return a.huge() == b.huge();
    if (a.is(Kind::kHuge) ? b.is_integral() : a.is_integral() && b.is(Kind::kHuge)) return false;
    return a.number() == b.number();
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      step_bytes(a.text().size());
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange: {
      const auto &left = a.items(), &right = b.items();
      if (left.size() != right.size()) return false;
      for (size_t i = 0; i < left.size(); ++i) {
        if (!equal(left[i], right[i])) return false;
      }
      return true;
    }
    case Kind::kDict: {
      const auto &left = static_cast<const Mapping&>(*a.object()),
                 &right = static_cast<const Mapping&>(*b.object());
      if (left.entries.size() != right.entries.size()) return false;
      for (const auto& [key, item] : left.entries) {
        const Value* other = find(b, key);
        if (other == nullptr || !equal(item, *other)) return false;
      }
      return true;
    }
    default:
      return a.object() == b.object();
  }
}

bool Runtime::less(const Value& a, const Value& b) {
  step();
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() < b.integer();
    if (a.is(Kind::kHuge) && b.is(Kind::kHuge)) return a.huge() < b.huge();
    return a.number() < b.number();
  }
  if (a.is_string() && b.is_string()) {
    step_bytes(std::min(a.text().size(), b.text().size()));
    return a.text() < b.text();
  }
  if (a.kind() == b.kind() && (a.is(Kind::kList) || a.is(Kind::kTuple))) {
    const auto &left = a.items(), &right = b.items();
    for (size_t i = 0; i < left.size() && i < right.size(); ++i) {
      if (!equal(left[i], right[i])) return less(left[i], right[i]);
    }
    return left.size() < right.size();
  }
  fail("{} and {} cannot be ordered", type_name(a), type_name(b));
}

bool Runtime::contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kUndefined:
      return false;
    case Kind::kString:
      if (!item.is_string()) {
        if (item.is_undefined()) fail_undefined(item);
        fail("'in <string>' wants a string on its left, found {}", type_name(item));
      }
      step_bytes(container.text().size());
      return find_text(container.text(), item.text()) != std::string::npos;
    case Kind::kDict:
      return find(container, item) != nullptr;
    default:
      break;
  }
  if (!container.is_sequence()) fail("'in' wants something to look into, found {}", type_name(container));
  for (const Value& candidate : iterate(container)) {
    if (equal(candidate, item)) return true;
  }
  return false;
}

int64_t Runtime::length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      step_bytes(value.text().size());
      return static_cast<int64_t>(jinja::length(value.text()));
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kView:
      return static_cast<int64_t>(value.items().size());
    case Kind::kDict:
      return static_cast<int64_t>(static_cast<const Mapping&>(*value.object()).entries.size());
    default:
      fail("{} has no length", type_name(value));
  }
}

std::string Runtime::str(const Value& value) {
  if (value.is_undefined()) return {};
  if (!value.is_string()) return repr(value);
  step_bytes(value.text().size());
  return value.text();
}

std::string Runtime::escaped(const Value& value) {
  std::string text = str(value);
  if (value.is_markup()) return text;
  check_growth(text.size());
  return html_escaped(text);
}

std::string Runtime::repr_items(const Sequence& sequence, std::string_view open, std::string_view close) {
  std::string out(open);
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) out += ", ";
    out += repr(sequence.items[i]);
    check_room(out.size());
  }
  out += close;
  return out;
}

std::string Runtime::repr(const Value& value) {
  const Depth depth(*this);
  step();
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return value.integer() ? "True" : "False";
    case Kind::kInt:
      return std::to_string(value.integer());
    case Kind::kHuge:
      return std::to_string(value.huge());
    case Kind::kFloat:
      return python_repr(value.number());
    case Kind::kString:
      check_growth(value.text().size());
      return value.is_markup() ? "Markup(" + python_repr(value.text()) + ")" : python_repr(value.text());
    case Kind::kList:
      return repr_items(static_cast<const Sequence&>(*value.object()), "[", "]");
    case Kind::kTuple:
      return repr_items(static_cast<const Sequence&>(*value.object()), "(",
                        value.items().size() == 1 ? ",)" : ")");
    case Kind::kRange:
      return static_cast<const Sequence&>(*value.object()).label;
    case Kind::kView:
      return repr_items(static_cast<const Sequence&>(*value.object()),
                        static_cast<const Sequence&>(*value.object()).label + "([", "])");
    case Kind::kDict: {
      std::string out = "{";
      for (const auto& [key, item] : static_cast<const Mapping&>(*value.object()).entries) {
        if (out.size() > 1) out += ", ";
        out += repr(key) + ": " + repr(item);
        check_room(out.size());
      }
      return out + "}";
    }
    case Kind::kNamespace: {
      std::string out = "<Namespace {";
      bool first = true;
      for (const auto& [name, item] : static_cast<const Namespace&>(*value.object()).attributes) {
        if (!std::exchange(first, false)) out += ", ";
        out += python_repr(name) + ": " + repr(item);
      }
      return out + "}>";
    }
    case Kind::kGenerator:
    case Kind::kFunction:
    case Kind::kLoop:
      // Python would print an address here: no template can mean that.
      fail("a {} was printed: it has no text", type_name(value));
  }
  return {};
}

std::vector<Value> Runtime::iterate(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return {};
    case Kind::kString: {
      const std::string& text = value.text();
      std::vector<Value> out;
      for (size_t at = 0; at < text.size();) {
        const size_t begin = at;
        next_code_point(text, at);
        out.push_back(string(text.substr(begin, at - begin)));
        step();
      }
      return out;
    }
    case Kind::kDict: {
      std::vector<Value> out;
      const auto& entries = static_cast<const Mapping&>(*value.object()).entries;
      step(entries.size());
      out.reserve(entries.size());
      for (const auto& entry : entries) out.push_back(entry.first);
      return out;
    }
    case Kind::kGenerator: {
      auto& generator = static_cast<Sequence&>(*value.object());
      const size_t begin = std::exchange(generator.consumed, generator.items.size());
      return {generator.items.begin() + static_cast<std::ptrdiff_t>(begin), generator.items.end()};
    }
    default:
      break;
  }
  if (!value.is_sequence())
    fail("{} ({}) cannot be walked over", type_name(value), repr(value).substr(0, 40));
  step(value.items().size());
  return value.items();
}

std::string Runtime::key_of(const Value& key) {
  switch (key.kind()) {
    case Kind::kString:
      step_bytes(key.text().size());
      return "s" + key.text();
    case Kind::kNone:
      return "n";
    case Kind::kBool:
    case Kind::kInt:
      return "i" + std::to_string(key.integer());
    case Kind::kHuge:
      return "i" + std::to_string(key.huge());
    case Kind::kFloat:
      if (key.number() == std::floor(key.number()) && std::abs(key.number()) < 9e15) {
        return "i" + std::to_string(static_cast<int64_t>(key.number()));
      }
      return "f" + python_repr(key.number());
    case Kind::kTuple: {
      const Depth depth(*this);
      std::string out = "t";
      for (const Value& item : key.items()) {
        step();
        const std::string part = key_of(item);
        step_bytes(part.size());
        out += fmt::format("{}:{}", part.size(), part);
        check_room(out.size());
      }
      return out;
    }
    case Kind::kUndefined:
      return "u";
    default:
      fail("{} cannot be the key of a dictionary", type_name(key));
  }
}

bool Runtime::is_hashable(const Value& key) {
  step();
  if (!key.is(Kind::kTuple)) return key.kind() <= Kind::kString;
  return std::all_of(key.items().begin(), key.items().end(),
                     [&](const Value& item) { return is_hashable(item); });
}

const Value* Runtime::find(const Value& dict, const Value& key) {
  const auto& mapping = static_cast<const Mapping&>(*dict.object());
  const auto at = mapping.index.find(key_of(key));
  return at == mapping.index.end() ? nullptr : &mapping.entries[at->second].second;
}

const Value* Runtime::find(const Value& dict, std::string_view key) {
  const auto& mapping = static_cast<const Mapping&>(*dict.object());
  const auto at = mapping.index.find("s" + std::string(key));
  return at == mapping.index.end() ? nullptr : &mapping.entries[at->second].second;
}

Value Runtime::item(const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_dict()) {
    const Value* found = is_hashable(key) ? find(object, key) : nullptr;
    if (found != nullptr) return *found;
  } else if (key.is_integral() && object.is_sequence() && !object.is(Kind::kView) &&
             !object.is(Kind::kGenerator)) {
    const auto size = static_cast<int64_t>(object.items().size());
    const int64_t at = key.integer() < 0 ? key.integer() + size : key.integer();
    if (at >= 0 && at < size) return object.items()[static_cast<size_t>(at)];
  } else if (key.is_integral() && object.is_string()) {
    step_bytes(object.text().size());
    const auto size = static_cast<int64_t>(jinja::length(object.text()));
    const int64_t at = key.integer() < 0 ? key.integer() + size : key.integer();
    if (at >= 0 && at < size) {
      const size_t begin = code_point_offset(object.text(), static_cast<size_t>(at));
      size_t end = begin;
      next_code_point(object.text(), end);
      return string_like(object, object.text().substr(begin, end - begin));
    }
  }
  if (key.is_string() && !object.is_dict()) return attribute(object, key.text());
  if (key.is_string()) {
    if (auto method = find_method(*this, object, key.text())) return *method;
    return undefined(fmt::format("'dict object' has no attribute '{}'", key.text()));
  }
  return undefined(fmt::format("'{} object' has no element {}", type_name(object), repr(key).substr(0, 60)));
}

Value Runtime::slice(const Value& object, const Value& begin, const Value& end, const Value& step_value) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_string()) {
    const std::string& text = object.text();
    step_bytes(text.size());
    const auto size = static_cast<int64_t>(jinja::length(text));
    const SliceRange range = clamp_slice(*this, size, begin, end, step_value);
    if (range.step == 1) {
      if (range.begin >= range.end) return string_like(object, {});
      const size_t first = code_point_offset(text, static_cast<size_t>(range.begin));
      const std::string_view rest = std::string_view(text).substr(first);
      return string_like(
          object,
          std::string(rest.substr(0, code_point_offset(rest, static_cast<size_t>(range.end - range.begin)))));
    }
    check_room(static_cast<uint64_t>(size) * sizeof(size_t));
    const auto offsets = code_point_offsets(text);
    std::string out;
    walk_slice(range, [&](size_t i) { out.append(text, offsets[i], offsets[i + 1] - offsets[i]); });
    return string_like(object, std::move(out));
  }
  if (object.is(Kind::kList) || object.is(Kind::kTuple) || object.is(Kind::kRange)) {
    std::vector<Value> out;
    walk_slice(clamp_slice(*this, static_cast<int64_t>(object.items().size()), begin, end, step_value),
               [&](size_t i) { out.push_back(object.items()[i]); });
    return sequence(object.is(Kind::kTuple) ? Kind::kTuple : Kind::kList, std::move(out));
  }
  fail("{} ({}) cannot be sliced", type_name(object), repr(object).substr(0, 40));
}

Value Runtime::call(const Value& callee, Arguments& arguments) {
  if (callee.is_undefined()) fail_undefined(callee);
  if (!callee.is(Kind::kFunction))
    fail("{} ({}) is not a function", type_name(callee), repr(callee).substr(0, 40));
  const Depth depth(*this);
  step();
  const auto keep_alive = callee.object();
  return static_cast<Function&>(*keep_alive).call(*this, arguments);
}

std::vector<std::optional<Value>> Runtime::bind(std::string_view function, Arguments& arguments,
                                                std::initializer_list<std::string_view> parameters) {
  std::vector<std::optional<Value>> out(parameters.size());
  if (arguments.positional.size() > parameters.size()) {
    fail("'{}' takes at most {} arguments, {} were given", function, parameters.size(),
         arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) out[i] = arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto at = std::find(parameters.begin(), parameters.end(), name);
    if (at == parameters.end()) fail("'{}' has no argument '{}'", function, name);
    auto& target = out[static_cast<size_t>(at - parameters.begin())];
    if (target) fail("'{}' got its argument '{}' twice", function, name);
    target = value;
  }
  return out;
}

}  // namespace vertebra::jinja
