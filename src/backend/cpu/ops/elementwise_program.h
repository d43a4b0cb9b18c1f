// Straight-line programs of elementwise ops, run block by block so that what is between the operands and the
// results stays in the first-level cache. A single elementwise op is a program of one instruction, so fusing
// ops changes no bits in f32; in bf16 and f16 what lies between stays in f32 and is rounded at a `convert`
// and in the results only. Used by elementwise.cc and fused_elementwise.cc.
#pragma once

#include <memory>
#include <vector>

#include "backend/cpu/kernel.h"
#include "backend/cpu/ops/elementwise_rows.h"

namespace vertebra::cpu {

// What the program is made from. Values are numbered: operands first, then instructions.
struct ElementwiseSource {
  struct Operand {
    DType dtype;
    std::vector<int64_t> dims;  // axis i of the operand is axis dims[i] of the domain
  };
  struct Instruction {
    std::string_view op;
    std::vector<int> operands;
    DType dtype;         // of its value
    std::string detail;  // compare: the direction
  };
  std::vector<Operand> operands;
  std::vector<Instruction> instructions;
  std::vector<int> results;  // value numbers; each is an instruction's
  Shape domain;
};

// Null when an instruction has no implementation.
std::unique_ptr<Kernel> make_elementwise_kernel(const ElementwiseSource& source);

}  // namespace vertebra::cpu
