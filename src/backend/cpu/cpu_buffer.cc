#include "backend/cpu/cpu_buffer.h"

#include <algorithm>
#include <cstring>

#include "backend/bounded_types.h"
#include "backend/cpu/block_matrix.h"
#include "base/mapped_pages.h"

namespace vertebra::cpu {

size_t stored_bytes(const TensorType& type) {
  return is_block_quantized(type.dtype) ? panels_size_bytes(type) : type.size_bytes();
}

CpuBuffer::CpuBuffer(const TensorType& declared, ThreadTeam& team)
    : team_(team),
      declared_(declared),
      type_(at_bounds(declared)),
      capacity_bytes_(stored_bytes(declared)),
      memory_(allocate_large(capacity_bytes_, "a buffer")) {}

Tensor CpuBuffer::to_host() const {
  Tensor host(type_);
  if (is_block_quantized(type_.dtype)) {
    unpack_blocks(type_, memory_.get(), host.raw());
    return host;
  }
  if (type_.size_bytes() > 0) std::memcpy(host.raw(), memory_.get(), type_.size_bytes());
  return host;
}

void CpuBuffer::copy_from(const Tensor& host) {
  require(fits(host.type(), declared_), "a tensor of type {} cannot be copied into a buffer of type {}",
          host.type().to_string(), declared_.to_string());
  begin_write(at_bounds(host.type()));
  if (is_block_quantized(type_.dtype)) return pack_blocks(type_, host.raw(), memory_.get(), team_);
  constexpr size_t kPiece = size_t{4} << 20;
  for (size_t at = 0; at < type_.size_bytes(); at += kPiece) {
    const auto* from = static_cast<const std::byte*>(host.raw()) + at;
    const size_t size = std::min(kPiece, type_.size_bytes() - at);
    std::memcpy(memory_.get() + at, from, size);
    if (size == kPiece) give_back_pages(from, size);
  }
}

const PackedMatrix& CpuBuffer::packed(DType dtype, ThreadTeam& team) {
  Packed& kept = packed_[dtype == DType::kBF16 ? 1 : 0];
  if (kept.version == version_ && kept.matrix.isa() == active_isa()) return kept.matrix;
  const int64_t n = type_.shape[0], k = type_.shape[1];
  if (dtype == type_.dtype) {
    pack_b(kept.matrix, memory_.get(), dtype, k, n, std::max<int64_t>(k, 1), /*transposed=*/true, team);
  } else {
    const Tensor rounded = to_host().to(dtype);
    pack_b(kept.matrix, rounded.raw(), dtype, k, n, std::max<int64_t>(k, 1), /*transposed=*/true, team);
  }
  kept.version = version_;
  return kept.matrix;
}

}  // namespace vertebra::cpu
