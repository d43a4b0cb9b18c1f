// Walks the syntax tree of a template: scopes, loops, macros, output. What values do is in
// jinja_value.cc and the tables of filters, tests and methods.
#include <algorithm>

#include "base/error.h"
#include "text/jinja.h"
#include "text/jinja_syntax.h"
#include "text/jinja_text.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

struct Scope {
  explicit Scope(std::shared_ptr<Scope> parent_in) : parent(std::move(parent_in)) {}
  Value* find_here(const std::string& name) {
    for (auto& [key, value] : variables) {
      if (key == name) return &value;
    }
    return nullptr;
  }
  void set(const std::string& name, Value value) {
    if (Value* found = find_here(name)) {
      *found = std::move(value);
    } else {
      variables.emplace_back(name, std::move(value));
    }
  }
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string, Value>> variables;
};

struct Loop : Object {
  using Object::Object;
  std::vector<Value> items;
  size_t at = 0;
  int64_t depth = 1;
  std::optional<Value> last_changed;
  std::function<Value(const Value&)> recurse;
};

enum class Flow { kNormal, kBreak, kContinue };

class Evaluator {
 public:
  Evaluator(const TemplateAst& ast, std::optional<int64_t> now_unix_s, const Limits& limits)
      : ast_(ast), now_unix_s_(now_unix_s), runtime_(ast.name, limits) {}

  // Macros hold the scopes they were made in, and scopes hold macros: the circle is cut here.
  ~Evaluator() {
    for (const auto& scope : captured_scopes_) scope->variables.clear();
    for (const auto& object : namespaces_) static_cast<Namespace&>(*object).attributes.clear();
    for (const auto& loop : changed_loops_) loop->last_changed.reset();
    // Youngest first: no scope then has to take a long chain of parents along.
    while (!captured_scopes_.empty()) captured_scopes_.pop_back();
  }

  Rendering run(const Json& variables) {
    auto root = std::make_shared<Scope>(nullptr);
    require(variables.is_object(), "chat template '{}': its variables are not a JSON object", ast_.name);
    for (const auto& [name, value] : variables.items()) root->set(name, runtime_.from_json(value));
    Rendering out;
    rendering_ = &out;
    exec_block(ast_.body, std::make_shared<Scope>(root), out.text);
    return out;
  }

 private:
  using ScopePtr = std::shared_ptr<Scope>;

  // ---- statements
  void write(std::string& out, std::string_view text) {
    runtime_.step_bytes(text.size());
    runtime_.charge(text.size());
    out += text;
  }

  Flow exec_block(const Block& block, const ScopePtr& scope, std::string& out) {
    const Runtime::Depth depth(runtime_);
    for (const auto& stmt : block) {
      const Flow flow = exec(*stmt, scope, out);
      if (flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  // Runs a block into a string of its own.
  Flow capture(const Block& block, const ScopePtr& scope, std::string& text) {
    const Flow flow = exec_block(block, scope, text);
    runtime_.release(text.size());
    return flow;
  }

  Flow exec(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
    runtime_.step();
    runtime_.line = stmt.line;
    switch (stmt.kind) {
      case Stmt::Kind::kData:
        write(out, stmt.text);
        return Flow::kNormal;
      case Stmt::Kind::kOutput:
        write(out, runtime_.str(eval(*stmt.exprs[0], scope)));
        return Flow::kNormal;
      case Stmt::Kind::kIf:
        return exec_if(stmt, scope, out);
      case Stmt::Kind::kFor:
        exec_for(stmt, scope, out);
        return Flow::kNormal;
      case Stmt::Kind::kSet:
        assign(stmt.target, eval(*stmt.exprs[0], scope), scope);
        return Flow::kNormal;
      case Stmt::Kind::kSetBlock:
        return exec_set_block(stmt, scope);
      case Stmt::Kind::kMacro:
        runtime_.step(scope->variables.size() / 16);
        scope->set(stmt.macro->name, make_macro(*stmt.macro, scope));
        return Flow::kNormal;
      case Stmt::Kind::kCall:
        exec_call(stmt, scope, out);
        return Flow::kNormal;
      case Stmt::Kind::kFilter: {
        std::string text;
        const Flow flow = capture(stmt.blocks[0], std::make_shared<Scope>(scope), text);
        if (flow != Flow::kNormal) return flow;
        const Value body = runtime_.string(std::move(text));
        write(out, runtime_.str(eval_filter(*stmt.exprs[0], scope, &body)));
        return Flow::kNormal;
      }
      case Stmt::Kind::kWith:
        return exec_with(stmt, scope, out);
      case Stmt::Kind::kGeneration:
        exec_generation(stmt, scope, out);
        return Flow::kNormal;
      case Stmt::Kind::kBreak:
        return Flow::kBreak;
      case Stmt::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNormal;
  }

  Flow exec_if(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
    for (size_t i = 0; i < stmt.exprs.size(); ++i) {
      if (runtime_.truth(eval(*stmt.exprs[i], scope))) return exec_block(stmt.blocks[i], scope, out);
    }
    if (stmt.blocks.size() > stmt.exprs.size()) return exec_block(stmt.blocks.back(), scope, out);
    return Flow::kNormal;
  }

  void exec_for(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
    run_loop(stmt, eval(*stmt.exprs[0], scope), 1, scope, out);
  }

  void run_loop(const Stmt& stmt, const Value& iterable, int64_t depth, const ScopePtr& scope,
                std::string& out) {
    const Runtime::Depth guard(runtime_);
    auto loop = std::make_shared<Loop>(runtime_, sizeof(Loop));
    loop->items = runtime_.iterate(iterable);
    loop->charge(loop->items.size() * sizeof(Value));
    loop->depth = depth;
    if (stmt.exprs[1]) {
      std::vector<Value> kept;
      for (Value& item : loop->items) {
        const auto inner = std::make_shared<Scope>(scope);
        assign(stmt.target, item, inner);
        if (runtime_.truth(eval(*stmt.exprs[1], inner))) kept.push_back(std::move(item));
      }
      loop->items = std::move(kept);
    }
    if (stmt.recursive) {
      loop->recurse = [this, &stmt, depth, scope](const Value& items) {
        std::string text;
        run_loop(stmt, items, depth + 1, scope, text);
        runtime_.release(text.size());
        return runtime_.string(std::move(text));
      };
    }
    bool any_finished = false;
    const Value loop_value(Kind::kLoop, loop, runtime_.depth_above(loop->items));
    for (loop->at = 0; loop->at < loop->items.size(); ++loop->at) {
      runtime_.step();
      const auto inner = std::make_shared<Scope>(scope);
      inner->set("loop", loop_value);
      assign(stmt.target, loop->items[loop->at], inner);
      const Flow flow = exec_block(stmt.blocks[0], inner, out);
      if (flow == Flow::kBreak) break;
      any_finished |= flow == Flow::kNormal;
    }
    loop->recurse = nullptr;
    // As jinja2 compiles it: rounds that were left by break or continue do not count.
    if (!any_finished && stmt.blocks.size() > 1) {
      exec_block(stmt.blocks[1], std::make_shared<Scope>(scope), out);
    }
  }

  void assign(const Target& target, const Value& value, const ScopePtr& scope) {
    if (!target.attribute.empty()) {
      const Value object = lookup(target.name, scope);
      if (!object.is(Kind::kNamespace)) {
        runtime_.fail("'{}.{}' cannot be set: '{}' is {}, only a namespace() can be changed", target.name,
                      target.attribute, target.name, runtime_.type_name(object));
      }
      return set_attribute(object, target.attribute, value);
    }
    if (target.parts.empty()) {
      runtime_.step(scope->variables.size() / 16);
      return scope->set(target.name, value);
    }
    const std::vector<Value> items = runtime_.iterate(value);
    if (items.size() != target.parts.size()) {
      runtime_.fail("{} values cannot be unpacked into {} names", items.size(), target.parts.size());
    }
    for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i], scope);
  }

  void set_attribute(const Value& object, const std::string& name, const Value& value) {
    // As transformers has it: nothing of Python's internals can be reached through such a name.
    if (name.starts_with("_")) {
      runtime_.fail("the attribute '{}' cannot be kept in a namespace: its name starts with '_'", name);
    }
    auto& space = static_cast<Namespace&>(*object.object());
    runtime_.step(space.attributes.size() / 16);
    for (auto& [key, old] : space.attributes) {
      if (key == name) {
        old = value;
        return;
      }
    }
    space.charge(sizeof(Value) + name.size() + 32);
    space.attributes.emplace_back(name, value);
  }

  Flow exec_set_block(const Stmt& stmt, const ScopePtr& scope) {
    std::string text;
    const Flow flow = capture(stmt.blocks[0], std::make_shared<Scope>(scope), text);
    if (flow != Flow::kNormal) return flow;
    Value value = runtime_.string(std::move(text));
    if (stmt.exprs[0]) value = eval_filter(*stmt.exprs[0], scope, &value);
    assign(stmt.target, value, scope);
    return Flow::kNormal;
  }

  Flow exec_with(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
    const auto inner = std::make_shared<Scope>(scope);
    for (size_t i = 0; i < stmt.exprs.size(); ++i) {
      runtime_.step(i / 16);
      inner->set(stmt.macro->parameters[i], eval(*stmt.exprs[i], scope));
    }
    return exec_block(stmt.blocks[0], inner, out);
  }

  void exec_generation(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
    const size_t begin = out.size();
    exec_block(stmt.blocks[0], std::make_shared<Scope>(scope), out);
    if (&out == &rendering_->text) rendering_->generation_spans.push_back({begin, out.size()});
  }

  void exec_call(const Stmt& stmt, const ScopePtr& scope, std::string& out) {
    const Expr& call = *stmt.exprs[0];
    const Value callee = eval(*call.operands[0], scope);
    Arguments arguments = eval_arguments(call.arguments, scope);
    arguments.named.emplace_back("caller", make_macro(*stmt.macro, scope));
    runtime_.line = stmt.line;
    write(out, runtime_.str(call_value(callee, arguments)));
  }

  // ---- macros
  Value make_macro(const Macro& macro, const ScopePtr& scope) {
    runtime_.charge(64);
    captured_scopes_.push_back(scope);
    return runtime_.function(macro.name, [this, &macro, scope](Runtime&, Arguments& arguments) {
      return call_macro(macro, scope, arguments);
    });
  }

  Value call_macro(const Macro& macro, const ScopePtr& defined_in, Arguments& arguments) {
    const int line = runtime_.line;
    const auto scope = std::make_shared<Scope>(defined_in);
    const size_t count = macro.parameters.size();
    const size_t given = std::min(arguments.positional.size(), count);
    // Every name is looked for among those before it.
    runtime_.step(count * (count + arguments.named.size()) / 16);
    for (size_t i = 0; i < given; ++i) scope->set(macro.parameters[i], arguments.positional[i]);
    std::vector<std::pair<Value, Value>> surplus;
    for (const auto& [name, value] : arguments.named) {
      const auto at = std::find(macro.parameters.begin(), macro.parameters.end(), name);
      if (at != macro.parameters.end()) {
        if (static_cast<size_t>(at - macro.parameters.begin()) < given) {
          runtime_.fail("macro '{}' got its argument '{}' twice", macro.name, name);
        }
        scope->set(name, value);
      } else if (name == "caller" && macro.uses_caller) {
        scope->set(name, value);
      } else if (macro.uses_kwargs) {
        surplus.emplace_back(runtime_.string(name), value);
      } else {
        runtime_.fail("macro '{}' has no argument '{}'", macro.name, name);
      }
    }
    if (arguments.positional.size() > count && !macro.uses_varargs) {
      runtime_.fail("macro '{}' takes at most {} arguments, {} were given", macro.name, count,
                    arguments.positional.size());
    }
    if (macro.uses_caller && scope->find_here("caller") == nullptr)
      scope->set("caller", runtime_.undefined("No caller defined"));
    if (macro.uses_kwargs) scope->set("kwargs", runtime_.dict(std::move(surplus)));
    if (macro.uses_varargs) {
      scope->set("varargs", runtime_.sequence(Kind::kTuple, {arguments.positional.begin() +
                                                                 static_cast<std::ptrdiff_t>(given),
                                                             arguments.positional.end()}));
    }
    for (size_t i = 0; i < count; ++i) {
      if (scope->find_here(macro.parameters[i]) != nullptr) continue;
      const size_t first_default = count - macro.defaults.size();
      scope->set(macro.parameters[i], i >= first_default
                                          ? eval(*macro.defaults[i - first_default], scope)
                                          : runtime_.undefined(fmt::format("parameter '{}' was not provided",
                                                                           macro.parameters[i])));
    }
    std::string text;
    capture(macro.body, scope, text);
    runtime_.line = line;
    return runtime_.string(std::move(text));
  }

  // ---- expressions
  Value lookup(const std::string& name, const ScopePtr& scope) {
    for (Scope* at = scope.get(); at != nullptr; at = at->parent.get()) {
      runtime_.step(1 + at->variables.size() / 16);
      if (const Value* found = at->find_here(name)) return *found;
    }
    if (name == "namespace") return namespace_function();
    if (auto global = find_global(runtime_, name, now_unix_s_)) return *global;
    return runtime_.undefined(fmt::format("'{}' is undefined", name));
  }

  Value namespace_function() {
    return runtime_.function("namespace", [this](Runtime& runtime, Arguments& arguments) {
      auto object = std::make_shared<Namespace>(runtime, sizeof(Namespace) + 64);
      namespaces_.push_back(object);
      const Value out(Kind::kNamespace, object);
      const Value attributes = dictionary_of(runtime, "namespace", arguments);
      for (const auto& [key, value] : static_cast<const Mapping&>(*attributes.object()).entries) {
        set_attribute(out, runtime.str(key), value);
      }
      return out;
    });
  }

  Value eval(const Expr& expr, const ScopePtr& scope) {
    const Runtime::Depth depth(runtime_);
    runtime_.step();
    runtime_.line = expr.line;
    switch (expr.kind) {
      case Expr::Kind::kNone:
        return Value();
      case Expr::Kind::kBool:
        return Value(expr.integer != 0);
      case Expr::Kind::kInt:
        return Value(expr.integer);
      case Expr::Kind::kFloat:
        return Value(expr.number);
      case Expr::Kind::kString:
        return runtime_.string(expr.text);
      case Expr::Kind::kName:
        return lookup(expr.text, scope);
      case Expr::Kind::kList:
        return runtime_.list(eval_all(expr.operands, scope));
      case Expr::Kind::kTuple:
        return runtime_.sequence(Kind::kTuple, eval_all(expr.operands, scope));
      case Expr::Kind::kDict:
        return eval_dict(expr, scope);
      case Expr::Kind::kAttribute:
        return eval_attribute(expr, scope);
      case Expr::Kind::kItem:
        return eval_item(expr, scope);
      case Expr::Kind::kSlice:
        return eval_slice(expr, scope);
      case Expr::Kind::kCall:
        return eval_call(expr, scope);
      case Expr::Kind::kFilter:
        return eval_filter(expr, scope, nullptr);
      case Expr::Kind::kTest:
        return eval_test(expr, scope);
      case Expr::Kind::kNot:
        return Value(!runtime_.truth(eval(*expr.operands[0], scope)));
      case Expr::Kind::kUnary:
        return eval_unary(expr, scope);
      case Expr::Kind::kBinary:
        return eval_binary(expr, scope);
      case Expr::Kind::kAnd: {
        Value left = eval(*expr.operands[0], scope);
        return runtime_.truth(left) ? eval(*expr.operands[1], scope) : left;
      }
      case Expr::Kind::kOr: {
        Value left = eval(*expr.operands[0], scope);
        return runtime_.truth(left) ? left : eval(*expr.operands[1], scope);
      }
      case Expr::Kind::kCompare:
        return eval_compare(expr, scope);
      case Expr::Kind::kConditional:
        return eval_conditional(expr, scope);
    }
    return Value();
  }

  std::vector<Value> eval_all(const std::vector<ExprPtr>& exprs, const ScopePtr& scope) {
    std::vector<Value> out;
    out.reserve(exprs.size());
    for (const auto& expr : exprs) out.push_back(eval(*expr, scope));
    return out;
  }

  Value eval_dict(const Expr& expr, const ScopePtr& scope) {
    std::vector<std::pair<Value, Value>> entries;
    for (size_t i = 0; i < expr.operands.size(); i += 2) {
      Value key = eval(*expr.operands[i], scope);
      entries.emplace_back(std::move(key), eval(*expr.operands[i + 1], scope));
    }
    return runtime_.dict(std::move(entries));
  }

  Value eval_attribute(const Expr& expr, const ScopePtr& scope) {
    const Value object = eval(*expr.operands[0], scope);
    runtime_.line = expr.line;
    if (object.is(Kind::kLoop)) return loop_attribute(object, expr.text);
    return runtime_.attribute(object, expr.text);
  }

  Value eval_item(const Expr& expr, const ScopePtr& scope) {
    const Value object = eval(*expr.operands[0], scope);
    const Value key = eval(*expr.operands[1], scope);
    runtime_.line = expr.line;
    if (object.is(Kind::kLoop) && key.is_string()) return loop_attribute(object, key.text());
    return runtime_.item(object, key);
  }

  Value eval_slice(const Expr& expr, const ScopePtr& scope) {
    const Value object = eval(*expr.operands[0], scope);
    Value bounds[3];
    for (size_t i = 0; i < 3; ++i) {
      if (expr.operands[i + 1]) bounds[i] = eval(*expr.operands[i + 1], scope);
    }
    runtime_.line = expr.line;
    return runtime_.slice(object, bounds[0], bounds[1], bounds[2]);
  }

  Value eval_unary(const Expr& expr, const ScopePtr& scope) {
    const Value operand = eval(*expr.operands[0], scope);
    runtime_.line = expr.line;
    if (operand.is_undefined()) runtime_.fail_undefined(operand);
    if (!operand.is_number())
      runtime_.fail("unary {} wants a number, found {}", expr.text, runtime_.type_name(operand));
    if (operand.is(Kind::kHuge))
      runtime_.fail("unary {} does not work with numbers beyond 63 bits", expr.text);
    if (expr.text == "+") return operand.is(Kind::kBool) ? Value(operand.integer()) : operand;
    if (operand.is(Kind::kFloat)) return Value(-operand.number());
    return arithmetic(runtime_, "-", Value(int64_t{0}), operand);
  }

  Value eval_binary(const Expr& expr, const ScopePtr& scope) {
    const Value left = eval(*expr.operands[0], scope);
    const Value right = eval(*expr.operands[1], scope);
    runtime_.line = expr.line;
    return arithmetic(runtime_, expr.text, left, right);
  }

  Value eval_compare(const Expr& expr, const ScopePtr& scope) {
    Value left = eval(*expr.operands[0], scope);
    for (size_t i = 0; i < expr.operators.size(); ++i) {
      Value right = eval(*expr.operands[i + 1], scope);
      runtime_.line = expr.line;
      const std::string& op = expr.operators[i];
      bool holds = false;
      if (op == "==") {
        holds = runtime_.equal(left, right);
      } else if (op == "!=") {
        holds = !runtime_.equal(left, right);
      } else if (op == "<") {
        holds = runtime_.less(left, right);
      } else if (op == ">") {
        holds = runtime_.less(right, left);
      } else if (op == "<=") {
        holds = runtime_.less(left, right) || runtime_.equal(left, right);
      } else if (op == ">=") {
        holds = runtime_.less(right, left) || runtime_.equal(left, right);
      } else {
        holds = runtime_.contains(right, left) == (op == "in");
      }
      if (!holds) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  Value eval_conditional(const Expr& expr, const ScopePtr& scope) {
    if (runtime_.truth(eval(*expr.operands[1], scope))) return eval(*expr.operands[0], scope);
    if (expr.operands[2]) return eval(*expr.operands[2], scope);
    return runtime_.undefined("the inline if-expression evaluated to false and no else section was defined");
  }

  Arguments eval_arguments(const CallArguments& arguments, const ScopePtr& scope) {
    Arguments out;
    out.positional = eval_all(arguments.positional, scope);
    for (const auto& [name, expr] : arguments.named) out.named.emplace_back(name, eval(*expr, scope));
    if (arguments.star) {
      for (Value& item : runtime_.iterate(eval(*arguments.star, scope)))
        out.positional.push_back(std::move(item));
    }
    if (arguments.double_star) {
      const Value dict = eval(*arguments.double_star, scope);
      if (!dict.is_dict()) runtime_.fail("'**' wants a dictionary, found {}", runtime_.type_name(dict));
      for (const auto& [key, value] : static_cast<const Mapping&>(*dict.object()).entries) {
        out.named.emplace_back(runtime_.to_text(key, "the name of an argument"), value);
      }
    }
    return out;
  }

  Value eval_call(const Expr& expr, const ScopePtr& scope) {
    const Value callee = eval(*expr.operands[0], scope);
    Arguments arguments = eval_arguments(expr.arguments, scope);
    runtime_.line = expr.line;
    return call_value(callee, arguments);
  }

  Value call_value(const Value& callee, Arguments& arguments) {
    if (!callee.is(Kind::kLoop)) return runtime_.call(callee, arguments);
    const auto& loop = static_cast<const Loop&>(*callee.object());
    if (!loop.recurse) runtime_.fail("'loop' is called, but its 'for' is not recursive");
    if (arguments.positional.size() != 1) runtime_.fail("'loop' takes one argument");
    const auto recurse = loop.recurse;
    return recurse(arguments.positional[0]);
  }

  Value eval_filter(const Expr& expr, const ScopePtr& scope, const Value* body) {
    const Runtime::Depth depth(runtime_);
    const Expr* inner = expr.operands[0].get();
    const Value operand = inner == nullptr ? *body
                          : inner->kind == Expr::Kind::kFilter && body != nullptr
                              ? eval_filter(*inner, scope, body)
                              : eval(*inner, scope);
    Arguments arguments = eval_arguments(expr.arguments, scope);
    runtime_.line = expr.line;
    const FilterFn filter = find_filter(expr.text);
    if (filter == nullptr) runtime_.fail("there is no filter '{}'", expr.text);
    return filter(runtime_, operand, arguments);
  }

  Value eval_test(const Expr& expr, const ScopePtr& scope) {
    const Value operand = eval(*expr.operands[0], scope);
    Arguments arguments = eval_arguments(expr.arguments, scope);
    runtime_.line = expr.line;
    const TestFn test = find_test(expr.text);
    if (test == nullptr) runtime_.fail("there is no test '{}'", expr.text);
    return Value(test(runtime_, operand, arguments));
  }

  // ---- the variable `loop`
  Value loop_attribute(const Value& value, const std::string& name) {
    const auto object = std::static_pointer_cast<Loop>(value.object());
    const Loop& loop = *object;
    const auto at = static_cast<int64_t>(loop.at), size = static_cast<int64_t>(loop.items.size());
    if (name == "index") return Value(at + 1);
    if (name == "index0") return Value(at);
    if (name == "revindex") return Value(size - at);
    if (name == "revindex0") return Value(size - at - 1);
    if (name == "first") return Value(at == 0);
    if (name == "last") return Value(at + 1 == size);
    if (name == "length") return Value(size);
    if (name == "depth") return Value(loop.depth);
    if (name == "depth0") return Value(loop.depth - 1);
    if (name == "previtem") {
      return at > 0 ? loop.items[loop.at - 1] : runtime_.undefined("there is no previous item");
    }
    if (name == "nextitem") {
      return at + 1 < size ? loop.items[loop.at + 1] : runtime_.undefined("there is no next item");
    }
    if (name == "cycle") {
      return runtime_.function("cycle", [at](Runtime& runtime, Arguments& arguments) {
        if (arguments.positional.empty()) runtime.fail("'loop.cycle' wants something to cycle through");
        return arguments.positional[static_cast<size_t>(at) % arguments.positional.size()];
      });
    }
    if (name == "changed") {
      runtime_.charge(sizeof object);
      changed_loops_.push_back(object);
      return runtime_.function("changed", [object](Runtime& runtime, Arguments& arguments) {
        Value now = runtime.sequence(Kind::kTuple, arguments.positional);
        const bool changed = !object->last_changed || !runtime.equal(*object->last_changed, now);
        object->last_changed = std::move(now);
        return Value(changed);
      });
    }
    return runtime_.undefined(fmt::format("'loop' has no attribute '{}'", name));
  }

  const TemplateAst& ast_;
  const std::optional<int64_t> now_unix_s_;
  Runtime runtime_;  // before everything that holds values
  std::vector<ScopePtr> captured_scopes_;
  std::vector<std::shared_ptr<Object>> namespaces_;
  std::vector<std::shared_ptr<Loop>> changed_loops_;
  Rendering* rendering_ = nullptr;
};

}  // namespace

Value Runtime::attribute(const Value& object, const std::string& name) {
  if (name.size() > 4 && name.starts_with("__") && name.ends_with("__")) {
    return undefined(fmt::format("access to attribute '{}' is not safe", name));
  }
  if (object.is_undefined()) fail_undefined(object);
  if (object.is(Kind::kNamespace)) {
    step(static_cast<const Namespace&>(*object.object()).attributes.size() / 16);
    for (const auto& [key, value] : static_cast<const Namespace&>(*object.object()).attributes) {
      if (key == name) return value;
    }
    return undefined(fmt::format("the namespace has no attribute '{}'", name));
  }
  if (object.is(Kind::kFunction) && name == "name") {
    return string(static_cast<const Function&>(*object.object()).name);
  }
  if (auto method = find_method(*this, object, name)) return *method;
  if (object.is_dict()) {
    if (const Value* found = find(object, name)) return *found;
  }
  return undefined(fmt::format("'{} object' has no attribute '{}'", type_name(object), name));
}

Template Template::parse(std::string_view source, std::string name) {
  Template out;
  out.ast_ = parse_template(source, std::move(name));
  return out;
}

Rendering Template::render(const Json& variables, std::optional<int64_t> now_unix_s,
                           const Limits& limits) const {
  VERTEBRA_CHECK(ast_ != nullptr, "a template that was not parsed is rendered");
  return Evaluator(*ast_, now_unix_s, limits).run(variables);
}

bool Template::has_generation_blocks() const { return ast_ != nullptr && ast_->has_generation_blocks; }

}  // namespace vertebra::jinja
