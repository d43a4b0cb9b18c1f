// vertebra inspect PATH: what a file or folder is, its main facts, and whether it is whole: files against
// the manifest's hashes, tensors against the configuration. Exit code 1 when it is damaged, naming what.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/manifest.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/model_argument.h"
#include "data/shards.h"
#include "engine/model_text.h"
#include "formats/checkpoint.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "models/gguf_model.h"
#include "models/model_folder.h"
#include "text/tokenizer.h"

namespace vertebra::cli {
namespace {

namespace fs = std::filesystem;

struct Inspection {
  std::string kind;
  Json facts = Json::object();
  std::vector<std::string> damage;
  Json tensors = Json::array();  // of safetensors and GGUF files; printed with --tensors

  void add_damage(const std::string& text) {
    if (std::find(damage.begin(), damage.end(), text) == damage.end()) damage.push_back(text);
  }
  // Damage is what this command is there to report, so an error about a file is a finding here.
  void attempt(FunctionRef<void()> work) {
    try {
      work();
    } catch (const Error& error) {
      if (error.code() == Code::kCancelled) throw;
      add_damage(error.what());
    }
  }
};

uint64_t folder_bytes(const fs::path& folder) {
  uint64_t sum = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) sum += entry.file_size();
  }
  return sum;
}

// Every file of the folder's manifest against its size and hash.
void check_manifest(const fs::path& folder, Inspection& out) {
  if (!fs::is_regular_file(folder / "manifest.json")) {
    out.facts["manifest"] = "none";
    return;
  }
  out.attempt([&] {
    const Manifest manifest = read_manifest(folder);
    size_t damaged = 0;
    for (const auto& [name, file] : manifest.files) {
      Manifest one;
      one.files[name] = file;
      if (const auto found = find_damage(folder, one)) {
        out.damage.push_back(*found);
        ++damaged;
      }
    }
    out.facts["manifest"] = fmt::format("{} of {} files match their SHA-256", manifest.files.size() - damaged,
                                        manifest.files.size());
    out.facts["made_as"] = manifest.kind;
    out.facts["version"] = manifest.version;
    out.facts["inputs"] = Json(manifest.inputs);
    out.facts["results"] = manifest.results;
  });
}

void inspect_safetensors(const fs::path& path, Inspection& out) {
  out.kind = "safetensors file";
  out.attempt([&] {
    const SafetensorsFile file(path);
    std::map<std::string, int64_t> dtypes;
    int64_t elements = 0;
    for (const SafetensorsEntry& entry : file.entries()) {
      ++dtypes[entry.dtype];
      elements += entry.shape.elements();
      std::vector<int64_t> shape;
      for (int i = 0; i < entry.shape.rank(); ++i) shape.push_back(entry.shape[i]);
      out.tensors.push_back({{"name", entry.name}, {"dtype", entry.dtype}, {"shape", shape}});
    }
    out.facts["tensors"] = file.entries().size();
    out.facts["elements"] = elements;
    out.facts["dtypes"] = Json(dtypes);
    out.facts["metadata"] = Json(file.metadata());
  });
}

void list_gguf_tensors(const GgufFile& file, Inspection& out) {
  std::map<std::string, int64_t> dtypes;
  std::map<std::string, uint64_t> bytes;
  int64_t elements = 0;
  for (const GgufEntry& entry : file.entries()) {
    const std::string dtype(dtype_name(entry.type.dtype));
    ++dtypes[dtype];
    bytes[dtype] += entry.type.size_bytes();
    elements += entry.type.shape.elements();
    out.tensors.push_back({{"name", entry.name}, {"dtype", dtype}, {"shape", entry.type.shape.sizes()}});
  }
  out.facts["tensors"] = file.entries().size();
  out.facts["elements"] = elements;
  out.facts["dtypes"] = Json(dtypes);
  out.facts["dtype_bytes"] = Json(bytes);
}

// Long arrays (vocabularies) by their length only.
void list_gguf_metadata(const GgufMetadata& metadata, Inspection& out) {
  Json listed = Json::object();
  for (const auto& [key, value] : metadata.entries()) {
    if (key == "tokenizer.chat_template") {
      listed[key] = fmt::format("{} bytes", std::get<std::string>(value.value).size());
    } else {
      listed[key] = value.count() > 16 ? Json(fmt::format("{} values", value.count())) : value.to_json();
    }
  }
  out.facts["metadata"] = listed;
}

void inspect_gguf(const fs::path& path, Inspection& out) {
  out.kind = "GGUF file";
  out.attempt([&] {
    const GgufFile file(path);
    out.facts["version"] = file.header().version;
    list_gguf_tensors(file, out);
    list_gguf_metadata(file.metadata(), out);
    if (!file.metadata().contains("general.architecture")) return;
    out.kind = "model in a GGUF file";
    const auto model = open_gguf_model(std::make_shared<const GgufFile>(path)).model;
    out.facts["model_type"] = json_get<std::string>(model->config(), "model_type", path.string());
    out.facts["parameters"] = count_parameters(model->parameters());
    out.facts["context_length"] = model->shape().context_length;
    if (file.metadata().contains("tokenizer.ggml.model")) {
      out.facts["vocabulary"] = tokenizer_of(file.metadata()).vocab_size();
    }
  });
}

void inspect_tokenizer(const fs::path& path, Inspection& out) {
  if (out.kind.empty()) out.kind = "tokenizer";
  out.attempt([&] {
    const Tokenizer tokenizer = Tokenizer::load(path);
    size_t special = 0;
    for (const AddedToken& token : tokenizer.added_tokens()) special += token.special ? 1 : 0;
    out.facts["vocabulary"] = tokenizer.vocab_size();
    out.facts["control_tokens"] = special;
    out.facts["tokenizer_sha256"] = tokenizer.hash();
  });
}

void inspect_model(const fs::path& folder, Inspection& out) {
  out.kind = "model";
  out.attempt([&] {
    const LoadedModel loaded = read_model_folder(folder);
    const ModelShape& shape = loaded.model->shape();
    out.facts["model_type"] = json_get<std::string>(loaded.model->config(), "model_type", "config.json");
    out.facts["parameters"] = count_parameters(loaded.model->parameters());
    out.facts["tensors"] = loaded.parameters.size();
    out.facts["layers"] = shape.layers;
    out.facts["embedding"] = shape.embedding;
    out.facts["heads"] = shape.heads;
    out.facts["key_value_heads"] = shape.key_value_heads;
    out.facts["head_dim"] = shape.head_dim;
    out.facts["model_vocabulary"] = shape.vocabulary;
    out.facts["context_length"] = shape.context_length;
  });
  out.attempt([&] {
    const SafetensorsModel weights = SafetensorsModel::open(folder);
    std::map<std::string, int64_t> dtypes;
    for (const std::string& name : weights.names())
      ++dtypes[std::string(dtype_name(weights.read(name).dtype()))];
    out.facts["dtypes"] = Json(dtypes);
  });
  out.facts["chat_template"] = fs::exists(folder / "chat_template.jinja");
  if (fs::exists(folder / "tokenizer.json")) {
    inspect_tokenizer(folder, out);
    const int64_t ids = out.facts.value("vocabulary", int64_t{0});
    const int64_t rows = out.facts.value("model_vocabulary", ids);
    if (ids > rows)
      out.add_damage(
          fmt::format("{}: the tokenizer has {} ids, the model only {}", folder.string(), ids, rows));
  } else {
    out.facts["tokenizer"] = "none";
  }
}

void inspect_shards(const fs::path& folder, Inspection& out) {
  out.kind = "shards";
  out.attempt([&] {
    const ShardSet set(folder, /*verify_hashes=*/false);  // the manifest's are checked beside this
    out.facts["vocabulary"] = set.vocab_size();
    out.facts["loss_mask"] = set.has_loss_mask();
    for (const Split split : {Split::kTrain, Split::kValidation}) {
      const SplitCounts& counts = set.counts(split);
      out.facts[std::string(split_name(split))] = {{"documents", counts.documents},
                                                   {"tokens", counts.tokens},
                                                   {"loss_tokens", counts.loss_tokens},
                                                   {"text_bytes", counts.text_bytes}};
    }
  });
}

void inspect_checkpoint(const fs::path& folder, Inspection& out) {
  out.kind = "checkpoint";
  out.attempt([&] {
    const Checkpoint checkpoint = load_checkpoint(folder);
    int64_t elements = 0;
    for (const auto& [name, tensor] : checkpoint.tensors) elements += tensor.shape().elements();
    out.facts["step"] = checkpoint.step;
    out.facts["tensors"] = checkpoint.tensors.size();
    out.facts["elements"] = elements;
  });
}

void inspect_checkpoints(const fs::path& folder, Inspection& out) {
  out.kind = "checkpoints";
  Json steps = Json::array();
  for (const int64_t step : checkpoint_steps(folder)) {
    steps.push_back(step);
    out.attempt([&] { load_checkpoint(folder / fmt::format("step-{:08}", step)); });
  }
  out.facts["steps"] = steps;
}

// Folders of a run that have a manifest: its stages and the model.
std::vector<fs::path> parts_of_run(const fs::path& folder) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (fs::is_regular_file(entry.path() / "manifest.json")) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

Inspection inspect_path(const fs::path& path);

void inspect_run(const std::vector<fs::path>& parts, Inspection& out) {
  out.kind = "run";
  Json stages = Json::object();
  for (const fs::path& part : parts) {
    const Inspection inner = inspect_path(part);
    out.damage.insert(out.damage.end(), inner.damage.begin(), inner.damage.end());
    stages[part.filename().string()] =
        fmt::format("{}, {}", inner.kind, inner.facts.value("manifest", std::string("no manifest")));
  }
  out.facts["parts"] = stages;
}

bool is_shard_folder(const fs::path& folder) {
  for (const Split split : {Split::kTrain, Split::kValidation}) {
    if (fs::exists(folder / fmt::format("{}-00000.bin", split_name(split)))) return true;
  }
  return false;
}

void inspect_folder(const fs::path& folder, Inspection& out) {
  const auto parts = parts_of_run(folder);
  if (fs::exists(folder / "config.json")) {
    inspect_model(folder, out);
  } else if (is_shard_folder(folder)) {
    inspect_shards(folder, out);
  } else if (fs::exists(folder / "state.json") && fs::exists(folder / "tensors.safetensors")) {
    inspect_checkpoint(folder, out);
  } else if (!checkpoint_steps(folder).empty()) {
    return inspect_checkpoints(folder, out);
  } else if (fs::exists(folder / "tokenizer.json")) {
    inspect_tokenizer(folder, out);
  } else if (fs::exists(folder / "manifest.json")) {
    out.kind = "artefact";
  } else if (!parts.empty()) {
    return inspect_run(parts, out);
  } else {
    fail(Code::kNotFound,
         "'{}' is no folder of Vertebra's: a model, a run, checkpoints, shards or any folder with a "
         "manifest.json was wanted",
         folder.string());
  }
  check_manifest(folder, out);
}

void inspect_shard_file(const fs::path& path, Inspection& out) {
  out.kind = "shard";
  out.attempt([&] {
    const Shard shard(path);
    out.facts["documents"] = shard.documents();
    out.facts["tokens"] = shard.tokens();
    out.facts["vocabulary"] = shard.vocab_size();
    out.facts["loss_mask"] = shard.has_loss_mask();
  });
}

void inspect_json(const fs::path& path, Inspection& out) {
  out.kind = "JSON file";
  out.attempt([&] {
    const Json value = read_json_file(path);
    if (value.is_object() && value.contains("model") && value["model"].is_object() &&
        value["model"].contains("vocab")) {
      out.kind = "tokenizer";
      inspect_tokenizer(path, out);
    } else if (value.is_object() && value.contains("model_type")) {
      out.kind = "model configuration";
      out.facts["parameters"] = count_parameters(make_model(value, path.string())->parameters());
    }
  });
}

std::string first_bytes(const fs::path& path, size_t count) {
  const MappedFile file(path);
  return std::string(file.text().substr(0, count));
}

Inspection inspect_path(const fs::path& path) {
  require(fs::exists(path), Code::kNotFound, "'{}' does not exist", path.string());
  Inspection out;
  if (fs::is_directory(path)) {
    inspect_folder(path, out);
    out.facts["size_bytes"] = folder_bytes(path);
    return out;
  }
  require(fs::is_regular_file(path), "'{}' is neither a file nor a folder", path.string());
  const std::string magic = first_bytes(path, 8);
  if (path.filename() == "manifest.json") {
    out.kind = "manifest";
    check_manifest(path.has_parent_path() ? path.parent_path() : ".", out);
  } else if (path.extension() == ".safetensors") {
    inspect_safetensors(path, out);
  } else if (magic == "VTSHARD1") {
    inspect_shard_file(path, out);
  } else if (path.extension() == ".json") {
    inspect_json(path, out);
  } else if (magic.starts_with("GGUF")) {
    inspect_gguf(path, out);
  } else {
    fail(Code::kInvalidArgument,
         "'{}' is no file that is known here: .safetensors, .gguf, a shard, tokenizer.json, config.json and "
         "manifest.json are",
         path.string());
  }
  out.facts["size_bytes"] = fs::file_size(path);
  return out;
}

// "results.scores.x    0.95", nested names joined by dots.
void print_facts(const Json& value, const std::string& name) {
  if (value.is_object()) {
    for (const auto& [key, inner] : value.items()) print_facts(inner, name.empty() ? key : name + "." + key);
    return;
  }
  const bool is_size = name.ends_with("size_bytes") && value.is_number_unsigned();
  fmt::print("{:<22} {}\n", name,
             is_size             ? format_bytes(value.get<uint64_t>())
             : value.is_string() ? value.get<std::string>()
                                 : json_line(value));
}

class InspectCommand final : public Command {
 public:
  const char* name() const override { return "inspect"; }
  const char* description() const override {
    return "What a model, run, checkpoint, shard, manifest, GGUF or safetensors file is, and whether it is "
           "whole";
  }

  void add_options(CLI::App& app) override {
    app.add_option("path", path_, "A file or folder")->required();
    app.add_flag("--tensors", tensors_, "List the tensors of a safetensors or GGUF file");
  }

  int run(const GlobalOptions& global) override {
    const Inspection found = inspect_path(model_argument(path_));
    const bool whole = found.damage.empty();
    if (global.json) {
      Json out = {{"path", path_}, {"kind", found.kind}, {"whole", whole}, {"damage", found.damage}};
      for (const auto& [key, value] : found.facts.items()) out[key] = value;
      if (tensors_) out["tensor_list"] = found.tensors;
      print_json(out);
      return whole ? kDone : kFailed;
    }
    fmt::print("{:<22} {}\n", path_, found.kind);
    print_facts(found.facts, "");
    if (tensors_) {
      for (const Json& tensor : found.tensors) {
        fmt::print("  {:<8} {:<20} {}\n", tensor["dtype"].get<std::string>(), json_line(tensor["shape"]),
                   tensor["name"].get<std::string>());
      }
    }
    for (const std::string& each : found.damage) fmt::print("DAMAGED: {}\n", each);
    if (whole) fmt::print("whole\n");
    return whole ? kDone : kFailed;
  }

 private:
  std::string path_;
  bool tensors_ = false;
};

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace vertebra::cli
