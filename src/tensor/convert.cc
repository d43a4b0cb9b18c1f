#include "tensor/convert.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "base/mapped_pages.h"
#include "base/thread_team.h"
#include "tensor/block_quant.h"

namespace vertebra {
namespace {

constexpr int64_t kChunk = 4096;  // elements a step: whole blocks of every type, and of a cache's size
constexpr int64_t kItem =
    kChunk << 6;  // elements a worker takes at a time: pages of a file enough to give back

std::byte* at_element(const Tensor& tensor, int64_t i) {
  const BlockSize block = block_size(tensor.dtype());
  return static_cast<std::byte*>(const_cast<void*>(tensor.raw())) +
         i / block.elements * static_cast<int64_t>(block.bytes);
}

void read_floats(const Tensor& from, int64_t begin, std::span<float> out) {
  const std::byte* data = at_element(from, begin);
  switch (from.dtype()) {
    case DType::kF32:
      std::memcpy(out.data(), data, out.size_bytes());
      return;
    case DType::kBF16:
      for (size_t i = 0; i < out.size(); ++i)
        out[i] = bf16_to_float(reinterpret_cast<const uint16_t*>(data)[i]);
      return;
    case DType::kF16:
      for (size_t i = 0; i < out.size(); ++i)
        out[i] = f16_to_float(reinterpret_cast<const uint16_t*>(data)[i]);
      return;
    case DType::kF64:
      for (size_t i = 0; i < out.size(); ++i)
        out[i] = static_cast<float>(reinterpret_cast<const double*>(data)[i]);
      return;
    default:
      dequantize(from.dtype(), data, out);
  }
}

void write_floats(std::span<const float> values, Tensor& to, int64_t begin) {
  std::byte* data = at_element(to, begin);
  switch (to.dtype()) {
    case DType::kF32:
      std::memcpy(data, values.data(), values.size_bytes());
      return;
    case DType::kBF16:
      for (size_t i = 0; i < values.size(); ++i)
        reinterpret_cast<uint16_t*>(data)[i] = float_to_bf16(values[i]);
      return;
    case DType::kF16:
      for (size_t i = 0; i < values.size(); ++i)
        reinterpret_cast<uint16_t*>(data)[i] = float_to_f16(values[i]);
      return;
    case DType::kF64:
      for (size_t i = 0; i < values.size(); ++i)
        reinterpret_cast<double*>(data)[i] = static_cast<double>(values[i]);
      return;
    default:
      quantize(to.dtype(), values, data);
  }
}

}  // namespace

Tensor convert(const Tensor& tensor, DType wanted) {
  if (tensor.dtype() == wanted) return tensor;
  for (const DType dtype : {tensor.dtype(), wanted}) {
    require(is_float(dtype) || is_block_quantized(dtype),
            "a tensor {} was to become {}: both must be floats or blocks", tensor.type().to_string(),
            dtype_name(wanted));
  }
  const int64_t block = block_size(wanted).elements;
  require(block == 1 || (tensor.shape().rank() > 0 && tensor.shape()[-1] % block == 0),
          "a tensor {} has rows that are no multiple of the {} elements of a block of {}",
          tensor.type().to_string(), block, dtype_name(wanted));
  Tensor out(wanted, tensor.shape());
  const int64_t elements = tensor.elements();
  global_thread_team().parallel_for((elements + kItem - 1) / kItem, [&](int64_t item, int) {
    const int64_t first = item * kItem, last = std::min(elements, first + kItem);
    std::array<float, kChunk> values;
    for (int64_t begin = first; begin < last; begin += kChunk) {
      const auto span = std::span(values).first(static_cast<size_t>(std::min(kChunk, last - begin)));
      read_floats(tensor, begin, span);
      write_floats(span, out, begin);
    }
    const std::byte* from = at_element(tensor, first);
    give_back_pages(from, static_cast<size_t>(at_element(tensor, last) - from));
  });
  return out;
}

}  // namespace vertebra
