#include "models/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "base/error.h"

namespace vertebra {
namespace {

constexpr std::string_view kRopeFactors = "rope_freqs.weight";

// Files hold f32; the shortest decimal number that rounds to it is what was meant.
double shortest(double value) { return std::stod(fmt::format("{}", static_cast<float>(value))); }

// llama3 scaling (transformers' rope_type "llama3"): what each pair's frequency is divided by.
struct Llama3Scaling {
  double factor = 8, low = 1, high = 4, original = 8192;
};
std::vector<double> llama3_factors(const Llama3Scaling& scaling, double theta, int64_t head_dim) {
  std::vector<double> out;
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (wavelength < scaling.original / scaling.high) {
      out.push_back(1);
    } else if (wavelength > scaling.original / scaling.low) {
      out.push_back(scaling.factor);
    } else {
      const double smooth = (scaling.original / wavelength - scaling.low) / (scaling.high - scaling.low);
      out.push_back(1 / ((1 - smooth) / scaling.factor + smooth));
    }
  }
  return out;
}

// rope_freqs.weight as settings: those of llama3 where they give these factors, else the factors themselves,
// in the form that "longrope" has them.
Json scaling_of_factors(const Tensor& factors, double theta, int64_t head_dim, const std::string& source) {
  require(factors.elements() == head_dim / 2, Code::kDataLoss, "'{}': {} has {} factors, {} were wanted",
          source, kRopeFactors, factors.elements(), head_dim / 2);
  Json values = Json::array();
  double largest = 0;
  for (int64_t i = 0; i < factors.elements(); ++i) {
    const double value = factors.at(i);
    require(std::isfinite(value) && value > 0, Code::kDataLoss,
            "'{}': {}[{}] is {}, a number above 0 was wanted", source, kRopeFactors, i, value);
    values.push_back(value);
    largest = std::max(largest, value);
  }
  const Llama3Scaling guess{.factor = shortest(largest)};
  const std::vector<double> wanted = llama3_factors(guess, theta, head_dim);
  bool same = true;
  for (size_t i = 0; i < wanted.size(); ++i)
    same &= std::abs(factors.at(static_cast<int64_t>(i)) - wanted[i]) <= 1e-5 * wanted[i];
  if (same) {
    return {{"rope_type", "llama3"},
            {"factor", guess.factor},
            {"low_freq_factor", guess.low},
            {"high_freq_factor", guess.high},
            {"original_max_position_embeddings", static_cast<int64_t>(guess.original)}};
  }
  return {{"rope_type", "longrope"},
          {"short_factor", values},
          {"long_factor", values},
          {"attention_factor", 1.0}};
}

Json read_scaling(const GgufFile& file, const Json& config, const std::string& at) {
  const GgufMetadata& metadata = file.metadata();
  const std::string source = metadata.source();
  if (file.find(kRopeFactors) != nullptr) {
    return scaling_of_factors(file.read(kRopeFactors), config["rope_theta"].get<double>(),
                              config["head_dim"].get<int64_t>(), source);
  }
  const auto read_factors = [&](const char* name) {
    const Tensor factors = file.read(name);
    Json out = Json::array();
    for (int64_t i = 0; i < factors.elements(); ++i) out.push_back(factors.at(i));
    return out;
  };
  const auto original = metadata.integer(at + "rope.scaling.original_context_length");
  if (file.find("rope_factors_long.weight") != nullptr && file.find("rope_factors_short.weight") != nullptr) {
    Json out = {{"rope_type", "longrope"},
                {"short_factor", read_factors("rope_factors_short.weight")},
                {"long_factor", read_factors("rope_factors_long.weight")}};
    if (original) out["original_max_position_embeddings"] = *original;
    if (const auto attention = metadata.number(at + "rope.scaling.attn_factor"))
      out["attention_factor"] = shortest(*attention);
    return out;
  }
  const std::string* type = metadata.string(at + "rope.scaling.type");
  const auto factor = metadata.number(at + "rope.scaling.factor");
  if (type == nullptr || *type == "none" || (*type == "linear" && factor.value_or(0) <= 0)) return nullptr;
  require(*type == "linear" || *type == "yarn", Code::kUnimplemented,
          "'{}': {}rope.scaling.type is '{}'; none, linear and yarn are supported", source, at, *type);
  Json out = {{"rope_type", *type}, {"factor", shortest(factor.value_or(1))}};
  if (original) out["original_max_position_embeddings"] = *original;
  return out;
}

int64_t heads_of(const Json& config, std::string_view stored) {
  const bool key = stored.find("k_proj") != std::string_view::npos;
  return config[key ? "num_key_value_heads" : "num_attention_heads"].get<int64_t>();
}

bool turns_rows(const GgufArchitecture& row, std::string_view stored) {
  return row.rope_rows && (stored.find(".q_proj.") != std::string_view::npos ||
                           stored.find(".k_proj.") != std::string_view::npos);
}

// Row p D/2 + i of each head from (to_gguf: to) row 2 i + p. Whole rows move, whatever their type.
Tensor turned_rows(const Tensor& tensor, int64_t heads, bool to_gguf, const std::string& name,
                   const std::string& source) {
  const int64_t rows = tensor.shape()[0];
  require(heads > 0 && heads <= rows && rows % (2 * heads) == 0,
          "'{}': tensor '{}' has {} rows, which {} heads do not divide", source, name, rows, heads);
  const int64_t half = rows / heads / 2;
  const size_t row_bytes = tensor.size_bytes() / static_cast<size_t>(rows);
  Tensor out(tensor.type());
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t p = 0; p < 2; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t ours = (h * 2 + p) * half + i, theirs = (h * half + i) * 2 + p;
        std::memcpy(
            static_cast<std::byte*>(out.raw()) + static_cast<size_t>(to_gguf ? theirs : ours) * row_bytes,
            static_cast<const std::byte*>(tensor.raw()) +
                static_cast<size_t>(to_gguf ? ours : theirs) * row_bytes,
            row_bytes);
      }
    }
  }
  return out;
}

Tensor plus(const Tensor& tensor, double added) {
  Tensor out(tensor.type());
  for (int64_t i = 0; i < tensor.elements(); ++i) out.set(i, tensor.at(i) + added);
  return out;
}

void read_keys(const GgufMetadata& metadata, std::span<const GgufKey> keys, const std::string& at,
               Json& config) {
  for (const GgufKey& each : keys) {
    const std::string key = at + std::string(each.key), setting(each.setting);
    if (each.whole) {
      if (const auto value = metadata.integer(key)) config[setting] = *value;
    } else if (const auto value = metadata.number(key)) {
      config[setting] = shortest(*value);
    }
  }
}

void write_keys(const Json& config, std::span<const GgufKey> keys, const std::string& at,
                const std::string& source, GgufMetadata& metadata) {
  for (const GgufKey& each : keys) {
    const std::string setting(each.setting), key = at + std::string(each.key);
    if (!config.contains(setting) || config[setting].is_null()) continue;
    metadata.set(key, each.whole ? GgufValue::u32(json_get<int64_t>(config, setting, source))
                                 : GgufValue::f32(json_get<double>(config, setting, source)));
  }
}

// rope_theta and scaling, wherever this generation of config.json has them.
struct RopeSettings {
  double theta = 10000;
  Json scaling;  // null: none
};
RopeSettings rope_settings_of(const Json& config, const std::string& source) {
  RopeSettings out;
  out.theta = json_get<double>(config, "rope_theta", source, 10000.0);
  out.scaling = json_get<Json>(config, "rope_scaling", source, Json());
  Json nested = json_get<Json>(config, "rope_parameters", source, Json());
  if (nested.is_object() && nested.contains("full_attention")) nested = nested["full_attention"];
  if (nested.is_object()) {
    out.theta = json_get<double>(nested, "rope_theta", source, out.theta);
    if (json_get<std::string>(nested, "rope_type", source, "default") != "default") out.scaling = nested;
  }
  return out;
}

void plan_scaling(const RopeSettings& rope, int64_t head_dim, const std::string& at,
                  const std::string& source, GgufModelPlan& plan) {
  if (rope.scaling.is_null()) return;
  const Json& scaling = rope.scaling;
  const auto type = json_get<std::string>(scaling, "rope_type", source,
                                          json_get<std::string>(scaling, "type", source, "default"));
  const auto number = [&](const char* key) { return json_get<double>(scaling, key, source); };
  if (type == "default") return;
  if (type == "llama3") {
    const Llama3Scaling llama3{number("factor"), number("low_freq_factor"), number("high_freq_factor"),
                               number("original_max_position_embeddings")};
    Tensor factors(DType::kF32, {head_dim / 2});
    const std::vector<double> values = llama3_factors(llama3, rope.theta, head_dim);
    for (size_t i = 0; i < values.size(); ++i) factors.set(static_cast<int64_t>(i), values[i]);
    plan.tensors.push_back({std::string(kRopeFactors), "", factors});
    return;
  }
  require(type == "linear" || type == "yarn", Code::kUnimplemented,
          "{}: rope_type '{}' is not written to GGUF; default, linear, yarn and llama3 are", source, type);
  plan.metadata.set(at + "rope.scaling.type", GgufValue::string(type));
  plan.metadata.set(at + "rope.scaling.factor", GgufValue::f32(number("factor")));
  if (scaling.contains("original_max_position_embeddings")) {
    plan.metadata.set(at + "rope.scaling.original_context_length",
                      GgufValue::u32(json_get<int64_t>(scaling, "original_max_position_embeddings", source)));
  }
}

}  // namespace

Json gguf_config(const GgufFile& file) {
  const GgufMetadata& metadata = file.metadata();
  const std::string& source = metadata.source();
  const std::string* name = metadata.string("general.architecture");
  require(name != nullptr, Code::kDataLoss, "'{}' has no key general.architecture: is it a model?", source);
  const GgufArchitecture& row = gguf_architecture(*name, fmt::format("'{}'", source));
  const std::string at = *name + ".";
  Json config = {{"architectures", {row.class_name}}, {"model_type", row.model_type}};
  config.update(parse_json(row.settings, source));
  read_keys(metadata, common_gguf_keys(), at, config);
  read_keys(metadata, row.keys, at, config);
  for (const char* wanted :
       {"num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"}) {
    require(config.contains(wanted) && config[wanted].get<int64_t>() > 0, Code::kDataLoss,
            "'{}': the metadata lack {} (or it is not above 0)", source, wanted);
  }
  if (!config.contains("num_key_value_heads")) config["num_key_value_heads"] = config["num_attention_heads"];
  if (!config.contains("rope_theta")) config["rope_theta"] = 10000.0;
  if (!config.contains("head_dim"))
    config["head_dim"] = config["hidden_size"].get<int64_t>() / config["num_attention_heads"].get<int64_t>();
  const GgufEntry* embedding = file.find("token_embd.weight");
  require(embedding != nullptr && embedding->type.shape.rank() == 2, Code::kDataLoss,
          "'{}' lacks the matrix token_embd.weight", source);
  config["vocab_size"] = embedding->type.shape[0];
  config["tie_word_embeddings"] = file.find("output.weight") == nullptr;
  if (config.contains("attention_bias")) config["attention_bias"] = file.find("blk.0.attn_q.bias") != nullptr;
  if (config.contains("mlp_bias")) config["mlp_bias"] = file.find("blk.0.ffn_down.bias") != nullptr;
  if (const auto rotary = metadata.integer(at + "rope.dimension_count");
      rotary && *rotary > 0 && *rotary < config["head_dim"].get<int64_t>()) {
    config["partial_rotary_factor"] = static_cast<double>(*rotary) / config["head_dim"].get<double>();
  }
  if (Json scaling = read_scaling(file, config, at); !scaling.is_null())
    config["rope_scaling"] = std::move(scaling);
  for (const auto& [key, setting] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                     std::pair{"tokenizer.ggml.eos_token_id", "eos_token_id"}}) {
    if (const auto id = metadata.integer(key)) config[setting] = *id;
  }
  config["torch_dtype"] = "float32";
  if (row.complete != nullptr) row.complete(config);
  return config;
}

StoredModel read_gguf_model(const GgufFile& file) {
  StoredModel out;
  out.config = gguf_config(file);
  const std::string source = file.path().string();
  const GgufArchitecture& row = gguf_architecture(*file.metadata().string("general.architecture"), source);
  for (const GgufEntry& entry : file.entries()) {
    if (entry.name.starts_with("rope_f")) continue;  // in the configuration
    const auto name = stored_name(row, entry.name);
    require(name.has_value(), Code::kUnimplemented, "'{}': tensor '{}' is not one that a {} model has",
            source, entry.name, row.architecture);
    Tensor tensor = file.read(entry);
    if (turns_rows(row, *name))
      tensor = turned_rows(tensor, heads_of(out.config, *name), false, *name, source);
    if (row.norms_plus_one && name->ends_with("norm.weight")) tensor = plus(tensor.to(DType::kF32), -1);
    out.tensors.emplace(*name, std::move(tensor));
  }
  return out;
}

GgufModelPlan plan_gguf_model(const Json& config, const std::vector<std::string>& stored_names,
                              const std::string& source) {
  GgufModelPlan out;
  const GgufArchitecture& row =
      gguf_architecture_of_model(json_get<std::string>(config, "model_type", source), source);
  out.row = &row;
  out.metadata = GgufMetadata(source);
  const std::string at = std::string(row.architecture) + ".";
  out.metadata.set("general.architecture", GgufValue::string(std::string(row.architecture)));
  const RopeSettings rope = rope_settings_of(config, source);
  const auto heads = json_get<int64_t>(config, "num_attention_heads", source);
  require(heads > 0, "{}: num_attention_heads is {}, at least 1 was wanted", source, heads);
  const int64_t head_dim =
      json_get<int64_t>(config, "head_dim", source, json_get<int64_t>(config, "hidden_size", source) / heads);
  Json settings = config;
  settings["rope_theta"] = rope.theta;
  settings["head_dim"] = head_dim;
  if (!settings.contains("num_key_value_heads") || settings["num_key_value_heads"].is_null())
    settings["num_key_value_heads"] = heads;
  write_keys(settings, common_gguf_keys(), at, source, out.metadata);
  write_keys(settings, row.keys, at, source, out.metadata);
  out.metadata.set(at + "attention.value_length", GgufValue::u32(head_dim));
  out.metadata.set(at + "vocab_size", GgufValue::u32(json_get<int64_t>(config, "vocab_size", source)));
  const auto part = json_get<double>(config, "partial_rotary_factor", source, 1.0);
  out.metadata.set(at + "rope.dimension_count",
                   GgufValue::u32(static_cast<int64_t>(static_cast<double>(head_dim) * part)));
  plan_scaling(rope, head_dim, at, source, out);
  const bool tied = json_get<bool>(config, "tie_word_embeddings", source, row.norms_plus_one);
  for (const std::string& stored : stored_names) {
    if (stored.ends_with("rotary_emb.inv_freq") || (tied && stored == "lm_head.weight")) continue;
    auto name = gguf_name(row, stored);
    require(name.has_value(), Code::kUnimplemented, "{}: tensor '{}' has no name in GGUF for a {} model",
            source, stored, row.model_type);
    out.tensors.push_back({std::move(*name), stored, std::nullopt});
  }
  return out;
}

Tensor gguf_form(const GgufArchitecture& row, const Json& config, const std::string& stored,
                 const Tensor& tensor) {
  if (turns_rows(row, stored)) {
    Json heads = config;
    if (!heads.contains("num_key_value_heads") || heads["num_key_value_heads"].is_null())
      heads["num_key_value_heads"] = heads["num_attention_heads"];
    return turned_rows(tensor, heads_of(heads, stored), true, stored, "the model");
  }
  if (row.norms_plus_one && stored.ends_with("norm.weight")) return plus(tensor.to(DType::kF32), 1);
  return tensor;
}

}  // namespace vertebra
