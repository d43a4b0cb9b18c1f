#include "models/model_folder.h"


#include "base/error.h"
#include "base/file.h"
#include "base/memory_limit.h"
#include "base/progress.h"
#include "models/gguf_model.h"
#include "models/stored_tensors.h"
#include "tensor/convert.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

// Matrices and experts: what linear, embedding and expert_linear take as blocks.
bool keeps_blocks(DType dtype, const ParameterSpec& spec, WeightForm form) {
  return form == WeightForm::kStored && is_block_quantized(dtype) && spec.shape.rank() >= 2;
}

void check_fits_memory(const StoredModel& stored, WeightForm form, const std::string& source) {
  uint64_t wanted = 0;
  for (const ParameterSpec& spec : stored.model->parameters()) {
    const DType dtype = stored.tensors->dtype(spec);
    wanted += TensorType{keeps_blocks(dtype, spec, form) ? dtype : DType::kF32, spec.shape}.size_bytes();
  }
  const auto memory = available_memory_bytes();
  require(
      !memory || wanted <= *memory, Code::kResourceExhausted,
      "{}: its weights need {} of memory, {} are free here (machine and control group): free some, raise the "
      "limit, or take a smaller model or quantization",
      source, format_bytes(wanted), format_bytes(memory.value_or(0)));
}

LoadedModel load(StoredModel stored, WeightForm form, const std::string& source) {
  check_fits_memory(stored, form, source);
  LoadedModel out;
  for (const ParameterSpec& spec : stored.model->parameters()) {
    const Tensor tensor = stored.tensors->read(spec);
    out.parameters.push_back(
        {spec.name, keeps_blocks(tensor.dtype(), spec, form) ? tensor : convert(tensor, DType::kF32)});
  }
  stored.tensors.reset();
  out.model = std::move(stored.model);
  return out;
}

}  // namespace

StoredModel open_model(const fs::path& path) {
  return is_gguf_file(path) ? open_gguf_model(std::make_shared<const GgufFile>(path))
                            : open_model_folder(path);
}

LoadedModel read_model_folder(const fs::path& folder) {
  return load(open_model_folder(folder), WeightForm::kF32, folder.string());
}

LoadedModel read_model(const fs::path& path, WeightForm form) {
  return load(open_model(path), form, path.string());
}

void write_model_folder(const fs::path& folder, const Model& model, std::span<const NamedTensor> parameters,
                        int32_t stop_token, const Json& further_generation) {
  Json config = model.config();
  if (stop_token >= 0) config["eos_token_id"] = stop_token;
  write_json_file(folder / "config.json", config);
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const ParameterSpec& spec = model.parameters()[i];
    VERTEBRA_CHECK(parameters[i].name == spec.name, "parameters in another order than the declarations");
    for (NamedTensor& each : stored_form(spec, parameters[i].tensor)) tensors.push_back(std::move(each));
  }
  write_safetensors(folder / "model.safetensors", tensors);
  Json generation = {{"do_sample", false}};
  if (stop_token >= 0) generation["eos_token_id"] = stop_token;
  generation.update(further_generation);
  write_json_file(folder / "generation_config.json", generation);
}

}  // namespace vertebra
