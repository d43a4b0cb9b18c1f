#include "models/stored_tensors.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "tensor/block_quant.h"

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

std::string numbered(const std::string& pattern, int64_t number) {
  const size_t at = pattern.find("{}");
  VERTEBRA_CHECK(at != std::string::npos, "the stored name of a stack has no place for the number");
  return pattern.substr(0, at) + std::to_string(number) + pattern.substr(at + 2);
}

Shape swapped(const Shape& shape) { return {shape[0], shape[2], shape[1]}; }

// The last two axes of [X, A, B] the other way round.
Tensor transposed(const Tensor& tensor) {
  const Shape& shape = tensor.shape();
  const int64_t X = shape[0], A = shape[1], B = shape[2];
  Tensor out(tensor.dtype(), {X, B, A});
  const size_t size = dtype_size(tensor.dtype());
  const auto* from = static_cast<const std::byte*>(tensor.raw());
  auto* to = static_cast<std::byte*>(out.raw());
  for (int64_t x = 0; x < X; ++x) {
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t a = 0; a < A; ++a, to += size)
        std::memcpy(to, from + static_cast<size_t>((x * A + a) * B + b) * size, size);
    }
  }
  return out;
}

class FolderTensors final : public ModelTensors {
 public:
  FolderTensors(const Model& model, const SafetensorsModel& weights, std::string source)
      : source_(std::move(source)) {
    bool declares_prefix = false;
    for (const ParameterSpec& spec : model.parameters())
      declares_prefix |= spec.name.starts_with(kOptionalPrefix);
    const StoredNames stored = model.stored_names();
    for (const std::string& name : weights.names()) {
      const bool bare = declares_prefix && !name.starts_with(kOptionalPrefix) && name != "lm_head.weight";
      const std::string declared = declared_name(stored, bare ? std::string(kOptionalPrefix) + name : name);
      if (!declared.empty()) tensors_[declared] = weights.read(name);
    }
    check(model);
  }

  DType dtype(const ParameterSpec& spec) const override {
    if (has_microscaled(spec)) return DType::kMXFP4;
    return tensors_.at(is_stack(spec) ? numbered(spec.stored.name, 0) : spec.name).dtype();
  }

  Tensor read(const ParameterSpec& spec) const override {
    if (has_microscaled(spec)) return microscaled(spec);
    if (is_stack(spec)) return stack(spec);
    const Tensor& tensor = tensors_.at(spec.name);
    return spec.stored.kind == StoredForm::Kind::kTransposed ? transposed(tensor) : tensor;
  }

 private:
  // Each by itself, unless the file has them as one, as declared.
  bool is_stack(const ParameterSpec& spec) const {
    return spec.stored.kind == StoredForm::Kind::kStack && !tensors_.contains(spec.name);
  }
  // As gpt-oss has its experts: 4-bit values by 32 with a scale, in the declared order of rows.
  bool has_microscaled(const ParameterSpec& spec) const {
    return spec.shape.rank() == 3 && !tensors_.contains(spec.name) &&
           tensors_.contains(spec.name + "_blocks");
  }

  void check_tensor(const std::string& name, const Shape& wanted, bool of_bytes = false) const {
    const auto it = tensors_.find(name);
    require(it != tensors_.end(), "{}: the weights lack the tensor '{}' of shape {}", source_, name,
            wanted.to_string());
    const TensorType& type = it->second.type();
    require(type.shape == wanted, "{}: tensor '{}' has shape {}, by config.json {} was wanted", source_, name,
            type.shape.to_string(), wanted.to_string());
    require(of_bytes ? type.dtype == DType::kU8 : is_float(type.dtype),
            "{}: tensor '{}' has type {}, {} was wanted", source_, name, dtype_name(type.dtype),
            of_bytes ? "u8" : "a floating-point type");
  }

  void check_parameter(const ParameterSpec& spec, std::set<std::string>& used) const {
    if (has_microscaled(spec)) {
      const int64_t X = spec.shape[0], rows = spec.shape[1], blocks = spec.shape[2] / 32;
      require(spec.shape[2] % 32 == 0, "{}: tensor '{}_blocks': rows of {} values are no whole blocks of 32",
              source_, spec.name, spec.shape[2]);
      check_tensor(spec.name + "_blocks", {X, rows, blocks, 16}, true);
      check_tensor(spec.name + "_scales", {X, rows, blocks}, true);
      used.insert(spec.name + "_blocks");
      used.insert(spec.name + "_scales");
    } else if (is_stack(spec)) {
      for (int64_t i = 0; i < spec.shape[0]; ++i) {
        const std::string name = numbered(spec.stored.name, i);
        check_tensor(name, spec.shape.without(0));
        require(tensors_.at(name).dtype() == dtype(spec),
                "{}: tensor '{}' has type {}, its neighbours have {}", source_, name,
                dtype_name(tensors_.at(name).dtype()), dtype_name(dtype(spec)));
        used.insert(name);
      }
    } else {
      check_tensor(spec.name,
                   spec.stored.kind == StoredForm::Kind::kTransposed ? swapped(spec.shape) : spec.shape);
      used.insert(spec.name);
    }
  }

  void check(const Model& model) const {
    std::set<std::string> used;
    for (const ParameterSpec& spec : model.parameters()) check_parameter(spec, used);
    for (const auto& [name, tensor] : tensors_) {
      const bool copy_of_tied_head = name == "lm_head.weight" && model.head() != "lm_head.weight";
      require(used.contains(name) || copy_of_tied_head || is_known_buffer(name),
              "{}: the weights hold a tensor '{}' that a {} model has no use for", source_, name,
              json_get<std::string>(model.config(), "model_type", source_));
    }
  }

  Tensor stack(const ParameterSpec& spec) const {
    Tensor out(dtype(spec), spec.shape);
    auto* to = static_cast<std::byte*>(out.raw());
    for (int64_t i = 0; i < spec.shape[0]; ++i) {
      const Tensor& part = tensors_.at(numbered(spec.stored.name, i));
      std::memcpy(to, part.raw(), part.size_bytes());
      to += part.size_bytes();
    }
    return out;
  }

  // Neighbours share a byte in the folder; in a block, the values of its halves do.
  Tensor microscaled(const ParameterSpec& spec) const {
    Tensor out(DType::kMXFP4, spec.shape);
    const auto values = tensors_.at(spec.name + "_blocks").data<uint8_t>();
    const auto scales = tensors_.at(spec.name + "_scales").data<uint8_t>();
    auto* to = static_cast<std::byte*>(out.raw());
    for (size_t b = 0; b < scales.size(); ++b, to += sizeof(BlockMXFP4)) {
      const uint8_t* from = values.data() + 16 * b;
      const auto value = [&](int i) { return (from[i / 2] >> (4 * (i % 2))) & 15; };
      BlockMXFP4 block;
      block.e = scales[b];
      for (int i = 0; i < 16; ++i) block.qs[i] = static_cast<uint8_t>(value(i) | value(i + 16) << 4);
      std::memcpy(to, &block, sizeof block);
    }
    return out;
  }

  std::string source_;
  std::map<std::string, Tensor> tensors_;  // views of the files, by declared_name
};

}  // namespace

std::string declared_name(const StoredNames& names, const std::string& stored) {
  std::string out = stored;
  const auto ignored = [&] {
    return std::any_of(names.ignored.begin(), names.ignored.end(),
                       [&](const std::string& prefix) { return out.starts_with(prefix); });
  };
  if (ignored()) return {};
  for (const auto& [from, to] : names.prefixes) {
    if (!stored.starts_with(from)) continue;
    out = to + stored.substr(from.size());
    break;
  }
  return ignored() ? std::string() : out;
}

StoredModel open_model_folder(const fs::path& folder) {
  const std::string source = (folder / "config.json").string();
  require(fs::is_directory(folder), Code::kNotFound, "'{}' is no folder with a model", folder.string());
  require(fs::exists(folder / "config.json"), Code::kNotFound,
          "'{}' holds no config.json: a model folder in Hugging Face layout was wanted", folder.string());
  StoredModel out;
  out.model = make_model(read_json_file(folder / "config.json"), source);
  out.tensors = std::make_unique<FolderTensors>(*out.model, SafetensorsModel::open(folder), folder.string());
  return out;
}

std::vector<NamedTensor> stored_form(const ParameterSpec& spec, const Tensor& tensor) {
  if (spec.stored.kind == StoredForm::Kind::kSame) return {{spec.name, tensor}};
  if (spec.stored.kind == StoredForm::Kind::kTransposed) return {{spec.name, transposed(tensor)}};
  std::vector<NamedTensor> out;
  for (int64_t i = 0; i < tensor.shape()[0]; ++i) {
    Tensor slice(tensor.dtype(), tensor.shape().without(0));
    std::memcpy(slice.raw(),
                static_cast<const std::byte*>(tensor.raw()) + static_cast<size_t>(i) * slice.size_bytes(),
                slice.size_bytes());
    out.push_back({numbered(spec.stored.name, i), slice});
  }
  return out;
}

}  // namespace vertebra
