#include "models/quantization.h"

#include <charconv>

#include "base/error.h"
#include "formats/gguf.h"

namespace vertebra {
namespace {

constexpr DType kTargets[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,  DType::kQ4_0,
                              DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ2_K,  DType::kQ3_K,
                              DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL};

// The layers of Q4_K_M and Q5_K_M whose attn_v and ffn_down get Q6_K: the outer eighths, and every third
// between.
bool gets_more_bits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

// N of "blk.N."; -1 outside of layers.
int layer_of(std::string_view name) {
  int out = -1;
  if (name.starts_with("blk.")) std::from_chars(name.data() + 4, name.data() + name.size(), out);
  return out;
}

// Rows of other than whole blocks.
DType fallback(DType dtype, int64_t row) {
  const auto divides = [&](DType each) { return row % block_size(each).elements == 0; };
  if (divides(dtype)) return dtype;
  DType smaller = dtype;
  if (dtype == DType::kQ2_K || dtype == DType::kQ3_K) smaller = DType::kQ4_0;
  if (dtype == DType::kQ4_K) smaller = DType::kQ5_0;
  if (dtype == DType::kQ5_K) smaller = DType::kQ5_1;
  if (dtype == DType::kQ6_K) smaller = DType::kQ8_0;
  return divides(smaller) ? smaller : DType::kF16;
}

}  // namespace

Quantization Quantization::from_name(std::string_view name) {
  if (name == "q4_k_m") return {DType::kQ4_K, true};
  if (name == "q5_k_m") return {DType::kQ5_K, true};
  std::string known;
  for (const DType dtype : kTargets) {
    if (dtype_name(dtype) == name) return {dtype, false};
    known += fmt::format("{}, ", dtype_name(dtype));
  }
  fail(Code::kInvalidArgument, "'{}' is no quantization; known are: {}q4_k_m, q5_k_m", name, known);
}

int64_t Quantization::file_type() const {
  // The K types' own numbers are those of the mixes; 14 and 16 are their even forms.
  if (!mixed && dtype == DType::kQ4_K) return 14;
  if (!mixed && dtype == DType::kQ5_K) return 16;
  return gguf_file_type(dtype);
}

DType quantized_type(const Quantization& wanted, std::string_view name, const Shape& shape, int layers,
                     bool has_head) {
  if (shape.rank() < 2) return DType::kF32;
  if (name.find("ffn_gate_inp") != std::string_view::npos)
    return DType::kF32;  // the router: small, and it decides
  DType out = wanted.dtype;
  const int layer = layer_of(name);
  // The head errs most, as llama.cpp's files have it.
  const bool is_small = is_block_quantized(wanted.dtype) && wanted.dtype != DType::kQ8_0;
  if (is_small && name == (has_head ? "output.weight" : "token_embd.weight")) out = DType::kQ6_K;
  if (wanted.mixed && layer >= 0) {
    const bool sensitive = name.ends_with(".attn_v.weight") || name.ends_with(".ffn_down.weight");
    if (sensitive && gets_more_bits(layer, layers)) out = DType::kQ6_K;
    if (name.ends_with(".attn_qkv.weight")) out = wanted.dtype == DType::kQ4_K ? DType::kQ5_K : DType::kQ6_K;
  }
  return fallback(out, shape[-1]);
}

}  // namespace vertebra
