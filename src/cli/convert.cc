// vertebra convert SRC DST: models between Hugging Face folders and GGUF files, quantizing on the way. DST is
// a GGUF file when its name ends in .gguf, else a folder. --report measures what was lost.
#include "tensor/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/manifest.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "cli/command.h"
#include "cli/model_argument.h"
#include "cli/quality_report.h"
#include "engine/gguf_text.h"
#include "formats/safetensors.h"
#include "models/gguf_model.h"
#include "models/quantization.h"

namespace vertebra::cli {
namespace {

namespace fs = std::filesystem;
constexpr uint64_t kMostShardBytes = 5'000'000'000;

struct Source {
  fs::path path;
  Json config;  // of a folder as it lies, of a file as it is read
  StoredModel stored;
  ModelText text;
  std::optional<GgufMetadata> metadata;  // of a GGUF file
};

Source open_source(const fs::path& path) {
  if (!is_gguf_file(path))
    return {path, read_json_file(path / "config.json"), open_model_folder(path), read_model_text(path),
            std::nullopt};
  auto file = std::make_shared<const GgufFile>(path);
  return {path, gguf_config(*file), open_gguf_model(file), read_model_text(path), file->metadata()};
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
  // `certificate`: of a folder that is written, without its files.
  Converter(Source source, fs::path path, std::optional<Quantization> wanted, Manifest certificate)
      : source_(std::move(source)),
        path_(std::move(path)),
        wanted_(wanted),
        certificate_(std::move(certificate)) {}

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
  // What a tensor of a folder is written as: numbers that are no weights stay; blocks that a folder cannot
  // hold become f32.
  DType folder_type(DType dtype) const {
    if (!is_float(dtype) && !is_block_quantized(dtype)) return dtype;
    if (wanted_.has_value()) return wanted_->dtype;
    return is_block_quantized(dtype) ? DType::kF32 : dtype;
  }

  // Of the file's tensors, in its order.
  std::vector<DType> types(const std::vector<GgufEntry>& entries, const GgufModelPlan& plan) const {
    if (wanted_.has_value())
      return quantized_types(*wanted_, {plan.row->architecture, source_.stored.model->shape()}, entries);
    std::vector<DType> out;
    for (const GgufEntry& entry : entries) out.push_back(unquantized_type(entry));
    return out;
  }

  // general.file_type of a file as it is: the type that most bytes have.
  static int64_t file_type(const std::vector<GgufEntry>& entries) {
    std::map<DType, uint64_t> bytes;
    for (const GgufEntry& entry : entries) bytes[entry.type.dtype] += entry.type.size_bytes();
    const auto most = std::max_element(bytes.begin(), bytes.end(),
                                       [](const auto& a, const auto& b) { return a.second < b.second; });
    return most == bytes.end() ? 0 : gguf_file_type(most->first);
  }

  void write_gguf() {
    GgufModelPlan plan = plan_gguf_model(source_.stored, path_.string());
    if (source_.metadata.has_value()) {
      copy_metadata(*source_.metadata, plan.metadata);
    } else {
      plan.metadata.set("general.type", GgufValue::string("model"));
      add_gguf_text(source_.text, path_.string(), plan.metadata);
    }
    plan.metadata.erase("general.alignment");
    std::vector<GgufEntry> entries;
    for (const GgufTensorPlan& each : plan.tensors) entries.push_back(each.entry);
    const std::vector<DType> chosen = types(entries, plan);
    for (size_t i = 0; i < entries.size(); ++i) entries[i].type.dtype = chosen[i];
    plan.metadata.set("general.file_type",
                      GgufValue::u32(wanted_.has_value() ? wanted_->file_type() : file_type(entries)));
    plan.metadata.set("general.quantization_version", GgufValue::u32(2));
    GgufWriter writer(path_, plan.metadata, entries);
    GgufTensors tensors(source_.stored, plan);
    Progress progress("writing", entries.size(), "tensors");
    for (size_t i = 0; i < entries.size(); ++i) {
      if (interrupt_requested()) throw Interrupted("stopped; nothing was written");
      writer.write(counted(convert(tensors.read(i), entries[i].type.dtype)));
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
    Json config = source_.config;
    if (wanted_.has_value()) config.erase("dtype");
    if (wanted_.has_value())
      config["torch_dtype"] = wanted_->dtype == DType::kF32   ? "float32"
                              : wanted_->dtype == DType::kF16 ? "float16"
                                                              : "bfloat16";
    write_json_file(folder.path() / "config.json", config);
    write_text(folder.path());
    write_manifest(folder.path(), certificate_);
    folder.commit();
  }

  // The tensors of a folder: of another folder as they lie there, of a file under the names of a folder.
  struct FolderTensor {
    std::string name;  // of the first, if there are several
    uint64_t size_bytes;
    std::function<std::vector<NamedTensor>()> read;
  };
  std::vector<FolderTensor> folder_tensors() const {
    std::vector<FolderTensor> out;
    if (source_.metadata.has_value()) {
      for (const ParameterSpec& spec : source_.stored.model->parameters()) {
        const DType dtype = folder_type(source_.stored.tensors->dtype(spec));
        out.push_back({spec.name, TensorType{dtype, spec.shape}.size_bytes(), [this, &spec, dtype] {
                         return stored_form(spec, convert(source_.stored.tensors->read(spec), dtype));
                       }});
      }
      return out;
    }
    const auto weights = std::make_shared<const SafetensorsModel>(SafetensorsModel::open(source_.path));
    for (const std::string& name : weights->names()) {
      const TensorType type = weights->read(name).type();
      const DType dtype = folder_type(type.dtype);
      out.push_back({name, TensorType{dtype, type.shape}.size_bytes(), [weights, name, dtype] {
                       return std::vector<NamedTensor>{{name, convert(weights->read(name), dtype)}};
                     }});
    }
    return out;
  }

  void write_tensors(const fs::path& folder) {
    std::vector<std::vector<FolderTensor>> shards(1);
    uint64_t shard_bytes = 0, total = 0;
    for (FolderTensor& each : folder_tensors()) {
      if (shard_bytes > 0 && shard_bytes + each.size_bytes > kMostShardBytes) {
        shards.emplace_back();
        shard_bytes = 0;
      }
      shard_bytes += each.size_bytes;
      total += each.size_bytes;
      shards.back().push_back(std::move(each));
    }
    Json map = Json::object();
    for (size_t i = 0; i < shards.size(); ++i) {
      const std::string file = shards.size() == 1
                                   ? "model.safetensors"
                                   : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
      std::vector<NamedTensor> tensors;
      for (const FolderTensor& each : shards[i]) {
        for (NamedTensor& tensor : each.read()) {
          map[tensor.name] = file;
          tensors.push_back({tensor.name, counted(std::move(tensor.tensor))});
        }
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
    Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                   {"clean_up_tokenization_spaces", false},
                   {"model_max_length", source_.config.value("max_position_embeddings", Json(1 << 20))}};
    if (text.bos_token.has_value()) config["bos_token"] = *text.bos_token;
    if (text.eos_token.has_value()) config["eos_token"] = *text.eos_token;
    write_json_file(folder / "tokenizer_config.json", config);
    if (text.chat_template.has_value())
      write_file_atomic(folder / "chat_template.jinja", *text.chat_template);
    Json generation = text.generation;
    if (!generation.contains("do_sample")) generation["do_sample"] = false;
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
  Manifest certificate_;
  std::map<std::string, uint64_t> bytes_;
};

// What the result is made of. A folder without a manifest is known by its files.
Manifest certificate_of(const fs::path& source, const std::string& quantization) {
  Manifest out;
  out.kind = "model";
  out.recipe["convert"] = {{"source", source.string()},
                           {"quantize", quantization.empty() ? "as it is" : quantization}};
  if (!fs::is_directory(source)) {
    out.inputs[source.filename().string()] = sha256_file(source);
  } else if (const auto digest = manifest_digest(source)) {
    out.inputs["manifest.json"] = *digest;
  } else {
    for (const auto& entry : fs::directory_iterator(source)) {
      if (entry.is_regular_file()) out.inputs[entry.path().filename().string()] = sha256_file(entry.path());
    }
  }
  return out;
}

fs::path certificate_beside(fs::path file) { return file += ".manifest.json"; }

// Into the folder's manifest; beside a GGUF file, which has no folder of its own.
void record(const fs::path& destination, Manifest certificate, const QualityReport& report) {
  if (fs::is_directory(destination)) {
    certificate = read_manifest(destination);
  } else {
    certificate.files[destination.filename().string()] = {sha256_file(destination),
                                                          fs::file_size(destination)};
  }
  certificate.results["quality"] = report.to_json();
  write_json_file(
      fs::is_directory(destination) ? destination / "manifest.json" : certificate_beside(destination),
      certificate.to_json());
}

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
        "q5_k, q6_k, iq4_nl, mxfp4, or a mix as llama.cpp has it: q2_k_s, q2_k_m, q3_k_s, q3_k_m, q3_k_l, "
        "q4_k_s, q4_k_m, q5_k_s, q5_k_m, mxfp4_moe (default: as they are)");
    report_ = app.add_option(
                     "--report", text_,
                     "Measure what was lost, on this text file (default: a text that comes with the program)")
                  ->expected(0, 1)
                  ->type_name("[TEXTFILE]");
  }

  int run(const GlobalOptions& global) override {
    if (global.threads > 0) open_backend(global);  // sets the team's size
    std::optional<Quantization> wanted;
    if (!quantization_.empty()) wanted = Quantization::from_name(quantization_);
    std::error_code none;
    const fs::path path = find_model(model_argument(source_));
    require(!fs::equivalent(path, destination_, none), "'{}' would be written over itself", source_);
    require(text_.empty() || fs::is_regular_file(text_, none), Code::kNotFound,
            "--report: '{}' is no file; a text was wanted, or nothing behind --report", text_);
    const bool reports = report_->count() > 0, to_folder = fs::path(destination_).extension() != ".gguf";
    Manifest certificate;
    if (!to_folder) fs::remove(certificate_beside(destination_), none);  // of what was there before
    if (reports || to_folder) certificate = certificate_of(path, quantization_);
    const auto bytes = Converter(open_source(path), destination_, wanted, certificate).run();
    Json out = {{"source", source_}, {"destination", destination_}, {"bytes", Json(bytes)}};
    if (!global.json) print(bytes);
    if (reports) {
      const QualityReport report = measure_quality(global, path, destination_, text_);
      record(destination_, std::move(certificate), report);
      if (!global.json) report.print();
      out["quality"] = report.to_json();
    }
    if (global.json) print_json(out);
    return kDone;
  }

 private:
  void print(const std::map<std::string, uint64_t>& bytes) const {
    fmt::print("{}", destination_);
    for (const auto& [dtype, size] : bytes) fmt::print("  {} {}", dtype, format_bytes(size));
    fmt::print("\n");
  }

  std::string source_, destination_, quantization_, text_;
  CLI::Option* report_ = nullptr;
};

}  // namespace

std::unique_ptr<Command> make_convert_command() { return std::make_unique<ConvertCommand>(); }

}  // namespace vertebra::cli
