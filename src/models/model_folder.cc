#include "models/model_folder.h"

#include <unistd.h>

#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "models/gguf_model.h"
#include "models/stored_tensors.h"
#include "tensor/convert.h"

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

// Memory of the machine; 0 where the system does not tell.
uint64_t physical_memory_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && size > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(size) : 0;
}

bool keeps_blocks(const Tensor& tensor, const ParameterSpec& spec, WeightForm form) {
  return form == WeightForm::kStored && is_block_quantized(tensor.dtype()) && spec.shape.rank() == 2;
}

void check_fits_memory(const Model& model, const std::map<std::string, Tensor>& tensors, WeightForm form,
                       const std::string& source) {
  uint64_t wanted = 0;
  for (const ParameterSpec& spec : model.parameters()) {
    const auto it = tensors.find(spec.name);
    if (it == tensors.end()) continue;
    wanted += keeps_blocks(it->second, spec, form) ? it->second.size_bytes()
                                                   : TensorType{DType::kF32, spec.shape}.size_bytes();
  }
  const uint64_t memory = physical_memory_bytes();
  require(memory == 0 || wanted <= memory, Code::kResourceExhausted,
          "{}: its weights need {} of memory, this machine has {}: a smaller model or a smaller quantization "
          "was wanted",
          source, format_bytes(wanted), format_bytes(memory));
}

// The declared parameters out of the tensors at hand.
std::vector<NamedTensor> take_parameters(const Model& model, std::map<std::string, Tensor> tensors,
                                         WeightForm form, const std::string& source) {
  check_parameters(model, tensors, source);
  check_fits_memory(model, tensors, form, source);
  std::vector<NamedTensor> out;
  for (const ParameterSpec& spec : model.parameters()) {
    const auto it = tensors.find(spec.name);
    out.push_back(
        {spec.name, keeps_blocks(it->second, spec, form) ? it->second : convert(it->second, DType::kF32)});
    tensors.erase(it);
  }
  return out;
}

}  // namespace

void check_parameters(const Model& model, const std::map<std::string, Tensor>& tensors,
                      const std::string& source) {
  std::set<std::string_view> declared;
  for (const ParameterSpec& spec : model.parameters()) {
    declared.insert(spec.name);
    const auto it = tensors.find(spec.name);
    require(it != tensors.end(), "{}: the weights lack the tensor '{}' of shape {}", source, spec.name,
            spec.shape.to_string());
    require(it->second.shape() == spec.shape, "{}: tensor '{}' has shape {}, by config.json {} was wanted",
            source, spec.name, it->second.shape().to_string(), spec.shape.to_string());
    require(is_float(it->second.dtype()) || is_block_quantized(it->second.dtype()),
            "{}: tensor '{}' has type {}, a floating-point type was wanted", source, spec.name,
            dtype_name(it->second.dtype()));
  }
  for (const auto& [name, tensor] : tensors) {
    const bool copy_of_tied_head = name == "lm_head.weight" && model.head() != "lm_head.weight";
    require(declared.contains(name) || copy_of_tied_head || is_known_buffer(name),
            "{}: the weights hold a tensor '{}' that a {} model has no use for", source, name,
            json_get<std::string>(model.config(), "model_type", source));
  }
}

LoadedModel read_model_folder(const fs::path& folder) {
  const std::string source = (folder / "config.json").string();
  require(fs::is_directory(folder), Code::kNotFound, "'{}' is no folder with a model", folder.string());
  require(fs::exists(folder / "config.json"), Code::kNotFound,
          "'{}' holds no config.json: a model folder in Hugging Face layout was wanted", folder.string());
  LoadedModel out;
  out.model = make_model(read_json_file(folder / "config.json"), source);
  out.parameters = take_parameters(*out.model, tensors_by_declared_name(folder, *out.model), WeightForm::kF32,
                                   folder.string());
  return out;
}

LoadedModel read_model(const fs::path& path, WeightForm form) {
  if (!is_gguf_file(path)) return read_model_folder(path);
  StoredModel stored = read_gguf_model(GgufFile(path));
  LoadedModel out;
  out.model = make_model(stored.config, path.string());
  out.parameters = take_parameters(*out.model, std::move(stored.tensors), form, path.string());
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
