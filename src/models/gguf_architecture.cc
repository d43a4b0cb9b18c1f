#include "models/gguf_architecture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace vertebra {

#define VERTEBRA_OPEN_MODEL(type, factory, gguf) const GgufArchitecture& gguf();
#define VERTEBRA_MODEL(type, factory, gguf, defaults) VERTEBRA_OPEN_MODEL(type, factory, gguf)
#include "models/model_list.def"
#undef VERTEBRA_MODEL
#undef VERTEBRA_OPEN_MODEL

namespace {

struct Listed {
  std::string_view model_type;
  const GgufArchitecture& (*row)();
};
constexpr Listed kListed[] = {
#define VERTEBRA_OPEN_MODEL(type, factory, gguf) {#type, gguf},
#define VERTEBRA_MODEL(type, factory, gguf, defaults) VERTEBRA_OPEN_MODEL(type, factory, gguf)
#include "models/model_list.def"
#undef VERTEBRA_MODEL
#undef VERTEBRA_OPEN_MODEL
};

// Row p D/2 + i of each head from (to_file: to) row 2 i + p. Whole rows move, whatever their type.
Tensor turned_rows(const Tensor& tensor, int64_t heads, bool to_file) {
  const int64_t rows = tensor.shape()[0], half = rows / heads / 2;
  const size_t row_bytes = tensor.size_bytes() / static_cast<size_t>(rows);
  Tensor out(tensor.type());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t p = 0; p < 2; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t ours = (h * 2 + p) * half + i, theirs = (h * half + i) * 2 + p;
        std::memcpy(
            static_cast<std::byte*>(out.raw()) + static_cast<size_t>(to_file ? theirs : ours) * row_bytes,
            static_cast<const std::byte*>(tensor.raw()) +
                static_cast<size_t>(to_file ? ours : theirs) * row_bytes,
            row_bytes);
      }
    }
  }
  return out;
}

Tensor plus(const Tensor& tensor, double added) {
  Tensor out = Tensor(DType::kF32, tensor.shape());
  for (int64_t i = 0; i < tensor.elements(); ++i) out.set(i, tensor.at(i) + added);
  return out;
}

// Of floats: blocks cannot be turned, so they become f32 first.
Tensor transposed(const Tensor& given) {
  const Tensor tensor = is_block_quantized(given.dtype()) ? given.to(DType::kF32) : given;
  const int64_t A = tensor.shape()[0], B = tensor.shape()[1];
  Tensor out(tensor.dtype(), {B, A});
  const size_t size = dtype_size(tensor.dtype());
  auto* to = static_cast<std::byte*>(out.raw());
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t a = 0; a < A; ++a, to += size)
      std::memcpy(to, static_cast<const std::byte*>(tensor.raw()) + static_cast<size_t>(a * B + b) * size,
                  size);
  }
  return out;
}

}  // namespace

const GgufForm kGgufQueryRows = {
    [](const Tensor& q, const Model& model) { return turned_rows(q, model.shape().heads, true); },
    [](const Tensor& q, const Model& model) { return turned_rows(q, model.shape().heads, false); }};
const GgufForm kGgufKeyRows = {
    [](const Tensor& k, const Model& model) { return turned_rows(k, model.shape().key_value_heads, true); },
    [](const Tensor& k, const Model& model) { return turned_rows(k, model.shape().key_value_heads, false); }};
const GgufForm kGgufNormPlusOne = {[](const Tensor& weight, const Model&) { return plus(weight, 1); },
                                   [](const Tensor& weight, const Model&) { return plus(weight, -1); }};
const GgufForm kGgufTransposed = {[](const Tensor& matrix, const Model&) { return transposed(matrix); },
                                  [](const Tensor& matrix, const Model&) { return transposed(matrix); },
                                  [](const Shape& shape) { return Shape{shape[1], shape[0]}; }};
const GgufForm kGgufFlatKernel = {[](const Tensor& kernel, const Model&) {
                                    return kernel.reshaped({kernel.shape()[0], kernel.shape()[2]});
                                  },
                                  [](const Tensor& kernel, const Model&) {
                                    return kernel.reshaped({kernel.shape()[0], 1, kernel.shape()[1]});
                                  },
                                  [](const Shape& shape) { return Shape{shape[0], shape[2]}; }};

std::vector<GgufName> gguf_decoder_outside(const GgufForm* norm) {
  return {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm", norm}, {"lm_head", "output"}};
}

std::vector<GgufName> gguf_attention_inside(bool pairs, const GgufForm* norm) {
  return {
      {"input_layernorm", "attn_norm", norm},
      {"self_attn.q_proj", "attn_q", pairs ? &kGgufQueryRows : nullptr},
      {"self_attn.k_proj", "attn_k", pairs ? &kGgufKeyRows : nullptr},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm", norm},
      {"self_attn.k_norm", "attn_k_norm", norm},
  };
}

std::vector<GgufName> gguf_decoder_inside(bool pairs) {
  return joined(gguf_attention_inside(pairs), {{"post_attention_layernorm", "ffn_norm"},
                                               {"mlp.gate_proj", "ffn_gate"},
                                               {"mlp.up_proj", "ffn_up"},
                                               {"mlp.down_proj", "ffn_down"}});
}

std::vector<GgufName> gguf_post_norm_inside(const GgufForm* norm) {
  return joined(gguf_attention_inside(false, norm),
                {{"post_attention_layernorm", "post_attention_norm", norm},
                 {"pre_feedforward_layernorm", "ffn_norm", norm},
                 {"post_feedforward_layernorm", "post_ffw_norm", norm},
                 {"mlp.gate_proj", "ffn_gate"},
                 {"mlp.up_proj", "ffn_up"},
                 {"mlp.down_proj", "ffn_down"}});
}

std::vector<GgufKey> gguf_decoder_keys(std::vector<GgufKey> further) {
  return joined({{"num_hidden_layers", "block_count", true},
                 {"max_position_embeddings", "context_length", true},
                 {"hidden_size", "embedding_length", true},
                 {"intermediate_size", "feed_forward_length", true},
                 {"num_attention_heads", "attention.head_count", true},
                 {"num_key_value_heads", "attention.head_count_kv", true},
                 {"rms_norm_eps", "attention.layer_norm_rms_epsilon"},
                 {"head_dim", "attention.key_length", true}},
                further);
}

const GgufArchitecture& gguf_architecture(std::string_view architecture, std::string_view source) {
  std::vector<std::string_view> known;
  for (const Listed& each : kListed) {
    const GgufArchitecture& row = each.row();
    if (row.architecture == architecture) return row;
    if (std::find(known.begin(), known.end(), row.architecture) == known.end())
      known.push_back(row.architecture);
  }
  fail(Code::kUnimplemented, "{}: general.architecture is '{}'; supported in GGUF files are: {}", source,
       architecture, fmt::join(known, ", "));
}

const GgufArchitecture& gguf_architecture_of_model(std::string_view model_type, std::string_view source) {
  std::vector<std::string_view> known;
  for (const Listed& each : kListed) {
    if (each.model_type == model_type) return each.row();
    known.push_back(each.model_type);
  }
  fail(Code::kUnimplemented, "{}: models of type '{}' are not written to GGUF files; those of {} are", source,
       model_type, fmt::join(known, ", "));
}

std::vector<GgufPart> gguf_parts(const GgufArchitecture& row, std::string_view declared) {
  const std::string_view whole = declared;
  std::string at;
  const std::vector<GgufName>* names = &row.outside;
  if (declared.starts_with(row.layer)) {
    declared.remove_prefix(row.layer.size());
    const size_t dot = std::min(declared.find('.'), declared.size() - 1);
    at = fmt::format("blk.{}.", declared.substr(0, dot));
    declared.remove_prefix(dot + 1);
    names = &row.inside;
  }
  const size_t dot = std::min(declared.rfind('.'), declared.size());
  const std::string_view stem = declared.substr(0, dot), ending = declared.substr(dot);
  std::vector<GgufPart> out;
  for (const GgufName& each : *names) {
    if (each.declared == declared) out.push_back({at + std::string(each.gguf), each.form, each.part});
  }
  if (!out.empty()) return out;
  for (const GgufName& each : *names) {
    if (each.declared == stem && (ending == ".weight" || ending == ".bias"))
      out.push_back({fmt::format("{}{}{}", at, each.gguf, ending), each.form, each.part});
  }
  require(!out.empty(), Code::kUnimplemented, "the parameter '{}' has no name in GGUF files of {} models",
          whole, row.architecture);
  return out;
}

std::vector<int64_t> gguf_by_layer(const GgufMetadata& metadata, const std::string& key, int64_t layers) {
  const GgufValue* value = metadata.find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) {
    const int64_t all =
        value->type == GgufType::kBool ? int64_t{*metadata.boolean(key)} : *metadata.integer(key);
    return std::vector<int64_t>(static_cast<size_t>(std::max<int64_t>(layers, 0)), all);
  }
  const std::vector<int64_t> out = *metadata.integers(key);
  require(static_cast<int64_t>(out.size()) >= layers, Code::kDataLoss,
          "'{}': {} has {} numbers, one for each of {} layers was wanted", metadata.source(), key, out.size(),
          layers);
  return out;
}

void read_gguf_windows(const GgufFile& file, int64_t period, Json& config) {
  const GgufMetadata& metadata = file.metadata();
  const std::string at = gguf_at(metadata) + "attention.sliding_window", key = at + "_pattern";
  const int64_t window = metadata.integer(at).value_or(0);
  config["sliding_window"] = window > 0 ? Json(window) : Json();
  if (window <= 0) return;
  const auto layers = config["num_hidden_layers"].get<int64_t>();
  std::vector<int64_t> narrow;
  if (const GgufValue* pattern = metadata.find(key); pattern != nullptr && pattern->is_array()) {
    narrow = gguf_by_layer(metadata, key, layers);
  } else {
    const int64_t every = metadata.integer(key).value_or(period);
    for (int64_t i = 0; i < layers; ++i) narrow.push_back(every <= 0 || (i + 1) % every != 0);
  }
  Json types = Json::array();
  for (int64_t i = 0; i < layers; ++i)
    types.push_back(narrow[static_cast<size_t>(i)] != 0 ? "sliding_attention" : "full_attention");
  config["layer_types"] = types;
}

void read_gguf_qwen_windows(const GgufFile& file, Json& config) {
  read_gguf_windows(file, 0, config);
  config["use_sliding_window"] = !config["sliding_window"].is_null();
}

void write_gguf_windows(const std::vector<int64_t>& windows, int64_t period, GgufContents& out) {
  const std::string at = gguf_at(out.metadata) + "attention.sliding_window";
  std::vector<int64_t> narrow;
  bool usual = true;
  for (size_t i = 0; i < windows.size(); ++i) {
    narrow.push_back(windows[i] > 0);
    usual &= narrow.back() == (period <= 0 || (static_cast<int64_t>(i) + 1) % period != 0);
    if (windows[i] > 0) out.metadata.set(at, GgufValue::u32(windows[i]));
  }
  if (out.metadata.contains(at) && !usual)
    out.metadata.set(at + "_pattern", GgufValue{GgufType::kBool, std::move(narrow)});
}

double gguf_number_of(double value) { return std::stod(fmt::format("{}", static_cast<float>(value))); }

}  // namespace vertebra
