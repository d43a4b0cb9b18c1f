// What the verifier knows about each operation: operand count, attributes and their forms, types.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "backend/pjrt/stablehlo_parser.h"

namespace vertebra::pjrt {

enum class AttributeForm {
  kInteger,    // "5 : i64"
  kList,       // "array<i64: 1, 2>"
  kElements,   // "dense<...> : tensor<...>", of the result's type
  kDirection,  // "#stablehlo<comparison_direction LT>"
  kPrecision,  // "[#stablehlo<precision HIGHEST>, ...]"
  kStruct,     // "#stablehlo.dot<...>": the type rule reads it
  kSharding,   // of the result's type on the module's mesh, for Shardy
  kTarget,     // "\"Sharding\"": a sharding for GSPMD stands beside the operation
};

struct AttributeRule {
  std::string_view name;
  AttributeForm form;
};

struct OperationRule {
  std::string_view name;
  int operands;                           // -1: any number from 1
  std::vector<AttributeRule> attributes;  // all are required
  int regions;
  // What is wrong with the types, in words; empty when nothing. Attributes have their forms.
  std::string (*types)(const ParsedOperation&);
  int results = 1;  // -1: as many as operands
};

// Of one element ("f32"); 0 for a type that is not written.
size_t element_bytes(const std::string& element);

// Null for an unknown operation.
const OperationRule* find_rule(std::string_view name);

}  // namespace vertebra::pjrt
