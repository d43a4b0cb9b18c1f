#include "models/gguf_names.h"

#include <fmt/format.h>

#include <cmath>

#include "base/error.h"

namespace vertebra {
namespace {

constexpr GgufName kOutside[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};

constexpr GgufName kDecoder[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};
constexpr GgufName kPhi3[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.qkv_proj", "attn_qkv"},
    {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_up_proj", "ffn_up"},      {"mlp.down_proj", "ffn_down"},
};
// Norms behind attention and MLP.
constexpr GgufName kPostNorms[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"post_attention_layernorm", "post_attention_norm"},
    {"pre_feedforward_layernorm", "ffn_norm"},
    {"post_feedforward_layernorm", "post_ffw_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

constexpr GgufKey kCommonKeys[] = {
    {"num_hidden_layers", "block_count", true},
    {"max_position_embeddings", "context_length", true},
    {"hidden_size", "embedding_length", true},
    {"intermediate_size", "feed_forward_length", true},
    {"num_attention_heads", "attention.head_count", true},
    {"num_key_value_heads", "attention.head_count_kv", true},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", false},
    {"rope_theta", "rope.freq_base", false},
    {"head_dim", "attention.key_length", true},
};
constexpr GgufKey kWindow[] = {{"sliding_window", "attention.sliding_window", true}};
constexpr GgufKey kGranite[] = {{"attention_multiplier", "attention.scale", false},
                                {"embedding_multiplier", "embedding_scale", false},
                                {"residual_multiplier", "residual_scale", false},
                                {"logits_scaling", "logit_scale", false}};

constexpr std::string_view kLlamaSettings =
    R"({"hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "initializer_range": 0.02})";

// Files do not say it: the 27B model scales its scores by its width over its heads, the others by the head.
void complete_gemma3(Json& config) {
  const auto heads = config["num_attention_heads"].get<int64_t>();
  const bool widest = config["num_hidden_layers"] == 62 && heads > 0;
  config["query_pre_attn_scalar"] =
      widest ? config["hidden_size"].get<int64_t>() / heads : config["head_dim"].get<int64_t>();
}

const GgufArchitecture kRows[] = {
    {"llama", "LlamaForCausalLM", "llama", kDecoder, {}, true, false, kLlamaSettings},
    {"mistral", "MistralForCausalLM", "llama", kDecoder, {}, true, false, R"({"hidden_act": "silu"})"},
    {"qwen2",
     "Qwen2ForCausalLM",
     "qwen2",
     kDecoder,
     {},
     false,
     false,
     R"({"hidden_act": "silu", "use_sliding_window": false})"},
    {"qwen3",
     "Qwen3ForCausalLM",
     "qwen3",
     kDecoder,
     {},
     false,
     false,
     R"({"hidden_act": "silu", "attention_bias": false, "use_sliding_window": false})"},
    {"smollm3",
     "SmolLM3ForCausalLM",
     "smollm3",
     kDecoder,
     {},
     true,
     false,
     R"({"hidden_act": "silu", "attention_bias": false, "mlp_bias": false, "no_rope_layer_interval": 4})"},
    {"granite", "GraniteForCausalLM", "granite", kDecoder, kGranite, true, false, kLlamaSettings},
    {"phi3", "Phi3ForCausalLM", "phi3", kPhi3, kWindow, false, false, R"({"hidden_act": "silu"})"},
    {"olmo2",
     "Olmo2ForCausalLM",
     "olmo2",
     kPostNorms,
     {},
     false,
     false,
     R"({"hidden_act": "silu", "attention_bias": false})"},
    {"gemma3_text", "Gemma3ForCausalLM", "gemma3", kPostNorms, kWindow, false, true,
     R"({"hidden_activation": "gelu_pytorch_tanh", "attention_bias": false, "sliding_window_pattern": 6,
         "rope_local_base_freq": 10000.0})",
     complete_gemma3},
};

template <class Field>
const GgufArchitecture& find_row(std::string_view wanted, std::string_view source, Field field,
                                 const char* what) {
  std::string known;
  for (const GgufArchitecture& row : kRows) {
    if (row.*field == wanted) return row;
    if (known.find(fmt::format("{}, ", row.*field)) == std::string::npos)
      known += fmt::format("{}, ", row.*field);
  }
  known.resize(known.size() - 2);
  fail(Code::kUnimplemented, "{}: {} '{}' is not among those that GGUF files are translated for: {}", source,
       what, wanted, known);
}

// `name` with its beginning and its stem replaced; nothing when the stem is not in the table.
std::optional<std::string> translate(std::span<const GgufName> names, std::string_view name, bool to_gguf) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const std::string_view stem = name.substr(0, dot), ending = name.substr(dot);
  if (ending != ".weight" && ending != ".bias") return std::nullopt;
  for (const GgufName& each : names) {
    if ((to_gguf ? each.stored : each.gguf) == stem)
      return fmt::format("{}{}", to_gguf ? each.gguf : each.stored, ending);
  }
  return std::nullopt;
}

std::optional<std::string> translate_any(const GgufArchitecture& row, std::string_view name, bool to_gguf) {
  const std::string_view from = to_gguf ? "model.layers." : "blk.", to = to_gguf ? "blk." : "model.layers.";
  if (!name.starts_with(from)) return translate(kOutside, name, to_gguf);
  const std::string_view rest = name.substr(from.size());
  const size_t dot = rest.find('.');
  if (dot == 0 || dot == std::string_view::npos || rest.find_first_not_of("0123456789") != dot)
    return std::nullopt;
  const auto inner = translate(row.names, rest.substr(dot + 1), to_gguf);
  if (!inner.has_value()) return std::nullopt;
  return fmt::format("{}{}{}", to, rest.substr(0, dot + 1), *inner);
}

}  // namespace

std::span<const GgufKey> common_gguf_keys() { return kCommonKeys; }

const GgufArchitecture& gguf_architecture(std::string_view architecture, std::string_view source) {
  return find_row(architecture, source, &GgufArchitecture::architecture, "the architecture");
}

const GgufArchitecture& gguf_architecture_of_model(std::string_view model_type, std::string_view source) {
  return find_row(model_type, source, &GgufArchitecture::model_type, "the model type");
}

std::optional<std::string> gguf_name(const GgufArchitecture& row, std::string_view stored) {
  return translate_any(row, stored, true);
}

std::optional<std::string> stored_name(const GgufArchitecture& row, std::string_view gguf) {
  return translate_any(row, gguf, false);
}

}  // namespace vertebra
