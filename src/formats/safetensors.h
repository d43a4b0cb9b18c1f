// safetensors files, read and written: https://huggingface.co/docs/safetensors. A file from outside is
// hostile: every length and offset is checked before anything is read through it. Used by the model
// loader and writer, by checkpoints, and by `vertebra inspect`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace vertebra {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

// One tensor of a file, as its header has it; checked against the file's size.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "F32", "BF16", ...
  Shape shape;
  uint64_t begin = 0;  // bytes from the start of the data, which follows the header
  uint64_t end = 0;
};

class SafetensorsFile {
 public:
  // Maps the file and checks its header. Throws data_loss for what is cut off or contradicts itself,
  // invalid_argument for what is no safetensors file; names file, tensor, found and wanted.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // in the order of their bytes
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return index_.contains(std::string(name)); }
  // A view of the mapped file, which it keeps alive (a copy where the file has it misaligned). Throws
  // not_found, or unimplemented for an element type we do not have.
  Tensor read(std::string_view name) const;

 private:
  Tensor read(const SafetensorsEntry& entry) const;
  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
  uint64_t data_begin_ = 0;
};

// The weights of a model: one file, or the shards that model.safetensors.index.json lists.
class SafetensorsModel {
 public:
  // `path`: a .safetensors file, or a folder with model.safetensors or model.safetensors.index.json.
  static SafetensorsModel open(const std::filesystem::path& path);

  std::vector<std::string> names() const;  // sorted
  bool contains(std::string_view name) const { return shard_of_.contains(std::string(name)); }
  Tensor read(std::string_view name) const;  // as SafetensorsFile::read

 private:
  void open_index(const std::filesystem::path& folder, const std::filesystem::path& index);
  std::filesystem::path path_;
  std::vector<SafetensorsFile> shards_;
  std::map<std::string, size_t> shard_of_;
};

// Writes the tensors in the given order, atomically; the same tensors give the same bytes. Throws
// invalid_argument for a name used twice, and what base/file.h says about failed writes.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace vertebra
