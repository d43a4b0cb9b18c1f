// vertebra convert SRC DST: models between Hugging Face folders and GGUF files, quantizing on the way. DST is
// a GGUF file when its name ends in .gguf, else a folder.
#include "tensor/convert.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/model_argument.h"
#include "engine/gguf_text.h"
#include "formats/safetensors.h"
#include "models/gguf_model.h"
#include "models/quantization.h"

namespace vertebra::cli {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMostShardBytes = 5'000'000'000;

struct Source {
  StoredModel model;
  ModelText text;
  std::optional<GgufMetadata> metadata;  // of a GGUF file
};

Source open_source(const fs::path& given) {
  const fs::path path = find_model(model_argument(given.string()));
  if (is_gguf_file(path)) {
    const GgufFile file(path);
    return {read_gguf_model(file), read_model_text(path), file.metadata()};
  }
  Source out{{read_json_file(path / "config.json"), {}}, read_model_text(path), std::nullopt};
  const SafetensorsModel weights = SafetensorsModel::open(path);
  for (const std::string& name : weights.names()) out.model.tensors.emplace(name, weights.read(name));
  return out;
}

// Keys that say what the file is and how its text is cut go over as they are.
void copy_metadata(const GgufMetadata& from, GgufMetadata& to) {
  for (const auto& [key, value] : from.entries()) {
    if ((key.starts_with("tokenizer.") || key.starts_with("general.")) && !to.contains(key))
      to.set(key, value);
  }
}

class Converter {
 public:
  Converter(Source source, fs::path path, std::optional<Quantization> wanted)
      : source_(std::move(source)), path_(std::move(path)), wanted_(wanted) {}

  // Returns bytes of tensors by their type.
  std::map<std::string, uint64_t> run() {
    if (path_.extension() == ".gguf") {
      write_gguf();
    } else {
      write_folder();
    }
    return bytes_;
  }

 private:
  // What a tensor is written as when nothing was asked for: as it is; blocks that a folder cannot hold as
  // f32.
  DType folder_type(const Tensor& tensor) const {
    if (wanted_.has_value()) return wanted_->dtype;
    return is_block_quantized(tensor.dtype()) ? DType::kF32 : tensor.dtype();
  }

  void write_gguf() {
    StoredModel& model = source_.model;
    std::vector<std::string> names;
    for (const auto& [name, tensor] : model.tensors) names.push_back(name);
    GgufModelPlan plan = plan_gguf_model(model.config, names, path_.string());
    if (source_.metadata.has_value()) {
      copy_metadata(*source_.metadata, plan.metadata);
    } else {
      plan.metadata.set("general.type", GgufValue::string("model"));
      add_gguf_text(source_.text, path_.string(), plan.metadata);
    }
    plan.metadata.erase("general.alignment");
    if (wanted_.has_value()) plan.metadata.set("general.file_type", GgufValue::u32(wanted_->file_type()));
    plan.metadata.set("general.quantization_version", GgufValue::u32(2));
    const int layers = json_get<int>(model.config, "num_hidden_layers", path_.string());
    const bool has_head =
        std::any_of(plan.tensors.begin(), plan.tensors.end(),
                    [](const GgufTensorPlan& each) { return each.gguf_name == "output.weight"; });
    std::vector<GgufEntry> entries;
    for (const GgufTensorPlan& each : plan.tensors) {
      const Tensor& tensor = each.made.has_value() ? *each.made : model.tensors.at(each.stored_name);
      DType dtype = tensor.shape().rank() < 2 ? DType::kF32 : tensor.dtype();
      if (wanted_.has_value() && !each.made.has_value())
        dtype = quantized_type(*wanted_, each.gguf_name, tensor.shape(), layers, has_head);
      entries.push_back({each.gguf_name, {dtype, tensor.shape()}, 0});
    }
    GgufWriter writer(path_, plan.metadata, entries);
    Progress progress("writing", entries.size(), "tensors");
    for (size_t i = 0; i < entries.size(); ++i) {
      if (interrupt_requested()) throw Interrupted("stopped; nothing was written");
      const GgufTensorPlan& each = plan.tensors[i];
      const Tensor tensor = each.made.has_value() ? *each.made
                                                  : gguf_form(*plan.row, model.config, each.stored_name,
                                                              model.tensors.at(each.stored_name));
      writer.write(counted(convert(tensor, entries[i].type.dtype)));
      progress.update(i + 1);
    }
    writer.commit();
  }

  void write_folder() {
    require(!wanted_.has_value() || !is_block_quantized(wanted_->dtype),
            "a folder's safetensors hold no blocks: f32, bf16 or f16 was wanted for '{}', or a name that "
            "ends in .gguf",
            path_.string());
    // What is there is replaced, so it must be a model.
    require(!fs::exists(path_) || fs::exists(path_ / "config.json") ||
                (fs::is_directory(path_) && fs::is_empty(path_)),
            Code::kAlreadyExists, "'{}' exists and is no model folder: another name was wanted",
            path_.string());
    AtomicFolder folder(path_);
    write_tensors(folder.path());
    Json config = source_.model.config;
    if (wanted_.has_value()) config.erase("dtype");
    if (wanted_.has_value())
      config["torch_dtype"] = wanted_->dtype == DType::kF32   ? "float32"
                              : wanted_->dtype == DType::kF16 ? "float16"
                                                              : "bfloat16";
    write_json_file(folder.path() / "config.json", config);
    write_text(folder.path());
    folder.commit();
  }

  void write_tensors(const fs::path& folder) {
    std::vector<std::vector<std::string>> shards(1);
    uint64_t shard_bytes = 0, total = 0;
    for (const auto& [name, tensor] : source_.model.tensors) {
      const uint64_t size = TensorType{folder_type(tensor), tensor.shape()}.size_bytes();
      if (shard_bytes > 0 && shard_bytes + size > kMostShardBytes) {
        shards.emplace_back();
        shard_bytes = 0;
      }
      shards.back().push_back(name);
      shard_bytes += size;
      total += size;
    }
    Json map = Json::object();
    for (size_t i = 0; i < shards.size(); ++i) {
      const std::string file = shards.size() == 1
                                   ? "model.safetensors"
                                   : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
      std::vector<NamedTensor> tensors;
      for (const std::string& name : shards[i]) {
        const Tensor& tensor = source_.model.tensors.at(name);
        tensors.push_back({name, counted(convert(tensor, folder_type(tensor)))});
        map[name] = file;
      }
      write_safetensors(folder / file, tensors);
    }
    if (shards.size() > 1)
      write_json_file(folder / "model.safetensors.index.json",
                      {{"metadata", {{"total_size", total}}}, {"weight_map", map}});
  }

  void write_text(const fs::path& folder) const {
    const ModelText& text = source_.text;
    text.tokenizer.save(folder);
    Json config = {
        {"tokenizer_class", "PreTrainedTokenizerFast"},
        {"clean_up_tokenization_spaces", false},
        {"model_max_length", source_.model.config.value("max_position_embeddings", Json(1 << 20))}};
    if (text.bos_token.has_value()) config["bos_token"] = *text.bos_token;
    if (text.eos_token.has_value()) config["eos_token"] = *text.eos_token;
    write_json_file(folder / "tokenizer_config.json", config);
    if (text.chat_template.has_value())
      write_file_atomic(folder / "chat_template.jinja", *text.chat_template);
    Json generation = {{"do_sample", false}};
    if (!text.stop_tokens.empty()) generation["eos_token_id"] = text.stop_tokens;
    write_json_file(folder / "generation_config.json", generation);
  }

  Tensor counted(Tensor tensor) {
    bytes_[std::string(dtype_name(tensor.dtype()))] += tensor.size_bytes();
    return tensor;
  }

  Source source_;
  fs::path path_;
  std::optional<Quantization> wanted_;
  std::map<std::string, uint64_t> bytes_;
};

class ConvertCommand final : public Command {
 public:
  const char* name() const override { return "convert"; }
  const char* description() const override {
    return "Turn a Hugging Face folder into a GGUF file, or back, quantizing on the way";
  }

  void add_options(CLI::App& app) override {
    app.add_option("source", source_, "A model folder, a GGUF file, or a run folder")->required();
    app.add_option("destination", destination_, "A file that ends in .gguf, or a folder")->required();
    app.add_option(
        "--quantize", quantization_,
        "Type of the matrices: f32, f16, bf16; in GGUF also q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, "
        "q5_k, q6_k, iq4_nl, or the mixes q4_k_m, q5_k_m (default: as they are)");
  }

  int run(const GlobalOptions& global) override {
    if (global.threads > 0) open_backend(global);  // sets the team's size
    std::optional<Quantization> wanted;
    if (!quantization_.empty()) wanted = Quantization::from_name(quantization_);
    std::error_code none;
    require(!fs::equivalent(source_, destination_, none), "'{}' would be written over itself", source_);
    const auto bytes = Converter(open_source(source_), destination_, wanted).run();
    if (global.json) {
      print_json({{"source", source_}, {"destination", destination_}, {"bytes", Json(bytes)}});
      return kDone;
    }
    fmt::print("{}", destination_);
    for (const auto& [dtype, size] : bytes) fmt::print("  {} {}", dtype, format_bytes(size));
    fmt::print("\n");
    return kDone;
  }

 private:
  std::string source_, destination_, quantization_;
};

}  // namespace

std::unique_ptr<Command> make_convert_command() { return std::make_unique<ConvertCommand>(); }

}  // namespace vertebra::cli
