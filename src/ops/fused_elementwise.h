// The little programs that fused_elementwise runs, as its attributes hold them. Built by the pass of that
// name, read by the kernel.
#pragma once

#include <string>
#include <vector>

#include "graph/op.h"

namespace vertebra {

// Values are numbered: the node's operands first, then the instructions' results. Attributes of the node:
//   shape    Shape of every value (the domain)
//   dims     for each operand in turn, its axes' places in the domain, as in broadcast_in_dim
//   program  "multiply 0 1; compare:lt 3 2; convert:bf16 4"
//   results  the numbers of the values that are the node's results
struct ElementwiseInstruction {
  std::string op;
  std::string detail;  // compare: the direction; convert: the element type
  std::vector<int> operands;

  Attrs attrs() const;  // of the op
};

// The ops a program may hold: elementwise primitives of one result.
bool is_elementwise(std::string_view op);
ElementwiseInstruction elementwise_instruction(const Node& node, std::vector<int> operands);

std::string print_program(const std::vector<ElementwiseInstruction>& program);
// Throws invalid_argument for text that print_program does not make.
std::vector<ElementwiseInstruction> parse_program(const std::string& text);

// The element type of every value: those of the operands, then the instructions'. Throws invalid_argument.
std::vector<DType> program_dtypes(const std::vector<ElementwiseInstruction>& program,
                                  std::vector<DType> operands);

}  // namespace vertebra
