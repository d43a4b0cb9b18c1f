// Builds the syntax tree of a Jinja template: jinja2's grammar without template inheritance, includes
// and imports, which a chat template has no use for.
#include <algorithm>
#include <functional>

#include "base/error.h"
#include "text/jinja_syntax.h"

namespace vertebra::jinja {
namespace {

constexpr int kMaxNesting = 150;
constexpr int kMaxExprDepth = 500;

class Parser {
 public:
  Parser(std::string_view source, const std::string& name) : name_(name), tokens_(tokenize(source, name)) {}

  Block parse_all() {
    Block body = parse_block({});
    if (!at_end()) fail_here("unexpected " + describe());
    return body;
  }
  bool has_generation_blocks() const { return has_generation_blocks_; }

 private:
  using Type = Token::Type;

  // ---- tokens
  const Token& current() const { return tokens_[at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token next() {
    const Token token = tokens_[at_];
    if (at_ + 1 < tokens_.size()) ++at_;
    return token;
  }
  bool at_end() const { return current().type == Type::kEnd; }
  bool is_op(std::string_view text) const {
    return current().type == Type::kOperator && current().text == text;
  }
  bool is_name(std::string_view text) const {
    return current().type == Type::kName && current().text == text;
  }
  bool skip_op(std::string_view text) {
    if (!is_op(text)) return false;
    next();
    return true;
  }
  bool skip_name(std::string_view text) {
    if (!is_name(text)) return false;
    next();
    return true;
  }
  void expect_op(std::string_view text) {
    if (!skip_op(text)) fail_here(fmt::format("expected '{}', found {}", text, describe()));
  }
  void expect_name(std::string_view text) {
    if (!skip_name(text)) fail_here(fmt::format("expected '{}', found {}", text, describe()));
  }
  std::string expect_any_name(std::string_view what) {
    if (current().type != Type::kName) fail_here(fmt::format("expected {}, found {}", what, describe()));
    return next().text;
  }
  void expect_block_end() {
    if (current().type != Type::kBlockEnd) fail_here("expected '%}', found " + describe());
    next();
  }
  std::string describe() const {
    return at_end() ? "the end of the template" : fmt::format("'{}'", current().text.substr(0, 40));
  }
  [[noreturn]] void fail_here(const std::string& message) const {
    fail_syntax(name_, current().line, message);
  }

  struct Nesting {
    explicit Nesting(Parser& parser) : parser(parser) {
      if (++parser.nesting_ > kMaxNesting) parser.fail_here("nested too deeply");
    }
    ~Nesting() { --parser.nesting_; }
    Parser& parser;
  };

  ExprPtr make(Expr::Kind kind, int line) {
    auto out = std::make_unique<Expr>();
    out->kind = kind;
    out->line = line;
    return out;
  }
  // Every node passes through here when its children are complete.
  ExprPtr sealed(ExprPtr expr) {
    int depth = 0;
    const auto count = [&](const ExprPtr& child) {
      if (child) depth = std::max(depth, child->depth);
    };
    for (const auto& child : expr->operands) count(child);
    for (const auto& child : expr->arguments.positional) count(child);
    for (const auto& child : expr->arguments.named) count(child.second);
    count(expr->arguments.star);
    count(expr->arguments.double_star);
    expr->depth = depth + 1;
    if (expr->depth > kMaxExprDepth)
      fail_syntax(name_, expr->line, "the expression is too long or nested too deeply");
    return expr;
  }
  ExprPtr unary(Expr::Kind kind, std::string text, ExprPtr operand, int line) {
    ExprPtr out = make(kind, line);
    out->text = std::move(text);
    out->operands.push_back(std::move(operand));
    return sealed(std::move(out));
  }
  ExprPtr binary(Expr::Kind kind, std::string text, ExprPtr left, ExprPtr right, int line) {
    ExprPtr out = make(kind, line);
    out->text = std::move(text);
    out->operands.push_back(std::move(left));
    out->operands.push_back(std::move(right));
    return sealed(std::move(out));
  }

  // ---- statements
  // Up to a tag whose name is in `ends`, which is left with its name as the current token.
  Block parse_block(const std::vector<std::string_view>& ends) {
    const Nesting nesting(*this);
    Block out;
    const int open_line = at_ == 0 ? 1 : tokens_[at_ - 1].line;
    while (!at_end()) {
      if (current().type == Type::kData) {
        out.push_back(statement(Stmt::Kind::kData));
        out.back()->text = next().text;
      } else if (current().type == Type::kVariableBegin) {
        next();
        out.push_back(statement(Stmt::Kind::kOutput));
        out.back()->exprs.push_back(parse_tuple(true, {}));
        if (current().type != Type::kVariableEnd) fail_here("expected '}}', found " + describe());
        next();
      } else if (current().type == Type::kBlockBegin) {
        next();
        for (const auto end : ends) {
          if (is_name(end)) return out;
        }
        out.push_back(parse_statement());
      } else {
        fail_here("unexpected " + describe());
      }
    }
    if (!ends.empty()) {
      fail_syntax(name_, open_line, fmt::format("a block is not closed: '{}' is missing", ends.back()));
    }
    return out;
  }

  // Body of a tag: after its '%}', through {% end %}.
  Block parse_body(std::string_view end) {
    expect_block_end();
    Block out = parse_block({end});
    next();
    expect_block_end();
    return out;
  }

  std::unique_ptr<Stmt> statement(Stmt::Kind kind) {
    auto out = std::make_unique<Stmt>();
    out->kind = kind;
    out->line = current().line;
    return out;
  }

  std::unique_ptr<Stmt> parse_statement() {
    if (current().type != Type::kName) fail_here("expected the name of a tag, found " + describe());
    const std::string tag = current().text;
    auto out = statement(Stmt::Kind::kIf);
    next();
    if (tag == "if") {
      parse_if(*out);
    } else if (tag == "for") {
      parse_for(*out);
    } else if (tag == "set") {
      parse_set(*out);
    } else if (tag == "macro") {
      out->kind = Stmt::Kind::kMacro;
      parse_macro(*out, "endmacro", true);
    } else if (tag == "call") {
      out->kind = Stmt::Kind::kCall;
      parse_call_block(*out);
    } else if (tag == "filter") {
      out->kind = Stmt::Kind::kFilter;
      out->exprs.push_back(parse_filter_chain(nullptr, true));
      out->blocks.push_back(parse_body("endfilter"));
    } else if (tag == "with") {
      parse_with(*out);
    } else if (tag == "generation") {
      out->kind = Stmt::Kind::kGeneration;
      has_generation_blocks_ = true;
      const int loops = std::exchange(loops_, 0);
      out->blocks.push_back(parse_body("endgeneration"));
      loops_ = loops;
    } else if (tag == "break" || tag == "continue") {
      out->kind = tag == "break" ? Stmt::Kind::kBreak : Stmt::Kind::kContinue;
      if (loops_ == 0) fail_here("'" + tag + "' stands outside of a loop");
      expect_block_end();
    } else {
      fail_syntax(name_, out->line,
                  fmt::format("unknown tag '{}' (known: if, for, set, macro, call, filter, with, generation, "
                              "break, continue, raw)",
                              tag));
    }
    return out;
  }

  void parse_if(Stmt& out) {
    for (;;) {
      out.exprs.push_back(parse_tuple(false, {}));
      expect_block_end();
      out.blocks.push_back(parse_block({"elif", "else", "endif"}));
      const std::string tag = next().text;
      if (tag == "elif") continue;
      if (tag == "else") {
        expect_block_end();
        out.blocks.push_back(parse_block({"endif"}));
        next();
      }
      return expect_block_end();
    }
  }

  void parse_for(Stmt& out) {
    out.kind = Stmt::Kind::kFor;
    out.target = parse_target(false, "in");
    expect_name("in");
    out.exprs.push_back(parse_tuple(false, "recursive"));
    out.exprs.push_back(skip_name("if") ? parse_expression() : nullptr);
    out.recursive = skip_name("recursive");
    expect_block_end();
    ++loops_;
    out.blocks.push_back(parse_block({"else", "endfor"}));
    --loops_;
    if (next().text == "else") {
      expect_block_end();
      out.blocks.push_back(parse_block({"endfor"}));
      next();
    }
    expect_block_end();
  }

  void parse_set(Stmt& out) {
    out.kind = Stmt::Kind::kSet;
    out.target = parse_target(true, "");
    if (skip_op("=")) {
      out.exprs.push_back(parse_tuple(true, {}));
      return expect_block_end();
    }
    out.kind = Stmt::Kind::kSetBlock;
    out.exprs.push_back(is_op("|") ? parse_filter_chain(nullptr, false) : nullptr);
    out.blocks.push_back(parse_body("endset"));
  }

  Target parse_target(bool with_namespace, std::string_view end_name) {
    Target out;
    std::vector<Target> parts;
    bool is_tuple = false;
    for (;;) {
      if (is_tuple && (is_op("=") || is_op(")") || is_name(end_name) || current().type == Type::kBlockEnd))
        break;
      parts.push_back(parse_single_target(with_namespace, end_name));
      if (!skip_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) return std::move(parts[0]);
    out.parts = std::move(parts);
    return out;
  }

  Target parse_single_target(bool with_namespace, std::string_view end_name) {
    const Nesting nesting(*this);
    if (skip_op("(")) {
      Target out = parse_target(with_namespace, end_name);
      expect_op(")");
      return out;
    }
    Target out;
    out.name = expect_any_name("a name to assign to");
    for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"}) {
      if (out.name == constant) fail_here(fmt::format("'{}' cannot be assigned to", constant));
    }
    if (with_namespace && skip_op(".")) out.attribute = expect_any_name("the attribute of a namespace");
    return out;
  }

  void parse_parameters(Macro& macro) {
    expect_op("(");
    while (!is_op(")")) {
      if (!macro.parameters.empty()) expect_op(",");
      if (is_op(")")) break;
      macro.parameters.push_back(expect_any_name("the name of a parameter"));
      if (skip_op("=")) {
        macro.defaults.push_back(parse_expression());
      } else if (!macro.defaults.empty()) {
        fail_here("a parameter without a default follows one with a default");
      }
    }
    expect_op(")");
  }

  // Parses the body with its own view on which of `varargs`, `kwargs` and `caller` it names.
  void parse_macro(Stmt& out, std::string_view end, bool named) {
    if (!out.macro) out.macro = std::make_unique<Macro>();
    if (named) {
      out.macro->name = expect_any_name("the name of a macro");
      parse_parameters(*out.macro);
    }
    Macro* const outer = std::exchange(macro_, out.macro.get());
    const int loops = std::exchange(loops_, 0);
    out.macro->body = parse_body(end);
    if (outer != nullptr) {  // as jinja2 looks for these names: in what a macro contains, too
      outer->uses_varargs |= macro_->uses_varargs;
      outer->uses_kwargs |= macro_->uses_kwargs;
      outer->uses_caller |= macro_->uses_caller;
    }
    macro_ = outer;
    loops_ = loops;
  }

  void parse_call_block(Stmt& out) {
    out.macro = std::make_unique<Macro>();
    out.macro->name = "caller";
    if (is_op("(")) parse_parameters(*out.macro);
    out.exprs.push_back(parse_expression());
    if (out.exprs[0]->kind != Expr::Kind::kCall) fail_here("{% call %} wants the call of a macro");
    parse_macro(out, "endcall", false);
  }

  void parse_with(Stmt& out) {
    out.kind = Stmt::Kind::kWith;
    out.macro = std::make_unique<Macro>();
    while (current().type != Type::kBlockEnd) {
      if (!out.exprs.empty()) expect_op(",");
      out.macro->parameters.push_back(expect_any_name("a name"));
      expect_op("=");
      out.exprs.push_back(parse_expression());
    }
    out.blocks.push_back(parse_body("endwith"));
  }

  // ---- expressions
  ExprPtr parse_expression(bool with_conditional = true) {
    const Nesting nesting(*this);
    if (!with_conditional) return parse_or();
    ExprPtr out = parse_or();
    while (is_name("if")) {
      ExprPtr conditional = make(Expr::Kind::kConditional, next().line);
      conditional->operands.push_back(std::move(out));
      conditional->operands.push_back(parse_or());
      conditional->operands.push_back(skip_name("else") ? parse_expression() : nullptr);
      out = sealed(std::move(conditional));
    }
    return out;
  }

  bool at_tuple_end(std::string_view end_name) const {
    return current().type == Type::kVariableEnd || current().type == Type::kBlockEnd || is_op(")") ||
           (!end_name.empty() && is_name(end_name));
  }

  ExprPtr parse_tuple(bool with_conditional, std::string_view end_name, bool parentheses = false) {
    const int line = current().line;
    std::vector<ExprPtr> items;
    bool is_tuple = false;
    while (!at_tuple_end(end_name)) {
      items.push_back(parse_expression(with_conditional));
      if (!skip_op(",")) break;
      is_tuple = true;
    }
    if (!is_tuple && items.size() == 1) return std::move(items[0]);
    if (items.empty() && !parentheses) fail_here("expected an expression, found " + describe());
    ExprPtr out = make(Expr::Kind::kTuple, line);
    out->operands = std::move(items);
    return sealed(std::move(out));
  }

  ExprPtr parse_or() {
    ExprPtr left = parse_and();
    while (is_name("or")) {
      const int line = next().line;
      left = binary(Expr::Kind::kOr, "or", std::move(left), parse_and(), line);
    }
    return left;
  }

  ExprPtr parse_and() {
    ExprPtr left = parse_not();
    while (is_name("and")) {
      const int line = next().line;
      left = binary(Expr::Kind::kAnd, "and", std::move(left), parse_not(), line);
    }
    return left;
  }

  ExprPtr parse_not() {
    if (!is_name("not")) return parse_compare();
    const Nesting nesting(*this);
    const int line = next().line;
    return unary(Expr::Kind::kNot, "not", parse_not(), line);
  }

  ExprPtr parse_compare() {
    const int line = current().line;
    ExprPtr first = parse_sum();
    ExprPtr out;
    for (;;) {
      std::string op;
      if (current().type == Type::kOperator &&
          (is_op("==") || is_op("!=") || is_op("<") || is_op("<=") || is_op(">") || is_op(">="))) {
        op = next().text;
      } else if (skip_name("in")) {
        op = "in";
      } else if (is_name("not") && look().type == Type::kName && look().text == "in") {
        next();
        next();
        op = "not in";
      } else {
        break;
      }
      if (!out) {
        out = make(Expr::Kind::kCompare, line);
        out->operands.push_back(std::move(first));
      }
      out->operators.push_back(op);
      out->operands.push_back(parse_sum());
    }
    return out ? sealed(std::move(out)) : std::move(first);
  }

  ExprPtr parse_sum() {
    ExprPtr left = parse_concat();
    while (is_op("+") || is_op("-")) {
      const Token op = next();
      left = binary(Expr::Kind::kBinary, op.text, std::move(left), parse_concat(), op.line);
    }
    return left;
  }

  ExprPtr parse_concat() {
    ExprPtr left = parse_product();
    while (is_op("~")) {
      const Token op = next();
      left = binary(Expr::Kind::kBinary, "~", std::move(left), parse_product(), op.line);
    }
    return left;
  }

  ExprPtr parse_product() {
    ExprPtr left = parse_power();
    while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
      const Token op = next();
      left = binary(Expr::Kind::kBinary, op.text, std::move(left), parse_power(), op.line);
    }
    return left;
  }

  ExprPtr parse_power() {
    ExprPtr left = parse_unary(true);
    while (is_op("**")) {
      const Token op = next();
      left = binary(Expr::Kind::kBinary, "**", std::move(left), parse_unary(true), op.line);
    }
    return left;
  }

  ExprPtr parse_unary(bool with_filter) {
    const Nesting nesting(*this);
    ExprPtr out;
    if (is_op("-") || is_op("+")) {
      const Token op = next();
      out = unary(Expr::Kind::kUnary, op.text, parse_unary(false), op.line);
    } else {
      out = parse_primary();
    }
    out = parse_postfix(std::move(out));
    return with_filter ? parse_filters_and_tests(std::move(out)) : std::move(out);
  }

  ExprPtr parse_primary() {
    const Token& token = current();
    const int line = token.line;
    switch (token.type) {
      case Type::kName:
        return parse_name();
      case Type::kString: {
        ExprPtr out = make(Expr::Kind::kString, line);
        while (current().type == Type::kString) out->text += next().text;
        return out;
      }
      case Type::kInteger: {
        ExprPtr out = make(Expr::Kind::kInt, line);
        out->integer = next().integer;
        return out;
      }
      case Type::kFloat: {
        ExprPtr out = make(Expr::Kind::kFloat, line);
        out->number = next().number;
        return out;
      }
      default:
        break;
    }
    if (skip_op("(")) {
      ExprPtr out = parse_tuple(true, {}, true);
      expect_op(")");
      return out;
    }
    if (skip_op("[")) return parse_list(line);
    if (skip_op("{")) return parse_dict(line);
    fail_here("expected an expression, found " + describe());
  }

  ExprPtr parse_name() {
    const Token token = next();
    const std::string& text = token.text;
    if (text == "true" || text == "True" || text == "false" || text == "False") {
      ExprPtr out = make(Expr::Kind::kBool, token.line);
      out->integer = text == "true" || text == "True";
      return out;
    }
    if (text == "none" || text == "None") return make(Expr::Kind::kNone, token.line);
    if (macro_ != nullptr) {
      macro_->uses_varargs |= text == "varargs";
      macro_->uses_kwargs |= text == "kwargs";
      macro_->uses_caller |= text == "caller";
    }
    ExprPtr out = make(Expr::Kind::kName, token.line);
    out->text = text;
    return out;
  }

  ExprPtr parse_list(int line) {
    ExprPtr out = make(Expr::Kind::kList, line);
    while (!is_op("]")) {
      if (!out->operands.empty()) expect_op(",");
      if (is_op("]")) break;
      out->operands.push_back(parse_expression());
    }
    expect_op("]");
    return sealed(std::move(out));
  }

  ExprPtr parse_dict(int line) {
    ExprPtr out = make(Expr::Kind::kDict, line);
    while (!is_op("}")) {
      if (!out->operands.empty()) expect_op(",");
      if (is_op("}")) break;
      out->operands.push_back(parse_expression());
      expect_op(":");
      out->operands.push_back(parse_expression());
    }
    expect_op("}");
    return sealed(std::move(out));
  }

  ExprPtr parse_postfix(ExprPtr out) {
    for (;;) {
      if (is_op(".")) {
        out = parse_attribute(std::move(out));
      } else if (is_op("[")) {
        out = parse_subscript(std::move(out));
      } else if (is_op("(")) {
        out = parse_call(std::move(out));
      } else {
        return out;
      }
    }
  }

  ExprPtr parse_attribute(ExprPtr object) {
    const int line = next().line;
    const Token token = next();
    if (token.type == Type::kName) return unary(Expr::Kind::kAttribute, token.text, std::move(object), line);
    if (token.type != Type::kInteger) fail_syntax(name_, line, "expected a name or a number behind '.'");
    ExprPtr index = make(Expr::Kind::kInt, line);
    index->integer = token.integer;
    return binary(Expr::Kind::kItem, "", std::move(object), std::move(index), line);
  }

  ExprPtr parse_subscript(ExprPtr object) {
    const int line = next().line;
    ExprPtr bounds[3];
    bool is_slice = false;
    if (!is_op(":")) bounds[0] = parse_expression();
    for (int i = 1; i < 3 && skip_op(":"); ++i) {
      is_slice = true;
      if (!is_op(":") && !is_op("]")) bounds[i] = parse_expression();
    }
    expect_op("]");
    if (!is_slice) return binary(Expr::Kind::kItem, "", std::move(object), std::move(bounds[0]), line);
    ExprPtr out = make(Expr::Kind::kSlice, line);
    out->operands.push_back(std::move(object));
    for (auto& bound : bounds) out->operands.push_back(std::move(bound));
    return sealed(std::move(out));
  }

  ExprPtr parse_call(ExprPtr callee) {
    ExprPtr out = make(Expr::Kind::kCall, current().line);
    out->operands.push_back(std::move(callee));
    out->arguments = parse_call_arguments();
    return sealed(std::move(out));
  }

  CallArguments parse_call_arguments() {
    CallArguments out;
    expect_op("(");
    bool first = true;
    while (!is_op(")")) {
      if (!first) expect_op(",");
      first = false;
      if (is_op(")")) break;
      if (is_op("*") || is_op("**")) {
        ExprPtr& target = next().text == "*" ? out.star : out.double_star;
        if (target || out.double_star) fail_here("arguments are unpacked twice");
        target = parse_expression();
      } else if (current().type == Type::kName && look().type == Type::kOperator && look().text == "=") {
        if (out.double_star) fail_here("an argument follows '**'");
        std::string key = next().text;
        next();
        out.named.emplace_back(std::move(key), parse_expression());
      } else {
        if (out.star || out.double_star || !out.named.empty()) {
          fail_here("a positional argument follows a keyword argument");
        }
        out.positional.push_back(parse_expression());
      }
    }
    expect_op(")");
    return out;
  }

  ExprPtr parse_filters_and_tests(ExprPtr out) {
    for (;;) {
      if (is_op("|")) {
        out = parse_filter_chain(std::move(out), false);
      } else if (is_name("is")) {
        out = parse_test(std::move(out));
      } else if (is_op("(")) {
        out = parse_call(std::move(out));
      } else {
        return out;
      }
    }
  }

  // `inline_start`: the first filter comes without '|' ({% filter upper %}).
  ExprPtr parse_filter_chain(ExprPtr operand, bool inline_start) {
    ExprPtr out = std::move(operand);
    while (inline_start || is_op("|")) {
      if (!inline_start) next();
      inline_start = false;
      ExprPtr filter = make(Expr::Kind::kFilter, current().line);
      filter->text = expect_any_name("the name of a filter");
      filter->operands.push_back(std::move(out));
      if (is_op("(")) filter->arguments = parse_call_arguments();
      out = sealed(std::move(filter));
    }
    return out;
  }

  ExprPtr parse_test(ExprPtr operand) {
    const int line = next().line;
    const bool negated = skip_name("not");
    ExprPtr out = make(Expr::Kind::kTest, line);
    out->text = expect_any_name("the name of a test");
    out->operands.push_back(std::move(operand));
    const Type type = current().type;
    if (is_op("(")) {
      out->arguments = parse_call_arguments();
    } else if ((type == Type::kName || type == Type::kString || type == Type::kInteger ||
                type == Type::kFloat || is_op("[") || is_op("{")) &&
               !is_name("else") && !is_name("or") && !is_name("and")) {
      if (is_name("is")) fail_here("tests cannot be chained with 'is'");
      out->arguments.positional.push_back(parse_postfix(parse_primary()));
    }
    out = sealed(std::move(out));
    return negated ? unary(Expr::Kind::kNot, "not", std::move(out), line) : std::move(out);
  }

  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  Macro* macro_ = nullptr;
  bool has_generation_blocks_ = false;
};

}  // namespace

std::shared_ptr<const TemplateAst> parse_template(std::string_view source, std::string name) {
  auto out = std::make_shared<TemplateAst>();
  out->name = std::move(name);
  Parser parser(source, out->name);
  out->body = parser.parse_all();
  out->has_generation_blocks = parser.has_generation_blocks();
  check_names(*out);
  return out;
}

}  // namespace vertebra::jinja
