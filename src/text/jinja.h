// Jinja templates as chat templates use them: parse once, render many times, from any thread. The
// semantics are those of jinja2's ImmutableSandboxedEnvironment as set up by transformers
// (trim_blocks, lstrip_blocks, loop controls, {% generation %}). No files, no includes, no
// inheritance. Templates are hostile input: time, memory, output and recursion are bounded.
// Called by chat_template.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace vertebra::jinja {

struct TemplateAst;

struct Limits {
  uint64_t steps = 50'000'000;                // expressions evaluated, plus one per 16 bytes handled
  uint64_t memory_bytes = 256 * 1024 * 1024;  // live values and output together
  int depth = 800;                            // nested expressions, statements and macro calls
};

// Bytes [begin, end) of the rendering.
struct Span {
  size_t begin = 0;
  size_t end = 0;
  bool operator==(const Span&) const = default;
};

struct Rendering {
  std::string text;
  // What {% generation %} blocks wrote, in order. Blocks inside macros, calls and {% set %} blocks
  // have no fixed place in the text and give none.
  std::vector<Span> generation_spans;
};

class Template {
 public:
  // `name` stands in errors. Throws invalid_argument with line and what was wrong.
  static Template parse(std::string_view source, std::string name);

  // `variables`: a JSON object. `now_unix_s`: what strftime_now() shows, in UTC; without it the local
  // time. Throws invalid_argument (the template's or the variables' fault, raise_exception too) or
  // resource_exhausted (a limit), with name and line.
  Rendering render(const Json& variables, std::optional<int64_t> now_unix_s = std::nullopt,
                   const Limits& limits = {}) const;

  bool has_generation_blocks() const;

 private:
  std::shared_ptr<const TemplateAst> ast_;
};

}  // namespace vertebra::jinja
