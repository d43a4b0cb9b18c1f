// The primitives of the reference evaluation, by name.
#pragma once

#include <span>
#include <string_view>

#include "backend/reference/array.h"
#include "backend/reference/reference.h"
#include "graph/graph.h"

namespace vertebra::reference {

// One primitive node on its operands; the result has element type and (actual) sizes of `result`, zeros
// before.
struct Call {
  const Node& node;
  std::span<const Array* const> operands;
  const ReferenceOptions& options;
  Array& result;

  const Array& operand(size_t i) const { return *operands[i]; }
  const Ints& ints(std::string_view name) const { return node.attrs.get<Ints>(name); }
};
using Primitive = void (*)(const Call&);

Primitive find_primitive(std::string_view name);  // null when there is none
// The families, in files of their names.
Primitive find_elementwise(std::string_view name);
Primitive find_structural(std::string_view name);

}  // namespace vertebra::reference
