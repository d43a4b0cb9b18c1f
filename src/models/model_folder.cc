#include "models/model_folder.h"

#include <map>

#include "base/error.h"
#include "base/file.h"
#include "models/stored_tensors.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// GPT-2 files on the hub leave out the prefix that the architecture's own names have.
constexpr std::string_view kOptionalPrefix = "transformer.";

// Buffers that old files carry and no forward pass reads.
bool is_known_buffer(const std::string& name) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
         name.ends_with("rotary_emb.inv_freq");
}

std::map<std::string, Tensor> tensors_by_declared_name(const fs::path& folder, const Model& model) {
  bool declares_prefix = false;
  for (const ParameterSpec& spec : model.parameters())
    declares_prefix |= spec.name.starts_with(kOptionalPrefix);
  const StoredNames stored = model.stored_names();
  std::map<std::string, Tensor> out;
  const SafetensorsModel weights = SafetensorsModel::open(folder);
  for (const std::string& name : weights.names()) {
    const bool bare = declares_prefix && !name.starts_with(kOptionalPrefix) && name != "lm_head.weight";
    const std::string declared = declared_name(stored, bare ? std::string(kOptionalPrefix) + name : name);
    if (!declared.empty()) out[declared] = weights.read(name);
  }
  assemble(model, folder.string(), out);
  return out;
}

}  // namespace

LoadedModel read_model_folder(const fs::path& folder) {
  const std::string source = (folder / "config.json").string();
  require(fs::is_directory(folder), Code::kNotFound, "'{}' is no folder with a model", folder.string());
  require(fs::exists(folder / "config.json"), Code::kNotFound,
          "'{}' holds no config.json: a model folder in Hugging Face layout was wanted", folder.string());
  LoadedModel out;
  out.model = make_model(read_json_file(folder / "config.json"), source);
  std::map<std::string, Tensor> tensors = tensors_by_declared_name(folder, *out.model);
  for (const ParameterSpec& spec : out.model->parameters()) {
    const auto it = tensors.find(spec.name);
    require(it != tensors.end(), "{}: the weights lack the tensor '{}' of shape {}", folder.string(),
            spec.name, spec.shape.to_string());
    require(it->second.shape() == spec.shape, "{}: tensor '{}' has shape {}, by config.json {} was wanted",
            folder.string(), spec.name, it->second.shape().to_string(), spec.shape.to_string());
    require(is_float(it->second.dtype()), "{}: tensor '{}' has type {}, a floating-point type was wanted",
            folder.string(), spec.name, dtype_name(it->second.dtype()));
    out.parameters.push_back({spec.name, it->second.to(DType::kF32)});
    tensors.erase(it);
  }
  for (const auto& [name, tensor] : tensors) {
    const bool copy_of_tied_head = name == "lm_head.weight" && out.model->head() != "lm_head.weight";
    require(copy_of_tied_head || is_known_buffer(name),
            "{}: the weights hold a tensor '{}' that a {} model has no use for", folder.string(), name,
            json_get<std::string>(out.model->config(), "model_type", source));
  }
  return out;
}

void write_model_folder(const fs::path& folder, const Model& model, std::span<const NamedTensor> parameters,
                        int32_t stop_token, const Json& further_generation) {
  Json config = model.config();
  if (stop_token >= 0) config["eos_token_id"] = stop_token;
  write_json_file(folder / "config.json", config);
  write_safetensors(folder / "model.safetensors", disassemble(model, parameters));
  Json generation = {{"do_sample", false}};
  if (stop_token >= 0) generation["eos_token_id"] = stop_token;
  generation.update(further_generation);
  write_json_file(folder / "generation_config.json", generation);
}

}  // namespace vertebra
