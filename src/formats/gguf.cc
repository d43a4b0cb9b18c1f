// Maps GGUF files and hands out their tensors; writes them. The header is checked in gguf_header.cc.
#include "formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <unordered_set>

#include "base/error.h"
#include "formats/gguf_types.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
constexpr size_t kMostNameBytes = 63;  // of a tensor, in llama.cpp

uint64_t aligned(uint64_t at, uint64_t alignment) { return (at + alignment - 1) / alignment * alignment; }

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put<uint64_t>(out, text.size());
  out += text;
}

void put_integer(std::string& out, GgufType type, int64_t value) {
  constexpr size_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  out.append(reinterpret_cast<const char*>(&value),
             kSizes[static_cast<size_t>(type)]);  // little-endian: the low bytes
}

void put_real(std::string& out, GgufType type, double value) {
  if (type == GgufType::kF32) {
    put(out, static_cast<float>(value));
  } else {
    put(out, value);
  }
}

void put_value(std::string& out, const GgufValue& value) {
  const GgufType type = value.type;
  if (value.is_array()) {
    put(out, static_cast<uint32_t>(GgufType::kArray));
    put(out, static_cast<uint32_t>(type));
    put<uint64_t>(out, value.count());
  } else {
    put(out, static_cast<uint32_t>(type));
  }
  std::visit(
      [&](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, int64_t>) put_integer(out, type, v);
        if constexpr (std::is_same_v<T, double>) put_real(out, type, v);
        if constexpr (std::is_same_v<T, std::string>) put_string(out, v);
        if constexpr (std::is_same_v<T, std::vector<int64_t>>) {
          for (const int64_t each : v) put_integer(out, type, each);
        }
        if constexpr (std::is_same_v<T, std::vector<double>>) {
          for (const double each : v) put_real(out, type, each);
        }
        if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          for (const std::string& each : v) put_string(out, each);
        }
      },
      value.value);
}

std::string header_text(const GgufMetadata& metadata, const std::vector<GgufEntry>& tensors,
                        uint64_t alignment) {
  std::string out = "GGUF";
  put<uint32_t>(out, 3);
  put<uint64_t>(out, tensors.size());
  put<uint64_t>(out, metadata.entries().size());
  for (const auto& [key, value] : metadata.entries()) {
    put_string(out, key);
    put_value(out, value);
  }
  uint64_t begin = 0;
  for (const GgufEntry& entry : tensors) {
    put_string(out, entry.name);
    const auto sizes = entry.type.shape.sizes();
    put<uint32_t>(out, static_cast<uint32_t>(sizes.size()));
    for (size_t i = sizes.size(); i-- > 0;) put<uint64_t>(out, static_cast<uint64_t>(sizes[i]));
    put<uint32_t>(out, *gguf_number(entry.type.dtype));
    put<uint64_t>(out, begin);
    begin = aligned(begin + entry.type.size_bytes(), alignment);
  }
  out.resize(aligned(out.size(), alignment), '\0');
  return out;
}

void check_tensors(const std::vector<GgufEntry>& tensors, const std::string& source) {
  std::unordered_set<std::string_view> names;
  for (const auto& [name, type, begin, part] : tensors) {
    require(names.insert(name).second, "'{}': the tensor name '{}' is used twice", source, name);
    require(!name.empty() && name.size() <= kMostNameBytes,
            "'{}': the tensor name '{}' has {} bytes, 1 to {} were wanted", source, name, name.size(),
            kMostNameBytes);
    const Shape& shape = type.shape;
    require(shape.is_static() && shape.rank() >= 1 && shape.rank() <= 4 && shape.elements() > 0,
            "'{}': tensor '{}' has the shape {}, 1 to 4 dimensions of at least 1 were wanted", source, name,
            shape.to_string());
    require(gguf_number(type.dtype).has_value(), "'{}': tensor '{}' has type {}; GGUF has: {}", source, name,
            dtype_name(type.dtype), supported_gguf_types());
    require(shape[-1] % block_size(type.dtype).elements == 0,
            "'{}': tensor '{}' has rows of {} elements, {} wants a multiple of {}", source, name, shape[-1],
            dtype_name(type.dtype), block_size(type.dtype).elements);
  }
}

// As the files of a model in several are named; the number counts from 0.
fs::path part_path(const fs::path& first, int64_t number, int64_t count) {
  const std::string name = first.filename().string(), ending = fmt::format("-00001-of-{:05}.gguf", count);
  require(name.ends_with(ending), Code::kInvalidArgument,
          "'{}' is the first of {} files, so its name should end in '{}': the others are looked for by it",
          first.string(), count, ending);
  return first.parent_path() / fmt::format("{}-{:05}-of-{:05}.gguf",
                                           name.substr(0, name.size() - ending.size()), number + 1, count);
}

}  // namespace

GgufHeader GgufFile::open_part(const fs::path& path) {
  auto file = std::make_shared<MappedFile>(path);
  GgufHeader header = parse_gguf_header(file->text(), path.string());
  parts_.push_back({std::move(file), header.data_begin});
  return header;
}

GgufFile::GgufFile(const fs::path& path) : path_(path) {
  header_ = open_part(path);
  constexpr int64_t kMostParts = 65535;
  const int64_t count = header_.metadata.integer("split.count").value_or(1),
                number = header_.metadata.integer("split.no").value_or(0);
  require(count >= 0 && count <= kMostParts && number >= 0 && number < std::max<int64_t>(count, 1),
          Code::kDataLoss,
          "'{}': split.no is {} and split.count {}: a number below a count of up to {} was wanted",
          path.string(), number, count, kMostParts);
  if (number > 0) {  // another than the first was named
    const std::string name = path.filename().string(),
                      ending = fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
    require(name.ends_with(ending), Code::kInvalidArgument,
            "'{}' is number {} of {} files, so its name should end in '{}': the others are looked for by it",
            path.string(), number + 1, count, ending);
    path_ = path.parent_path() /
            fmt::format("{}-00001-of-{:05}.gguf", name.substr(0, name.size() - ending.size()), count);
    parts_.clear();
    require(fs::exists(path_), Code::kNotFound, "'{}' is number {} of {} files, of which '{}' is missing",
            path.string(), number + 1, count, path_.string());
    header_ = open_part(path_);
    require(header_.metadata.integer("split.no").value_or(-1) == 0 &&
                header_.metadata.integer("split.count").value_or(0) == count,
            Code::kDataLoss, "'{}' is not the first of {} files, as its name says", path_.string(), count);
  }
  if (count > 1) open_others(count);
  for (size_t i = 0; i < header_.entries.size(); ++i) index_.emplace(header_.entries[i].name, i);
}

void GgufFile::open_others(int64_t count) {
  std::unordered_set<std::string> names;
  for (const GgufEntry& entry : header_.entries) names.insert(entry.name);
  for (int64_t i = 1; i < count; ++i) {
    const fs::path path = part_path(path_, i, count);
    require(fs::exists(path), Code::kNotFound, "'{}' is the first of {} files, of which '{}' is missing",
            path_.string(), count, path.string());
    const GgufHeader header = open_part(path);
    const int64_t number = header.metadata.integer("split.no").value_or(-1),
                  of = header.metadata.integer("split.count").value_or(-1);
    require(number == i && of == count, Code::kDataLoss,
            "'{}': split.no is {} and split.count {}, by its name {} and {} were wanted", path.string(),
            number, of, i, count);
    for (GgufEntry entry : header.entries) {
      require(names.insert(entry.name).second, Code::kDataLoss,
              "'{}': tensor '{}' is in an earlier one of the {} files too", path.string(), entry.name, count);
      entry.part = static_cast<uint32_t>(i);
      header_.entries.push_back(std::move(entry));
    }
  }
  const int64_t total = header_.metadata.integer("split.tensors.count").value_or(-1);
  require(total == -1 || total == static_cast<int64_t>(header_.entries.size()), Code::kDataLoss,
          "'{}': split.tensors.count is {}, but its {} files hold {} tensors", path_.string(), total, count,
          header_.entries.size());
}

const GgufEntry* GgufFile::find(std::string_view name) const {
  const auto it = index_.find(std::string(name));
  return it == index_.end() ? nullptr : &header_.entries[it->second];
}

Tensor GgufFile::read(std::string_view name) const {
  const GgufEntry* entry = find(name);
  require(entry != nullptr, Code::kNotFound, "'{}' has no tensor '{}' (it has {} others)", path_.string(),
          name, entries().size());
  return read(*entry);
}

Tensor GgufFile::read(const GgufEntry& entry) const {
  const Part& part = parts_[entry.part];
  const std::byte* data = part.file->bytes().data() + part.data_begin + entry.begin;
  const size_t size = dtype_size(entry.type.dtype);  // 0 for blocks, which are read at any address
  if (size == 0 || reinterpret_cast<uintptr_t>(data) % size == 0)
    return Tensor::view(entry.type, data, part.file);
  Tensor out(entry.type);
  std::memcpy(out.raw(), data, entry.type.size_bytes());
  return out;
}

bool is_gguf_file(const fs::path& path) {
  if (!fs::is_regular_file(path)) return false;
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
  return std::string_view(magic, sizeof magic) == "GGUF";
}

GgufWriter::GgufWriter(const fs::path& path, const GgufMetadata& metadata, std::vector<GgufEntry> tensors)
    : source_(path.string()), tensors_(std::move(tensors)), writer_(path) {
  check_tensors(tensors_, source_);
  alignment_ = static_cast<uint64_t>(metadata.integer("general.alignment").value_or(32));
  writer_.write(header_text(metadata, tensors_, alignment_));
}

void GgufWriter::write(const Tensor& tensor) {
  VERTEBRA_CHECK(next_ < tensors_.size() && tensor.type() == tensors_[next_].type,
                 "a tensor other than the announced one was written to a GGUF file");
  writer_.write(tensor.raw(), tensor.size_bytes());
  ++next_;
  pad();
}

void GgufWriter::pad() {
  const uint64_t at = writer_.size_bytes();
  writer_.write(std::string(aligned(at, alignment_) - at, '\0'));
}

void GgufWriter::commit() {
  VERTEBRA_CHECK(next_ == tensors_.size(), "a GGUF file was finished before all of its tensors were written");
  writer_.commit();
}

}  // namespace vertebra
