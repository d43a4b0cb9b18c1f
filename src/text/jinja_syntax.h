// Tokens and syntax tree of the Jinja interpreter: made by jinja_lexer.cc and jinja_parser.cc, walked
// by jinja_evaluator.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vertebra::jinja {

struct Token {
  enum class Type {
    kData,
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,
    kBlockBegin,
    kBlockEnd,
    kVariableBegin,
    kVariableEnd,
    kEnd,
  };
  Type type = Type::kEnd;
  std::string text;
  int line = 1;
  int64_t integer = 0;
  double number = 0;
};

std::vector<Token> tokenize(std::string_view source, const std::string& name);
[[noreturn]] void fail_syntax(const std::string& name, int line, const std::string& message);

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, double_star;
};

struct Expr {
  enum class Kind {
    kNone,
    kBool,         // integer: 0 or 1
    kInt,          // integer
    kFloat,        // number
    kString,       // text
    kName,         // text
    kList,         // operands
    kTuple,        // operands
    kDict,         // operands: key, value, key, value, ...
    kAttribute,    // operands[0] . text
    kItem,         // operands[0] [ operands[1] ]
    kSlice,        // operands[0] [ operands[1] : operands[2] : operands[3] ], null where absent
    kCall,         // operands[0] ( arguments )
    kFilter,       // operands[0] (null in a filter block) | text ( arguments )
    kTest,         // operands[0] is text ( arguments )
    kNot,          // not operands[0]
    kUnary,        // text: + -
    kBinary,       // text: + - * / // % ** ~
    kAnd,          // operands[0] and operands[1]
    kOr,           // operands[0] or operands[1]
    kCompare,      // operands[0] operators[0] operands[1] operators[1] ...
    kConditional,  // operands[0] if operands[1] else operands[2] (null where absent)
  };
  Kind kind;
  int line = 1;
  int depth = 1;
  int64_t integer = 0;
  double number = 0;
  std::string text;
  std::vector<ExprPtr> operands;
  std::vector<std::string> operators;
  CallArguments arguments;
};

// What can stand left of an assignment: a name, namespace.attribute, or a tuple of these.
struct Target {
  std::string name;
  std::string attribute;
  std::vector<Target> parts;
};

struct Stmt;
using Block = std::vector<std::unique_ptr<Stmt>>;

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Block body;
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

struct Stmt {
  enum class Kind {
    kData,        // text
    kOutput,      // exprs[0]
    kIf,          // exprs[i] -> blocks[i]; one more block is the else
    kFor,         // target in exprs[0], exprs[1] the filter or null: blocks[0], else blocks[1]
    kSet,         // target = exprs[0]
    kSetBlock,    // target = blocks[0], filtered by exprs[0] or null
    kMacro,       // macro
    kCall,        // exprs[0] with macro as caller
    kFilter,      // exprs[0] applied to blocks[0]
    kWith,        // macro->parameters[i] = exprs[i] in blocks[0]
    kGeneration,  // blocks[0]
    kBreak,
    kContinue,
  };
  Kind kind;
  int line = 1;
  std::string text;
  Target target;
  bool recursive = false;
  std::vector<ExprPtr> exprs;
  std::vector<Block> blocks;
  std::unique_ptr<Macro> macro;
};

struct TemplateAst {
  std::string name;
  Block body;
  bool has_generation_blocks = false;
};

// Fails on filters and tests that do not exist where jinja2 does so before rendering: outside of {% if %} and
// conditional expressions.
void check_names(const TemplateAst& ast);

std::shared_ptr<const TemplateAst> parse_template(std::string_view source, std::string name);

}  // namespace vertebra::jinja
