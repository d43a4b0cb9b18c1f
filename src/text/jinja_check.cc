// Looks for filters and tests that do not exist, as jinja2's compiler does.
#include "text/jinja_syntax.h"
#include "text/jinja_value.h"

namespace vertebra::jinja {
namespace {

// `may_be_unknown`: inside {% if %} or a conditional expression a name may be unknown until it is used, so
// that a template can ask whether it is there. Loops, macros and blocks forget that they stand in one.
class NameChecker {
 public:
  explicit NameChecker(const std::string& name) : name_(name) {}

  void check(const Block& block, bool may_be_unknown) const {
    for (const auto& stmt : block) check(*stmt, may_be_unknown);
  }

 private:
  void check(const Stmt& stmt, bool outer) const {
    const bool is_if = stmt.kind == Stmt::Kind::kIf;
    const bool filters_block = stmt.kind == Stmt::Kind::kFilter || stmt.kind == Stmt::Kind::kSetBlock;
    for (size_t i = 0; i < stmt.exprs.size(); ++i) {
      const bool is_loop_filter = stmt.kind == Stmt::Kind::kFor && i == 1;
      check(stmt.exprs[i], is_if || (outer && !filters_block && !is_loop_filter));
    }
    for (const Block& block : stmt.blocks) check(block, is_if);
    if (!stmt.macro) return;
    for (const auto& value : stmt.macro->defaults) check(value, false);
    check(stmt.macro->body, false);
  }

  void check(const ExprPtr& expr, bool may_be_unknown) const {
    if (!expr) return;
    may_be_unknown |= expr->kind == Expr::Kind::kConditional;
    if (!may_be_unknown) {
      const bool is_filter = expr->kind == Expr::Kind::kFilter;
      if (is_filter ? find_filter(expr->text) == nullptr
                    : expr->kind == Expr::Kind::kTest && find_test(expr->text) == nullptr) {
        fail_syntax(name_, expr->line,
                    fmt::format("there is no {} '{}'", is_filter ? "filter" : "test", expr->text));
      }
    }
    for (const auto& child : expr->operands) check(child, may_be_unknown);
    for (const auto& child : expr->arguments.positional) check(child, may_be_unknown);
    for (const auto& child : expr->arguments.named) check(child.second, may_be_unknown);
    check(expr->arguments.star, may_be_unknown);
    check(expr->arguments.double_star, may_be_unknown);
  }

  const std::string& name_;
};

}  // namespace

void check_names(const TemplateAst& ast) { NameChecker(ast.name).check(ast.body, false); }

}  // namespace vertebra::jinja
