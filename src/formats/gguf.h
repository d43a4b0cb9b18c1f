// GGUF files, versions 2 and 3, read and written: metadata (typed keys and values), then tensors, of which
// many are block-quantized (tensor/block_quant.h). A file from outside is hostile: every count, length and
// offset is checked before anything is read through it. What the keys mean is the callers' business: the
// model loader, `vertebra convert` and `vertebra inspect`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "tensor/tensor.h"

namespace vertebra {

// As numbered in files.
enum class GgufType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// Integers and booleans are kept as int64_t (a u64 of 2^63 or more wraps around), floats as double.
struct GgufValue {
  GgufType type = GgufType::kU32;  // of the elements, for an array
  std::variant<int64_t, double, std::string, std::vector<int64_t>, std::vector<double>,
               std::vector<std::string>>
      value;

  static GgufValue u32(int64_t v) { return {GgufType::kU32, v}; }
  static GgufValue f32(double v) { return {GgufType::kF32, v}; }
  static GgufValue boolean(bool v) { return {GgufType::kBool, int64_t{v}}; }
  static GgufValue string(std::string v) { return {GgufType::kString, std::move(v)}; }
  static GgufValue strings(std::vector<std::string> v) { return {GgufType::kString, std::move(v)}; }
  static GgufValue i32s(std::vector<int64_t> v) { return {GgufType::kI32, std::move(v)}; }
  static GgufValue f32s(std::vector<double> v) { return {GgufType::kF32, std::move(v)}; }

  bool is_array() const { return value.index() >= 3; }
  size_t count() const;  // of elements; 1 for what is no array
  Json to_json() const;
};

// Keys and values in the order of the file. `source` names the file in errors.
class GgufMetadata {
 public:
  explicit GgufMetadata(std::string source = "a GGUF file") : source_(std::move(source)) {}
  const std::string& source() const { return source_; }
  const std::vector<std::pair<std::string, GgufValue>>& entries() const { return entries_; }
  const GgufValue* find(std::string_view key) const;
  bool contains(std::string_view key) const { return find(key) != nullptr; }
  void set(const std::string& key, GgufValue value);  // replaces
  void erase(std::string_view key);

  // nullopt when absent; invalid_argument, naming file, key, found and wanted, for another type.
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;  // integers too
  std::optional<bool> boolean(std::string_view key) const;
  const std::string* string(std::string_view key) const;  // null when absent
  const std::vector<std::string>* strings(std::string_view key) const;
  const std::vector<int64_t>* integers(std::string_view key) const;
  const std::vector<double>* numbers(std::string_view key) const;  // of floats

 private:
  [[noreturn]] void wrong(std::string_view key, const GgufValue& found, const char* wanted) const;
  std::string source_;
  std::vector<std::pair<std::string, GgufValue>> entries_;
  std::unordered_map<std::string, size_t> index_;
};

// One tensor, checked against the file's size. The shape is row-major, the reverse of the file's order.
struct GgufEntry {
  std::string name;
  TensorType type;
  uint64_t begin = 0;  // bytes from the start of the data
  uint32_t part = 0;   // the file of a model in several
};

struct GgufHeader {
  uint32_t version = 0;
  GgufMetadata metadata;
  std::vector<GgufEntry> entries;  // in the order of the header
  uint64_t alignment = 32;
  uint64_t data_begin = 0;  // bytes from the start of the file
};

// Throws data_loss for what is cut off or contradicts itself, unimplemented for other versions, byte orders
// and element types (with the list of those known), invalid_argument for what is no GGUF file; names the
// source, the byte, what was found and wanted.
GgufHeader parse_gguf_header(std::string_view file, const std::string& source);

class GgufFile {
 public:
  // A model in several files (NAME-00001-of-00003.gguf) is opened whole, whichever of them is named. Throws
  // not_found for one that is missing, data_loss for files that do not belong together.
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }  // the first, of several
  const GgufHeader& header() const { return header_; }         // of the first, with the tensors of all
  const GgufMetadata& metadata() const { return header_.metadata; }
  const std::vector<GgufEntry>& entries() const { return header_.entries; }
  const GgufEntry* find(std::string_view name) const;
  // A view of the mapped file, which it keeps alive (a copy where floats lie misaligned). Throws not_found.
  Tensor read(std::string_view name) const;
  Tensor read(const GgufEntry& entry) const;

 private:
  struct Part {
    std::shared_ptr<const MappedFile> file;
    uint64_t data_begin = 0;
  };
  GgufHeader open_part(const std::filesystem::path& path);
  void open_others(int64_t count);

  std::filesystem::path path_;
  std::vector<Part> parts_;
  GgufHeader header_;
  std::unordered_map<std::string, size_t> index_;
};

bool is_gguf_file(const std::filesystem::path& path);  // a file that begins with "GGUF"

// Writes a file tensor by tensor, so that no more than one needs to be in memory; atomically. The same
// content gives the same bytes.
class GgufWriter {
 public:
  // `tensors`: names and types of what follows; `begin` is not read. Throws invalid_argument for a name used
  // twice or too long for readers, rows of other than whole blocks, types GGUF has not.
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufEntry> tensors);
  // The next tensor, which must have the announced type.
  void write(const Tensor& tensor);
  void commit();  // all tensors must have been written

 private:
  void pad();
  std::string source_;
  std::vector<GgufEntry> tensors_;
  size_t next_ = 0;
  uint64_t alignment_ = 32;
  AtomicFileWriter writer_;
};

// The number that general.file_type has for a file mostly of this type.
int64_t gguf_file_type(DType dtype);

}  // namespace vertebra
