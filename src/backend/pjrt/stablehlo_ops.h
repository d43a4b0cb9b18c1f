// How each primitive op is written in StableHLO, by name: families in the files of their names.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "backend/pjrt/stablehlo_emitter.h"
#include "backend/pjrt/vendors.h"
#include "graph/graph.h"

namespace vertebra::pjrt {

struct HloCall {
  HloEmitter& emit;
  const Node& node;
  std::span<const HloValue> operands;
  const Vendor& vendor;
  const Mesh& mesh;

  const HloValue& operand(size_t i) const { return operands[i]; }
  const TensorType& result() const { return node.results[0]; }
  const std::vector<int64_t>& ints(std::string_view name) const {
    return node.attrs.get<std::vector<int64_t>>(name);
  }
  bool banned(std::string_view operation) const;
};
// Every primitive has one result.
using HloTranslation = HloValue (*)(const HloCall&);

HloTranslation find_translation(std::string_view op);  // null when there is none
// Writes a primitive node; unimplemented when it has no translation.
HloValue translate(HloEmitter& emit, const Node& node, std::span<const HloValue> operands,
                   const Vendor& vendor, const Mesh& mesh);
HloTranslation find_elementwise_translation(std::string_view op);
HloTranslation find_structural_translation(std::string_view op);
HloTranslation find_indexing_translation(std::string_view op);
HloTranslation find_block_translation(std::string_view op);  // operand 0: device_type of blocks

// Rows of the table at i32 indices, which are clamped.
HloValue rows_at(HloEmitter& emit, const HloValue& table, const HloValue& indices);

}  // namespace vertebra::pjrt
