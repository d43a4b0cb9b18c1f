// Maps safetensors files and hands out their tensors; writes them. The header is checked in
// safetensors_header.cc.
#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"
#include "formats/safetensors_header.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
constexpr const char* kIndexName = "model.safetensors.index.json";

struct DTypeName {
  DType dtype;
  std::string_view name;
};
constexpr DTypeName kDTypeNames[] = {
    {DType::kF64, "F64"}, {DType::kF32, "F32"},   {DType::kBF16, "BF16"}, {DType::kF16, "F16"},
    {DType::kI64, "I64"}, {DType::kI32, "I32"},   {DType::kU32, "U32"},   {DType::kI8, "I8"},
    {DType::kU8, "U8"},   {DType::kBool, "BOOL"},
};

std::optional<DType> dtype_of(std::string_view name) {
  for (const auto& entry : kDTypeNames) {
    if (entry.name == name) return entry.dtype;
  }
  return std::nullopt;
}

std::string_view name_of(DType dtype) {
  for (const auto& entry : kDTypeNames) {
    if (entry.dtype == dtype) return entry.name;
  }
  VERTEBRA_CHECK(false, "an element type without a safetensors name");
  return {};
}

std::string quoted(const std::string& text) {
  const std::string out = json_line(Json(text));  // broken UTF-8 is replaced, and so found
  require(Json::parse(out).get_ref<const std::string&>() == text,
          "the name of a tensor or its metadata is not valid UTF-8: {}", out);
  return out;
}

std::string header_text(std::span<const NamedTensor> tensors,
                        const std::map<std::string, std::string>& metadata, const fs::path& path) {
  std::string out = "{";
  if (!metadata.empty()) {
    out += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      if (out.back() != '{') out += ",";
      out += quoted(key) + ":" + quoted(value);
    }
    out += "}";
  }
  std::unordered_set<std::string_view> names;
  uint64_t at = 0;
  for (const auto& [name, tensor] : tensors) {
    require(names.insert(name).second && name != "__metadata__",
            "'{}': the tensor name '{}' is used twice or reserved", path.string(), name);
    require(tensor.defined(), "'{}': tensor '{}' is empty: it was never set", path.string(), name);
    require(tensor.shape().is_static(), "'{}': tensor '{}' has the bounded shape {}", path.string(), name,
            tensor.shape().to_string());
    if (out.size() > 1) out += ",";
    out += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", quoted(name),
                       name_of(tensor.dtype()), fmt::join(tensor.shape().sizes(), ","), at,
                       at + tensor.size_bytes());
    at += tensor.size_bytes();
  }
  out += "}";
  out.resize((out.size() + 7) / 8 * 8, ' ');
  return out;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path)
    : path_(path), file_(std::make_shared<MappedFile>(path)) {
  SafetensorsHeader header = parse_safetensors_header(file_->text(), path.string());
  entries_ = std::move(header.entries);
  metadata_ = std::move(header.metadata);
  data_begin_ = header.data_begin;
  for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].name, i);
}

Tensor SafetensorsFile::read(std::string_view name) const {
  const auto at = index_.find(std::string(name));
  require(at != index_.end(), Code::kNotFound, "'{}' has no tensor '{}' (it has {} others)", path_.string(),
          name, entries_.size());
  return read(entries_[at->second]);
}

Tensor SafetensorsFile::read(const SafetensorsEntry& entry) const {
  const auto dtype = dtype_of(entry.dtype);
  require(dtype.has_value(), Code::kUnimplemented,
          "'{}': tensor '{}' has elements of type {}, which we do not read", path_.string(), entry.name,
          entry.dtype);
  const TensorType type{*dtype, entry.shape};
  const std::byte* data = file_->bytes().data() + data_begin_ + entry.begin;
  if (*dtype == DType::kBool) {
    const bool whole =
        std::all_of(data, data + type.size_bytes(), [](std::byte b) { return b <= std::byte{1}; });
    require(whole, Code::kDataLoss, "'{}': tensor '{}' is BOOL, but has bytes other than 0 and 1",
            path_.string(), entry.name);
  }
  if (reinterpret_cast<uintptr_t>(data) % dtype_size(*dtype) == 0 && type.size_bytes() > 0) {
    return Tensor::view(type, data, file_);
  }
  Tensor out(type);
  if (type.size_bytes() > 0) std::memcpy(out.raw(), data, type.size_bytes());
  return out;
}

SafetensorsModel SafetensorsModel::open(const fs::path& path) {
  SafetensorsModel out;
  out.path_ = path;
  const fs::path index = path / kIndexName, single = path / "model.safetensors";
  if (fs::is_directory(path) && fs::is_regular_file(index) && !fs::is_regular_file(single)) {
    out.open_index(path, index);
    return out;
  }
  require(!fs::is_directory(path) || fs::is_regular_file(single), Code::kNotFound,
          "'{}' has neither model.safetensors nor {}", path.string(), kIndexName);
  out.shards_.emplace_back(fs::is_directory(path) ? single : path);
  for (const auto& entry : out.shards_[0].entries()) out.shard_of_.emplace(entry.name, 0);
  return out;
}

void SafetensorsModel::open_index(const fs::path& folder, const fs::path& index) {
  // Keys in a tree here, not in base/json's list: an index may name a million tensors.
  const std::string text = read_file(index);
  std::unordered_set<std::string> keys;
  std::string twice;
  const auto find_twice = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (event == nlohmann::json::parse_event_t::key && depth == 2 &&
        !keys.insert(parsed.get_ref<const std::string&>()).second)
      twice = parsed.get<std::string>();
    return true;
  };
  const nlohmann::json value = nlohmann::json::parse(text, find_twice, false);
  require(value.is_object() && value.contains("weight_map") && value["weight_map"].is_object(),
          "'{}' is not valid JSON with a 'weight_map' of tensor names to files", index.string());
  require(twice.empty(), Code::kDataLoss, "'{}' has the key '{}' twice", index.string(), twice);
  std::map<std::string, size_t> shard_at;
  for (const auto& [name, file] : value["weight_map"].items()) {
    require(file.is_string(), "'{}': tensor '{}' is mapped to something that is not a file name",
            index.string(), name);
    const std::string file_name = file.get<std::string>();
    require(!file_name.empty() && fs::path(file_name).filename() == fs::path(file_name) && file_name != "..",
            "'{}': tensor '{}' is mapped to '{}', a name of a file in the same folder was wanted",
            index.string(), name, file_name);
    const auto [at, added] = shard_at.try_emplace(file_name, shards_.size());
    if (added) {
      require(fs::is_regular_file(folder / file_name), Code::kNotFound,
              "'{}' says that tensor '{}' is in '{}', but there is no such file: was it downloaded?",
              index.string(), name, file_name);
      shards_.emplace_back(folder / file_name);
    }
    require(shards_[at->second].contains(name), Code::kDataLoss,
            "'{}' says that '{}' has tensor '{}', it has not", index.string(), file_name, name);
    shard_of_.emplace(name, at->second);
  }
  for (size_t i = 0; i < shards_.size(); ++i) {
    for (const SafetensorsEntry& entry : shards_[i].entries()) {
      const auto listed = shard_of_.find(entry.name);
      require(listed == shard_of_.end() || listed->second == i, Code::kDataLoss,
              "'{}' has tensor '{}' too, which '{}' says is in '{}'", shards_[i].path().string(), entry.name,
              index.string(),
              shards_[listed == shard_of_.end() ? i : listed->second].path().filename().string());
    }
  }
}

std::vector<std::string> SafetensorsModel::names() const {
  std::vector<std::string> out;
  for (const auto& [name, shard] : shard_of_) out.push_back(name);
  return out;
}

Tensor SafetensorsModel::read(std::string_view name) const {
  const auto at = shard_of_.find(std::string(name));
  require(at != shard_of_.end(), Code::kNotFound, "'{}' has no tensor '{}' (it has {} others)",
          path_.string(), name, shard_of_.size());
  return shards_[at->second].read(name);
}

void write_safetensors(const fs::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  const std::string header = header_text(tensors, metadata, path);
  AtomicFileWriter writer(path);
  char size[8];
  for (size_t i = 0; i < 8; ++i)
    size[i] = static_cast<char>((static_cast<uint64_t>(header.size()) >> (8 * i)) & 0xff);
  writer.write(size, sizeof size);
  writer.write(header);
  for (const auto& [name, tensor] : tensors) {
    if (tensor.size_bytes() > 0) writer.write(tensor.raw(), tensor.size_bytes());
  }
  writer.commit();
}

}  // namespace vertebra
