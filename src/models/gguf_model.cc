#include "models/gguf_model.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/mapped_pages.h"
#include "models/gguf_rope.h"
#include "models/rope.h"

namespace vertebra {
namespace {

// Half of the rows (axis 1) of [X, 2 F, ...]: the even or the odd ones.
Tensor every_other_row(const Tensor& tensor, int part) {
  const Shape& shape = tensor.shape();
  std::vector<int64_t> sizes;
  for (int i = 0; i < shape.rank(); ++i) sizes.push_back(i == 1 ? shape[i] / 2 : shape[i]);
  Tensor out(tensor.dtype(), Shape(std::span<const int64_t>(sizes)));
  const int64_t rows = shape[0] * shape[1] / 2;
  const size_t bytes = out.size_bytes() / static_cast<size_t>(rows);
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(static_cast<std::byte*>(out.raw()) + static_cast<size_t>(i) * bytes,
                static_cast<const std::byte*>(tensor.raw()) + static_cast<size_t>(2 * i + part) * bytes,
                bytes);
  }
  return out;
}

// The inverse.
void put_rows(const Tensor& half, int part, Tensor& out) {
  const int64_t rows = half.shape()[0] * half.shape()[1];
  const size_t bytes = half.size_bytes() / static_cast<size_t>(rows);
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(static_cast<std::byte*>(out.raw()) + static_cast<size_t>(2 * i + part) * bytes,
                static_cast<const std::byte*>(half.raw()) + static_cast<size_t>(i) * bytes, bytes);
  }
}

Shape file_shape(const ParameterSpec& spec, const GgufPart& part) {
  if (part.form != nullptr && part.form->file_shape != nullptr) return part.form->file_shape(spec.shape);
  if (part.part < 0) return spec.shape;
  auto sizes = spec.shape.sizes();
  sizes[1] /= 2;
  return Shape(std::span<const int64_t>(sizes));
}

// Files leave out axes of one element at the front, which cannot be told from those that are there.
bool same_but_for_ones(const Shape& a, const Shape& b) {
  const auto beyond_ones = [](const Shape& shape) {
    auto out = shape.sizes();
    const auto first = std::find_if(out.begin(), out.end(), [](int64_t size) { return size != 1; });
    out.erase(out.begin(), first);
    return out;
  };
  return beyond_ones(a) == beyond_ones(b);
}

class FileTensors final : public ModelTensors {
 public:
  FileTensors(const Model& model, std::shared_ptr<const GgufFile> file, const GgufArchitecture& row)
      : model_(model), file_(std::move(file)), row_(row) {
    std::set<std::string_view> used;
    for (const ParameterSpec& spec : model.parameters()) check(spec, used);
    for (const GgufEntry& entry : file_->entries()) {
      const bool known = used.contains(entry.name) || entry.name.starts_with("rope_f") ||
                         (row.ignores != nullptr && row.ignores(entry.name, model.config()));
      require(known, Code::kUnimplemented, "'{}': tensor '{}' is not one that a {} model has", source(),
              entry.name, row.architecture);
    }
  }

  DType dtype(const ParameterSpec& spec) const override {
    return file_->find(gguf_parts(row_, spec.name)[0].name)->type.dtype;
  }

  Tensor read(const ParameterSpec& spec) const override {
    const std::vector<GgufPart> parts = gguf_parts(row_, spec.name);
    if (parts[0].part < 0) {
      const Tensor stored = file_->read(parts[0].name).reshaped(file_shape(spec, parts[0]));
      if (parts[0].form == nullptr) return stored;
      Tensor out = parts[0].form->from_file(stored, model_);
      give_back_pages(stored.raw(), stored.size_bytes());
      return out;
    }
    Tensor out(dtype(spec), spec.shape);
    for (const GgufPart& part : parts) {
      const Tensor half = file_->read(part.name);
      put_rows(half, part.part, out);
      give_back_pages(half.raw(), half.size_bytes());
    }
    return out;
  }

 private:
  const std::string& source() const { return file_->metadata().source(); }

  void check(const ParameterSpec& spec, std::set<std::string_view>& used) const {
    const std::vector<GgufPart> parts = gguf_parts(row_, spec.name);
    for (const GgufPart& part : parts) {
      const GgufEntry* entry = file_->find(part.name);
      const Shape wanted = file_shape(spec, part);
      require(entry != nullptr, Code::kDataLoss, "'{}' lacks the tensor '{}' of shape {}", source(),
              part.name, wanted.to_string());
      require(same_but_for_ones(entry->type.shape, wanted), Code::kDataLoss,
              "'{}': tensor '{}' has shape {}, by the metadata {} was wanted", source(), part.name,
              entry->type.shape.to_string(), wanted.to_string());
      const DType dtype = entry->type.dtype;
      require(is_float(dtype) || is_block_quantized(dtype), Code::kDataLoss,
              "'{}': tensor '{}' has type {}, a floating-point type was wanted", source(), part.name,
              dtype_name(dtype));
      require(dtype == this->dtype(spec), Code::kUnimplemented,
              "'{}': tensor '{}' has type {}, '{}' has {}: both are one parameter of one type here", source(),
              part.name, dtype_name(dtype), parts[0].name, dtype_name(this->dtype(spec)));
      used.insert(entry->name);
    }
  }

  const Model& model_;
  std::shared_ptr<const GgufFile> file_;
  const GgufArchitecture& row_;
};

void read_keys(const GgufMetadata& metadata, const GgufArchitecture& row, Json& config) {
  const std::string at = gguf_at(metadata);
  for (const GgufKey& each : row.keys) {
    const std::string key = at + std::string(each.key), setting(each.setting);
    const GgufValue* found = metadata.find(key);
    if (found == nullptr) continue;
    if (!each.whole) {
      config[setting] = gguf_number_of(*metadata.number(key));
    } else if (!found->is_array()) {
      config[setting] = *metadata.integer(key);
    } else {
      const std::vector<int64_t>& values = *metadata.integers(key);
      const bool one = !values.empty() && std::equal(values.begin() + 1, values.end(), values.begin());
      require(one || row.read != nullptr, Code::kUnimplemented,
              "'{}': {} has other numbers for each layer, one for all was wanted", metadata.source(), key);
      if (one) config[setting] = values[0];
    }
  }
}

// What Decoder reads beside the keys.
void read_decoder(const GgufFile& file, Json& config) {
  const std::string& source = file.metadata().source();
  for (const char* wanted :
       {"num_hidden_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"}) {
    require(config.contains(wanted) && config[wanted].get<int64_t>() > 0, Code::kDataLoss,
            "'{}': the metadata lack {} (or it is not above 0)", source, wanted);
  }
  require(config["num_hidden_layers"] <= kMaxLayers, Code::kDataLoss,
          "'{}': the metadata name {} layers, at most {} are taken", source,
          json_line(config["num_hidden_layers"]), kMaxLayers);
  if (!config.contains("num_key_value_heads")) config["num_key_value_heads"] = config["num_attention_heads"];
  if (!config.contains("head_dim"))
    config["head_dim"] = config["hidden_size"].get<int64_t>() / config["num_attention_heads"].get<int64_t>();
  if (config.contains("attention_bias")) config["attention_bias"] = file.find("blk.0.attn_q.bias") != nullptr;
  if (config.contains("mlp_bias")) config["mlp_bias"] = file.find("blk.0.ffn_down.bias") != nullptr;
}

void write_keys(const Model& model, const GgufArchitecture& row, const std::string& source,
                GgufMetadata& metadata) {
  const std::string at = gguf_at(metadata);
  Json config = model.config();
  if (row.decoder) {
    config["head_dim"] = model.shape().head_dim;
    config["num_key_value_heads"] = model.shape().key_value_heads;
  }
  for (const GgufKey& each : row.keys) {
    const std::string setting(each.setting), key = at + std::string(each.key);
    if (!config.contains(setting) || config[setting].is_null()) continue;
    metadata.set(key, each.whole ? GgufValue::u32(json_get<int64_t>(config, setting, source))
                                 : GgufValue::f32(json_get<double>(config, setting, source)));
  }
  metadata.set(at + "vocab_size", GgufValue::u32(model.shape().vocabulary));
}

}  // namespace

Json gguf_config(const GgufFile& file) {
  const GgufMetadata& metadata = file.metadata();
  const std::string& source = metadata.source();
  const std::string* name = metadata.string("general.architecture");
  require(name != nullptr, Code::kDataLoss, "'{}' has no key general.architecture: is it a model?", source);
  const GgufArchitecture& row = gguf_architecture(*name, fmt::format("'{}'", source));
  Json config = {{"architectures", {row.class_name}}, {"model_type", row.model_type}};
  config.update(parse_json(row.settings, source));
  read_keys(metadata, row, config);
  const GgufEntry* embedding = file.find("token_embd.weight");
  require(embedding != nullptr && embedding->type.shape.rank() == 2, Code::kDataLoss,
          "'{}' lacks the matrix token_embd.weight", source);
  config["vocab_size"] = embedding->type.shape[0];
  config["tie_word_embeddings"] = file.find("output.weight") == nullptr;
  if (row.decoder) read_decoder(file, config);
  if (row.decoder && row.rotary) read_gguf_rope(file, config);
  for (const auto& [key, setting] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                     std::pair{"tokenizer.ggml.eos_token_id", "eos_token_id"}}) {
    if (const auto id = metadata.integer(key)) config[setting] = *id;
  }
  config["torch_dtype"] = "float32";
  if (row.read != nullptr) row.read(file, config);
  return config;
}

StoredModel open_gguf_model(std::shared_ptr<const GgufFile> file) {
  StoredModel out;
  const std::string source = file->path().string();
  out.model = make_model(gguf_config(*file), source);
  const GgufArchitecture& row = gguf_architecture(*file->metadata().string("general.architecture"), source);
  out.tensors = std::make_unique<FileTensors>(*out.model, std::move(file), row);
  return out;
}

GgufModelPlan plan_gguf_model(const StoredModel& stored, const std::string& source) {
  const Model& model = *stored.model;
  GgufModelPlan out;
  const GgufArchitecture& row =
      gguf_architecture_of_model(json_get<std::string>(model.config(), "model_type", source), source);
  out.row = &row;
  GgufContents contents{GgufMetadata(source), {}};
  contents.metadata.set("general.architecture", GgufValue::string(std::string(row.architecture)));
  write_keys(model, row, source, contents.metadata);
  if (row.decoder) {
    const ModelShape& shape = model.shape();
    contents.metadata.set(gguf_at(contents.metadata) + "attention.value_length",
                          GgufValue::u32(shape.head_dim));
    if (row.rotary)
      write_gguf_rope(rope_settings(model.config(), source, row.rope_theta, std::string(row.rope_layers)),
                      shape.head_dim, shape.context_length, source, contents);
  }
  if (row.write != nullptr) row.write(model, contents);
  for (NamedTensor& each : contents.tensors)
    out.tensors.push_back({{each.name, each.tensor.type(), 0}, nullptr, each.tensor});
  for (const ParameterSpec& spec : model.parameters()) {
    for (const GgufPart& part : gguf_parts(row, spec.name))
      out.tensors.push_back(
          {{part.name, {stored.tensors->dtype(spec), file_shape(spec, part)}, 0}, &spec, {}});
  }
  out.metadata = std::move(contents.metadata);
  return out;
}

Tensor GgufTensors::read(size_t i) {
  const GgufTensorPlan& plan = plan_.tensors[i];
  if (plan.spec == nullptr) return plan.made;
  if (latest_ != plan.spec) {
    latest_ = plan.spec;
    tensor_ = stored_.tensors->read(*plan.spec);
  }
  for (const GgufPart& part : gguf_parts(*plan_.row, plan.spec->name)) {
    if (part.name != plan.entry.name) continue;
    if (part.part >= 0) return every_other_row(tensor_, part.part);
    return part.form == nullptr ? tensor_ : part.form->to_file(tensor_, *stored_.model);
  }
  return tensor_;
}

}  // namespace vertebra
