#include "models/quantization.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "base/error.h"
#include "base/log.h"

namespace vertebra {
namespace {

using Mix = Quantization::Mix;

struct Target {
  std::string_view name;
  DType dtype;
  Mix mix = Mix::kEven;
  int64_t file_type = -1;  // the types' own where it is not given
};
// The K types' own numbers are those of their medium mixes; even, they are llama.cpp's small ones but for a
// few tensors.
constexpr Target kTargets[] = {
    {"f32", DType::kF32},
    {"f16", DType::kF16},
    {"bf16", DType::kBF16},
    {"q8_0", DType::kQ8_0},
    {"q4_0", DType::kQ4_0},
    {"q4_1", DType::kQ4_1},
    {"q5_0", DType::kQ5_0},
    {"q5_1", DType::kQ5_1},
    {"q2_k", DType::kQ2_K, Mix::kEven, 21},
    {"q3_k", DType::kQ3_K, Mix::kEven, 11},
    {"q4_k", DType::kQ4_K, Mix::kEven, 14},
    {"q5_k", DType::kQ5_K, Mix::kEven, 16},
    {"q6_k", DType::kQ6_K},
    {"iq4_nl", DType::kIQ4_NL},
    {"mxfp4", DType::kMXFP4},
    {"q2_k_s", DType::kQ2_K, Mix::kSmall, 21},
    {"q2_k_m", DType::kQ2_K, Mix::kMedium, 10},
    {"q3_k_s", DType::kQ3_K, Mix::kSmall, 11},
    {"q3_k_m", DType::kQ3_K, Mix::kMedium, 12},
    {"q3_k_l", DType::kQ3_K, Mix::kLarge, 13},
    {"q4_k_s", DType::kQ4_K, Mix::kSmall, 14},
    {"q4_k_m", DType::kQ4_K, Mix::kMedium, 15},
    {"q5_k_s", DType::kQ5_K, Mix::kSmall, 16},
    {"q5_k_m", DType::kQ5_K, Mix::kMedium, 17},
    {"mxfp4_moe", DType::kMXFP4, Mix::kExperts, 38},
};

bool has(std::string_view name, std::string_view part) { return name.find(part) != std::string_view::npos; }

// Small, and they decide much: readers want them as f32.
bool stays_f32(const GgufEntry& tensor) {
  const std::string_view name = tensor.name;
  if (tensor.type.shape.rank() < 2 || !name.ends_with(".weight") || name.ends_with("_norm.weight"))
    return true;
  for (const char* each : {"ffn_gate_inp", "position_embd", "ssm_conv1d", "shortconv.conv.", "rope_f"}) {
    if (has(name, each)) return true;
  }
  return false;
}

// N of "blk.N."; -1 outside of layers.
int layer_of(std::string_view name) {
  int out = -1;
  if (name.starts_with("blk.")) std::from_chars(name.data() + 4, name.data() + name.size(), out);
  return out;
}

// The outer eighths, and every third between.
bool gets_more_bits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
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

// Chooses tensor by tensor, in the file's order: some choices count those of a kind that came before.
class Chooser {
 public:
  Chooser(const Quantization& wanted, const QuantizedModel& model, std::span<const GgufEntry> tensors)
      : wanted_(wanted), model_(model) {
    for (const GgufEntry& each : tensors) {
      has_head_ |= each.name == "output.weight";
      if (is_value(each.name) && !stays_f32(each)) ++values_;
    }
  }

  DType choose(const GgufEntry& tensor) {
    if (stays_f32(tensor)) return DType::kF32;
    if (!is_block_quantized(wanted_.dtype)) return wanted_.dtype;
    const std::string_view name = tensor.name;
    if (has(name, "per_layer_model_proj"))
      return is_float(tensor.type.dtype) ? tensor.type.dtype : DType::kF16;
    const bool embeds = name == "token_embd.weight" || name == "per_layer_token_embd.weight";
    if (name == "output.weight" || (embeds && !has_head_)) return head(tensor.type.shape[-1]);
    if (wanted_.mix == Mix::kEven) return wanted_.dtype;
    if (wanted_.mix == Mix::kExperts) return tensor.type.shape.rank() > 2 ? DType::kMXFP4 : DType::kQ8_0;
    if (embeds) return wanted_.dtype;
    if (is_value(name)) return value();
    if (has(name, "attn_k.weight")) return eight_experts() ? DType::kQ8_0 : wanted_.dtype;
    if (has(name, "attn_output.weight")) return output();
    return has(name, "ffn_down") ? down(layer_of(name)) : wanted_.dtype;
  }

 private:
  static bool is_value(std::string_view name) {
    return has(name, "attn_v.weight") || has(name, "attn_qkv.weight");
  }
  bool eight_experts() const { return model_.shape.experts == 8; }
  bool many_queries() const { return model_.shape.heads >= 4 * model_.shape.key_value_heads; }
  bool is(DType dtype, Mix mix) const { return wanted_.dtype == dtype && wanted_.mix == mix; }

  // The head errs most.
  DType head(int64_t row) const {
    if (wanted_.dtype == DType::kQ8_0 || wanted_.mix == Mix::kExperts) return DType::kQ8_0;
    return row % block_size(wanted_.dtype).elements == 0 ? DType::kQ6_K : DType::kQ8_0;
  }

  DType value() {
    const int number = value_++;
    DType out = wanted_.dtype;
    if (is(DType::kQ2_K, Mix::kMedium)) out = many_queries() ? DType::kQ4_K : DType::kQ3_K;
    if (is(DType::kQ2_K, Mix::kSmall) && many_queries()) out = DType::kQ4_K;
    if (is(DType::kQ3_K, Mix::kMedium)) out = number < 2 ? DType::kQ5_K : DType::kQ4_K;
    if (is(DType::kQ3_K, Mix::kLarge)) out = DType::kQ5_K;
    if (is(DType::kQ4_K, Mix::kSmall) && number < 4) out = DType::kQ5_K;
    if ((is(DType::kQ4_K, Mix::kMedium) || is(DType::kQ5_K, Mix::kMedium)) && gets_more_bits(number, values_))
      out = DType::kQ6_K;
    // Eight heads of queries share these in the largest Llama and Qwen2: they are small.
    const bool largest =
        model_.shape.layers == 80 &&
        (model_.architecture == "qwen2" ||
         (model_.architecture == "llama" && model_.shape.heads != model_.shape.key_value_heads));
    if (largest && (out == DType::kQ3_K || out == DType::kQ4_K)) out = DType::kQ5_K;
    return eight_experts() ? DType::kQ8_0 : out;
  }

  DType output() const {
    if (eight_experts()) {
      const bool some = wanted_.dtype == DType::kQ4_K || is(DType::kQ2_K, Mix::kMedium) ||
                        (wanted_.dtype == DType::kQ3_K && wanted_.mix != Mix::kLarge);
      return some ? DType::kQ5_K : wanted_.dtype;
    }
    if (is(DType::kQ2_K, Mix::kMedium)) return DType::kQ3_K;
    if (is(DType::kQ3_K, Mix::kMedium)) return DType::kQ4_K;
    return is(DType::kQ3_K, Mix::kLarge) ? DType::kQ5_K : wanted_.dtype;
  }

  DType down(int parsed) {
    const int layers = model_.shape.layers, number = model_.shape.experts > 1 ? parsed : down_;
    ++down_;
    if (is(DType::kQ2_K, Mix::kMedium)) return DType::kQ3_K;
    if (is(DType::kQ2_K, Mix::kSmall) && number < layers / 8) return DType::kQ4_K;
    if (is(DType::kQ3_K, Mix::kMedium)) return number < layers / 16 ? DType::kQ5_K : DType::kQ4_K;
    if (is(DType::kQ3_K, Mix::kLarge)) return DType::kQ5_K;
    if (is(DType::kQ4_K, Mix::kSmall) && number < layers / 8) return DType::kQ5_K;
    const bool medium = is(DType::kQ4_K, Mix::kMedium) || is(DType::kQ5_K, Mix::kMedium);
    return medium && gets_more_bits(number, layers) ? DType::kQ6_K : wanted_.dtype;
  }

  const Quantization& wanted_;
  const QuantizedModel& model_;
  bool has_head_ = false;
  int values_ = 0, value_ = 0, down_ = 0;
};

}  // namespace

Quantization Quantization::from_name(std::string_view name) {
  for (const Target& each : kTargets) {
    if (each.name == name) return {each.dtype, each.mix};
  }
  fail(Code::kInvalidArgument, "'{}' is no quantization; known are: {}", name, names());
}

std::string Quantization::names() {
  std::string out;
  for (const Target& each : kTargets) out += fmt::format("{}{}", out.empty() ? "" : ", ", each.name);
  return out;
}

int64_t Quantization::file_type() const {
  for (const Target& each : kTargets) {
    if (each.dtype == dtype && each.mix == mix && each.file_type >= 0) return each.file_type;
  }
  return gguf_file_type(dtype);
}

std::vector<DType> quantized_types(const Quantization& wanted, const QuantizedModel& model,
                                   std::span<const GgufEntry> tensors) {
  Chooser chooser(wanted, model, tensors);
  std::vector<DType> out;
  std::map<std::pair<DType, DType>, std::vector<const GgufEntry*>> changed;
  for (const GgufEntry& each : tensors) {
    const DType chosen = chooser.choose(each);
    out.push_back(fallback(chosen, each.type.shape[-1]));
    if (out.back() != chosen) changed[{chosen, out.back()}].push_back(&each);
  }
  for (const auto& [types, entries] : changed) {
    log_warning(
        "{} of {} tensors become {} instead of {}: their rows are no multiple of {} (the first: {}, {})",
        entries.size(), tensors.size(), dtype_name(types.second), dtype_name(types.first),
        block_size(types.first).elements, entries[0]->name, entries[0]->type.shape[-1]);
  }
  return out;
}

DType unquantized_type(const GgufEntry& tensor) {
  return stays_f32(tensor) ? DType::kF32 : tensor.type.dtype;
}

}  // namespace vertebra
