// Which samples of ops a vendor's chips can be handed at all.
#pragma once

#include <algorithm>

#include "backend/pjrt/device_type.h"
#include "backend/pjrt/stablehlo_emitter.h"
#include "backend/pjrt/vendors.h"
#include "graph/op.h"

namespace vertebra::pjrt {

// Whether the chips have the integers among its operands. (Codes of a quantized cache are i8, which not all
// have: the verifier refuses them there.)
inline bool chips_hold(const Vendor& vendor, const OpSample& sample) {
  const auto& there = vendor.rules.element_types;
  return there.empty() ||
         std::all_of(sample.operands.begin(), sample.operands.end(), [&](const OperandSample& operand) {
           const TensorType type = device_type(operand.type);
           return is_float(type.dtype) ||
                  std::find(there.begin(), there.end(), hlo_dtype(type.dtype)) != there.end();
         });
}

}  // namespace vertebra::pjrt
