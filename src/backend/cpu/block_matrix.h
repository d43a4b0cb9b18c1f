// Block-quantized tensors in the CPU's own layout (kernels/block_panels.h): from and to GGUF blocks, and
// single rows as floats. Leading dimensions count as rows of one matrix. A buffer of such a type holds
// nothing else.
#pragma once

#include <cstddef>
#include <span>

#include "backend/cpu/kernels/block_panels.h"
#include "base/thread_team.h"
#include "tensor/tensor.h"

namespace vertebra {

BlockFormat block_format(DType dtype);

// Bytes of 16 rows of `size` elements, and of a whole tensor; its last panel is filled up with zeros.
size_t panel_bytes(DType dtype, int64_t size);
size_t panels_size_bytes(const TensorType& type);

// `panels`: panels_size_bytes(type) bytes, aligned to 64.
void pack_blocks(const TensorType& type, const void* blocks, std::byte* panels, ThreadTeam& team);
void unpack_blocks(const TensorType& type, const std::byte* panels, void* blocks);

// The values of row `row`, values.size() of them: those of tensor/block_quant.h's dequantize.
void dequantize_panel_row(DType dtype, const std::byte* panels, int64_t row, std::span<float> values);

}  // namespace vertebra
