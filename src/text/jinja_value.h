// Values of the Jinja interpreter, Python's as far as templates can tell: immutable, shared, and
// charged to the Runtime that made them. Namespaces and loop variables belong to the evaluator.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "text/jinja.h"

namespace vertebra::jinja {

class Runtime;
class Value;

enum class Kind : uint8_t {
  kUndefined,  // object: Text saying what is undefined
  kNone,
  kBool,
  kInt,
  kHuge,  // a whole number of a variable that takes all 64 bits: it can be shown and compared
  kFloat,
  kString,  // object: Text
  kList,    // object: Sequence, as for the next four
  kTuple,
  kRange,
  kView,       // dict.items(), keys(), values()
  kGenerator,  // what map, select and the like give: can be walked once
  kDict,       // object: Mapping
  kNamespace,  // object: Namespace
  kFunction,   // object: Function
  kLoop,       // object: Loop (jinja_evaluator.cc)
};

// What a value shares. Gives its bytes back to the runtime when the last value lets go.
class Object {
 public:
  Object(Runtime& runtime, uint64_t size_bytes);
  virtual ~Object();
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  void charge(uint64_t size_bytes);

 private:
  Runtime& runtime_;
  uint64_t size_bytes_;
};

class Value {
 public:
  Value() = default;  // none
  explicit Value(bool value) : kind_(Kind::kBool), integer_(value) {}
  explicit Value(int64_t value) : kind_(Kind::kInt), integer_(value) {}
  explicit Value(double value) : kind_(Kind::kFloat), number_(value) {}
  static Value huge(uint64_t value) {
    Value out(static_cast<int64_t>(value));
    out.kind_ = Kind::kHuge;
    return out;
  }
  Value(Kind kind, std::shared_ptr<Object> object, uint8_t depth = 1)
      : kind_(kind), depth_(depth), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return is(Kind::kUndefined); }
  bool is_none() const { return is(Kind::kNone); }
  bool is_string() const { return is(Kind::kString); }
  bool is_markup() const;
  bool is_dict() const { return is(Kind::kDict); }
  bool is_integral() const { return is(Kind::kInt) || is(Kind::kBool); }
  bool is_number() const { return is_integral() || is(Kind::kFloat) || is(Kind::kHuge); }
  bool is_sequence() const { return kind_ >= Kind::kList && kind_ <= Kind::kGenerator; }

  int64_t integer() const { return integer_; }                       // of kBool and kInt
  uint64_t huge() const { return static_cast<uint64_t>(integer_); }  // of kHuge
  double number() const {
    if (is(Kind::kHuge)) return static_cast<double>(huge());
    return is(Kind::kFloat) ? number_ : static_cast<double>(integer_);
  }
  const std::string& text() const;          // of kString
  const std::vector<Value>& items() const;  // of the sequences
  const std::shared_ptr<Object>& object() const { return object_; }
  // Levels of lists and dictionaries below this value, itself included; bounded, so that nothing that
  // walks a value overflows the stack.
  uint8_t depth() const { return depth_; }

 private:
  Kind kind_ = Kind::kNone;
  uint8_t depth_ = 0;
  union {
    int64_t integer_ = 0;
    double number_;
  };
  std::shared_ptr<Object> object_;
};

struct Text : Object {
  Text(Runtime& runtime, std::string text_in, bool is_markup_in = false)
      : Object(runtime, sizeof(Text) + text_in.size()), text(std::move(text_in)), is_markup(is_markup_in) {}
  std::string text;
  // What `safe` and `escape` give (markupsafe's Markup): text that is joined to it is escaped for HTML.
  bool is_markup = false;
};

struct Sequence : Object {
  Sequence(Runtime& runtime, std::vector<Value> items_in, std::string label_in)
      : Object(runtime, sizeof(Sequence) + items_in.size() * sizeof(Value)),
        items(std::move(items_in)),
        label(std::move(label_in)) {}
  std::vector<Value> items;
  std::string label;    // "dict_items", "range(0, 3)": how str() shows views and ranges
  size_t consumed = 0;  // of a generator
};

// In insertion order. Keys are hashable values; lookups by their canonical form.
struct Mapping : Object {
  using Object::Object;
  std::vector<std::pair<Value, Value>> entries;
  std::unordered_map<std::string, size_t> index;
};

struct Namespace : Object {
  using Object::Object;
  std::vector<std::pair<std::string, Value>> attributes;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Function : Object {
  Function(Runtime& runtime, std::string name_in, std::function<Value(Runtime&, Arguments&)> call_in)
      : Object(runtime, sizeof(Function)), name(std::move(name_in)), call(std::move(call_in)) {}
  std::string name;
  std::function<Value(Runtime&, Arguments&)> call;
};

// Makes values, counts what they cost, and says where in the template things went wrong.
class Runtime {
 public:
  Runtime(const std::string& name, const Limits& limits) : name_(name), limits_(limits) {}

  // ---- making values
  Value string(std::string text);
  Value markup(std::string text);
  // Markup if `model` is.
  Value string_like(const Value& model, std::string text);
  Value undefined(std::string what);
  Value sequence(Kind kind, std::vector<Value> items, std::string label = {});
  Value list(std::vector<Value> items) { return sequence(Kind::kList, std::move(items)); }
  Value generator(std::vector<Value> items) { return sequence(Kind::kGenerator, std::move(items)); }
  Value dict(std::vector<std::pair<Value, Value>> entries);  // a later key replaces an earlier one
  // `held_depth`: depth() of the value that `call` holds on to.
  Value function(std::string name, std::function<Value(Runtime&, Arguments&)> call, uint8_t held_depth = 0);
  uint8_t depth_above(const std::vector<Value>& items);
  Value from_json(const Json& value);

  // ---- bounds
  void step(uint64_t count = 1) {
    steps_ += count;
    if (steps_ > limits_.steps) [[unlikely]]
      fail_steps();
  }
  void step_bytes(uint64_t size_bytes) { step(size_bytes / 16); }
  void charge(uint64_t size_bytes);
  void release(uint64_t size_bytes) { memory_bytes_ -= size_bytes; }
  // Fails when a string of that size would not fit: asked before it is built.
  void check_room(uint64_t size_bytes);
  // Asked before a text is escaped, quoted or mapped to another case: counts its bytes, and fails when what
  // may become of it would not fit.
  void check_growth(uint64_t size_bytes);
  struct Depth {
    explicit Depth(Runtime& runtime) : runtime(runtime) { runtime.enter(); }
    ~Depth() { --runtime.depth_; }
    Runtime& runtime;
  };

  // ---- errors
  int line = 1;
  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
    fail_text(Code::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void fail_text(Code code, const std::string& message);

  // ---- operations; names and meanings are Python's
  bool truth(const Value& value);
  // Of an argument that may be left out.
  bool flag(const std::optional<Value>& value, bool fallback) { return value ? truth(*value) : fallback; }
  bool equal(const Value& a, const Value& b);
  bool less(const Value& a, const Value& b);
  bool contains(const Value& container, const Value& item);
  int64_t length(const Value& value);
  std::string str(const Value& value);
  std::string repr(const Value& value);
  // str() with the characters of HTML escaped, unless it is markup.
  std::string escaped(const Value& value);
  // What `for` walks over; takes everything out of a generator.
  std::vector<Value> iterate(const Value& value);
  // The entry, or nullptr. Throws for keys that cannot be hashed.
  const Value* find(const Value& dict, const Value& key);
  const Value* find(const Value& dict, std::string_view key);
  // `object.name` and `object[key]` with jinja2's order: attributes first, or items first.
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  // `object[begin:end:step]`; none where a bound is absent.
  Value slice(const Value& object, const Value& begin, const Value& end, const Value& step);
  Value call(const Value& callee, Arguments& arguments);
  // Values of the named parameters; nullopt where the caller gave none. Fails on unknown, double or
  // surplus arguments.
  std::vector<std::optional<Value>> bind(std::string_view function, Arguments& arguments,
                                         std::initializer_list<std::string_view> parameters);
  std::string_view type_name(const Value& value) const;
  // For arguments: fail with "'indent': width is a list, a whole number was wanted".
  int64_t to_int(const Value& value, std::string_view what);
  const std::string& to_text(const Value& value, std::string_view what);
  [[noreturn]] void fail_undefined(const Value& value);

 private:
  void enter();
  [[noreturn]] void fail_steps();
  std::string key_of(const Value& key);
  bool is_hashable(const Value& key);
  std::string repr_items(const Sequence& sequence, std::string_view open, std::string_view close);

  const std::string& name_;
  const Limits& limits_;
  uint64_t steps_ = 0;
  uint64_t memory_bytes_ = 0;
  int depth_ = 0;
};

// Python's dumps(value, indent, separators, sort_keys, ensure_ascii).
struct JsonStyle {
  std::optional<std::string> indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
  bool ensure_ascii = false;
};
std::string to_json_text(Runtime& runtime, const Value& value, const JsonStyle& style);
// Python's `format % values` and `format.format(...)`.
Value percent_format(Runtime& runtime, const Value& format, const Value& values);
Value brace_format(Runtime& runtime, const Value& format, Arguments& arguments);

// A stable sort by merging. Values need not have a consistent order (NaN), on which std::sort would
// run out of bounds; std::stable_sort is deprecated inside of libstdc++ 12.
template <class T, class Less>
void merge_sort(std::vector<T>& items, const Less& less) {
  std::vector<T> merged(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t begin = 0; begin < items.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, items.size()),
                   end = std::min(begin + 2 * width, items.size());
      size_t left = begin, right = middle;
      for (size_t i = begin; i < end; ++i) {
        const bool take_right = left == middle || (right < end && less(items[right], items[left]));
        merged[i] = std::move(items[take_right ? right++ : left++]);
      }
    }
    items.swap(merged);
  }
}

// int() and float() of a string; nullopt where Python raises ValueError.
std::optional<int64_t> parse_integer(std::string_view text, int64_t base);
std::optional<double> parse_float(std::string_view text);
// str.replace, bounded.
std::string replaced(Runtime& runtime, const std::string& text, const std::string& old_text,
                     const std::string& new_text, int64_t count);
// What dict(...) makes of its arguments: a dictionary or pairs, and names. `function` stands in errors.
Value dictionary_of(Runtime& runtime, std::string_view function, Arguments& arguments);
// "a.b.0" or an index, as the attribute arguments of filters mean it.
Value attribute_path(Runtime& runtime, const Value& object, const Value& path);

// ---- the tables (jinja_filters.cc, jinja_builtins.cc, jinja_methods.cc)
using FilterFn = Value (*)(Runtime&, const Value& operand, Arguments&);
FilterFn find_filter(std::string_view name);
FilterFn find_text_filter(std::string_view name);  // of those; null for others
using TestFn = bool (*)(Runtime&, const Value& operand, Arguments&);
TestFn find_test(std::string_view name);
// The method `name` of a string, list, tuple or dict, bound to it; nullopt where there is none.
std::optional<Value> find_method(Runtime& runtime, const Value& object, std::string_view name);
// range, dict, namespace, raise_exception, ...; nullopt where there is none.
std::optional<Value> find_global(Runtime& runtime, std::string_view name, std::optional<int64_t> now_unix_s);
// Binary operators + - * / // % ** ~ and unary ones.
Value arithmetic(Runtime& runtime, std::string_view op, const Value& a, const Value& b);

}  // namespace vertebra::jinja
