// The header of a GGUF file, read with suspicion: little-endian, counts and lengths bounded by the bytes left
// before anything is allocated for them.
#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "base/error.h"
#include "formats/gguf.h"
#include "formats/gguf_types.h"

namespace vertebra {
namespace {

constexpr uint64_t kMaxName = 65535;  // of keys and tensors, as the format says
// The fewest bytes that an entry of each kind can have: what bounds the counts.
constexpr uint64_t kLeastMetadataBytes = 8 + 1 + 4 + 1, kLeastTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

constexpr const char* kTypeNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                      "bool", "string", "array", "u64", "i64", "f64"};

class Reader {
 public:
  Reader(std::string_view bytes, const std::string& source) : bytes_(bytes), source_(source) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }
  const std::string& source() const { return source_; }

  template <class T>
  T number(const char* what) {
    need(sizeof(T), what);
    T out;
    std::memcpy(&out, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return out;
  }
  std::string string(const char* what, uint64_t limit) {
    const uint64_t begin = at_, length = number<uint64_t>(what);
    require(length <= limit, Code::kDataLoss, "'{}': {} at byte {} would have {} bytes, at most {} are taken",
            source_, what, begin, length, limit);
    need(length, what);
    std::string out(bytes_.substr(at_, length));
    at_ += length;
    return out;
  }
  uint64_t count(const char* what, uint64_t least_bytes) {
    const uint64_t begin = at_, out = number<uint64_t>(what);
    require(out <= left() / least_bytes, Code::kDataLoss,
            "'{}': {} at byte {} is {}, but only {} bytes follow: is it cut off?", source_, what, begin, out,
            left());
    return out;
  }

 private:
  void need(uint64_t size, const char* what) const {
    require(size <= left(), Code::kDataLoss,
            "'{}': {} at byte {} needs {} bytes, {} are left: is it cut off?", source_, what, at_, size,
            left());
  }
  std::string_view bytes_;
  const std::string& source_;
  uint64_t at_ = 0;
};

bool is_real(GgufType type) { return type == GgufType::kF32 || type == GgufType::kF64; }

int64_t read_integer(Reader& in, GgufType type) {
  switch (type) {
    case GgufType::kU8:
      return in.number<uint8_t>("a value");
    case GgufType::kI8:
      return in.number<int8_t>("a value");
    case GgufType::kU16:
      return in.number<uint16_t>("a value");
    case GgufType::kI16:
      return in.number<int16_t>("a value");
    case GgufType::kU32:
      return in.number<uint32_t>("a value");
    case GgufType::kI32:
      return in.number<int32_t>("a value");
    case GgufType::kBool: {
      const uint64_t at = in.at();
      const uint8_t out = in.number<uint8_t>("a value");
      require(out <= 1, Code::kDataLoss, "'{}': the bool at byte {} is {}, 0 or 1 was wanted", in.source(),
              at, out);
      return out;
    }
    default:
      return in.number<int64_t>("a value");
  }
}

double read_real(Reader& in, GgufType type) {
  return type == GgufType::kF32 ? static_cast<double>(in.number<float>("a value"))
                                : in.number<double>("a value");
}

uint64_t least_bytes(GgufType type) {
  constexpr uint64_t kSizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return kSizes[static_cast<size_t>(type)];
}

GgufType read_type(Reader& in, const std::string& key) {
  const uint64_t at = in.at();
  const auto number = in.number<uint32_t>("the type of a value");
  require(number < std::size(kTypeNames), Code::kDataLoss,
          "'{}': '{}' at byte {} has the value type {}, 0 to {} are known", in.source(), key, at, number,
          std::size(kTypeNames) - 1);
  return static_cast<GgufType>(number);
}

GgufValue read_array(Reader& in, const std::string& key) {
  const GgufType type = read_type(in, key);
  require(type != GgufType::kArray, Code::kUnimplemented,
          "'{}': '{}' at byte {} is an array of arrays; arrays of numbers, booleans or strings were wanted",
          in.source(), key, in.at());
  const uint64_t count = in.count("the length of an array", least_bytes(type));
  if (type == GgufType::kString) {
    std::vector<std::string> out;
    out.reserve(count);
    for (uint64_t i = 0; i < count; ++i) out.push_back(in.string("a string of an array", in.left()));
    return {type, std::move(out)};
  }
  if (is_real(type)) {
    std::vector<double> out(count);
    for (double& each : out) each = read_real(in, type);
    return {type, std::move(out)};
  }
  std::vector<int64_t> out(count);
  for (int64_t& each : out) each = read_integer(in, type);
  return {type, std::move(out)};
}

GgufValue read_value(Reader& in, const std::string& key) {
  const GgufType type = read_type(in, key);
  if (type == GgufType::kArray) return read_array(in, key);
  if (type == GgufType::kString) return {type, in.string("a string", in.left())};
  if (is_real(type)) return {type, read_real(in, type)};
  return {type, read_integer(in, type)};
}

void read_metadata(Reader& in, uint64_t count, GgufMetadata& out) {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t at = in.at();
    const std::string key = in.string("a key of the metadata", kMaxName);
    require(!key.empty() && !out.contains(key), Code::kDataLoss, "'{}': the key '{}' at byte {} is {}",
            in.source(), key, at, key.empty() ? "empty" : "there twice");
    out.set(key, read_value(in, key));
  }
}

GgufEntry read_entry(Reader& in) {
  const uint64_t begin = in.at();
  GgufEntry out;
  out.name = in.string("the name of a tensor", kMaxName);
  require(!out.name.empty(), Code::kDataLoss, "'{}': the tensor at byte {} has no name", in.source(), begin);
  const uint64_t rank_at = in.at();
  const auto rank = in.number<uint32_t>("the number of dimensions");
  require(rank >= 1 && rank <= 4, Code::kDataLoss,
          "'{}': tensor '{}' at byte {} has {} dimensions, 1 to 4 were wanted", in.source(), out.name,
          rank_at, rank);
  std::vector<int64_t> sizes(rank);
  uint64_t elements = 1;
  constexpr uint64_t kMostElements = uint64_t{1} << 56;
  for (uint32_t i = 0; i < rank; ++i) {
    const uint64_t at = in.at(), size = in.number<uint64_t>("a dimension");
    require(size >= 1 && size <= kMostElements / elements, Code::kDataLoss,
            "'{}': tensor '{}': dimension {} at byte {} is {}: at least 1 and no more elements than a file "
            "can hold were "
            "wanted",
            in.source(), out.name, i, at, size);
    elements *= size;
    sizes[rank - 1 - i] = static_cast<int64_t>(size);
  }
  const uint64_t type_at = in.at();
  const auto number = in.number<uint32_t>("an element type");
  const auto dtype = gguf_dtype(number);
  require(dtype.has_value(), Code::kUnimplemented,
          "'{}': tensor '{}' at byte {} has elements of {}, which is not supported; supported are: {}",
          in.source(), out.name, type_at, gguf_type_name(number), supported_gguf_types());
  const int64_t row = sizes.back(), block = block_size(*dtype).elements;
  require(row % block == 0, Code::kDataLoss,
          "'{}': tensor '{}' at byte {}: its rows have {} elements, a multiple of {} was wanted for {}",
          in.source(), out.name, rank_at, row, block, gguf_type_name(number));
  out.type = {*dtype, Shape(std::span<const int64_t>(sizes))};
  out.begin = in.number<uint64_t>("the offset of a tensor");
  return out;
}

void read_version(Reader& in, uint32_t& version) {
  require(in.left() >= 4 && in.number<uint32_t>("the magic number") == 0x46554747u,
          "'{}' is no GGUF file: it does not begin with the bytes GGUF", in.source());
  version = in.number<uint32_t>("the version");
  require((version & 0xffffu) != 0 || version == 0, Code::kUnimplemented,
          "'{}' is big-endian (its version at byte 4 reads {:#x}); little-endian files are read", in.source(),
          version);
  require(version == 2 || version == 3, Code::kUnimplemented,
          "'{}' is GGUF version {} (byte 4); versions 2 and 3 are read", in.source(), version);
}

uint64_t read_alignment(const GgufMetadata& metadata) {
  const int64_t out = metadata.integer("general.alignment").value_or(32);
  require(out >= 1 && out <= (int64_t{1} << 20) && std::has_single_bit(static_cast<uint64_t>(out)),
          Code::kDataLoss, "'{}': general.alignment is {}, a power of two up to 1048576 was wanted",
          metadata.source(), out);
  return static_cast<uint64_t>(out);
}

// Offsets against the alignment, the file's size and each other.
void check_offsets(const GgufHeader& header, uint64_t data_bytes, const std::string& source) {
  std::vector<const GgufEntry*> by_begin;
  for (const GgufEntry& entry : header.entries) {
    const uint64_t size = entry.type.size_bytes();
    require(entry.begin % header.alignment == 0, Code::kDataLoss,
            "'{}': tensor '{}' begins at byte {} of the data, a multiple of {} was wanted", source,
            entry.name, entry.begin, header.alignment);
    require(entry.begin <= data_bytes && size <= data_bytes - entry.begin, Code::kDataLoss,
            "'{}': tensor '{}' has {} bytes from byte {} of the data (byte {} of the file), which has only "
            "{}: is it cut "
            "off?",
            source, entry.name, size, entry.begin, header.data_begin, data_bytes);
    by_begin.push_back(&entry);
  }
  std::sort(by_begin.begin(), by_begin.end(), [](const GgufEntry* a, const GgufEntry* b) {
    return a->begin != b->begin ? a->begin < b->begin : a->name < b->name;
  });
  for (size_t i = 1; i < by_begin.size(); ++i) {
    const GgufEntry &before = *by_begin[i - 1], &entry = *by_begin[i];
    const uint64_t end = before.begin + before.type.size_bytes();
    require(entry.begin >= end, Code::kDataLoss,
            "'{}': tensor '{}' begins at byte {} of the data, inside of '{}', which ends at {}", source,
            entry.name, entry.begin, before.name, end);
  }
}

}  // namespace

GgufHeader parse_gguf_header(std::string_view file, const std::string& source) {
  static_assert(std::endian::native == std::endian::little, "numbers are copied as they lie in the file");
  GgufHeader out;
  out.metadata = GgufMetadata(source);
  Reader in(file, source);
  read_version(in, out.version);
  const uint64_t tensors = in.count("the number of tensors", kLeastTensorBytes);
  const uint64_t keys = in.count("the number of keys", kLeastMetadataBytes);
  read_metadata(in, keys, out.metadata);
  out.alignment = read_alignment(out.metadata);
  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < tensors; ++i) {
    out.entries.push_back(read_entry(in));
    require(names.insert(out.entries.back().name).second, Code::kDataLoss,
            "'{}': tensor '{}' is there twice (byte {})", source, out.entries.back().name, in.at());
  }
  out.data_begin = (in.at() + out.alignment - 1) / out.alignment * out.alignment;
  check_offsets(out, file.size() - std::min<uint64_t>(file.size(), out.data_begin), source);
  return out;
}

size_t GgufValue::count() const {
  return std::visit(
      [](const auto& v) -> size_t {
        if constexpr (requires { v.capacity(); } && !std::is_same_v<std::decay_t<decltype(v)>, std::string>) {
          return v.size();
        } else {
          return 1;
        }
      },
      value);
}

Json GgufValue::to_json() const {
  if (type == GgufType::kBool) {
    if (!is_array()) return std::get<int64_t>(value) != 0;
    Json out = Json::array();
    for (const int64_t each : std::get<std::vector<int64_t>>(value)) out.push_back(each != 0);
    return out;
  }
  return std::visit([](const auto& v) { return Json(v); }, value);
}

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto it = index_.find(std::string(key));
  return it == index_.end() ? nullptr : &entries_[it->second].second;
}

void GgufMetadata::set(const std::string& key, GgufValue value) {
  const auto [it, added] = index_.emplace(key, entries_.size());
  if (added) {
    entries_.emplace_back(key, std::move(value));
  } else {
    entries_[it->second].second = std::move(value);
  }
}

void GgufMetadata::erase(std::string_view key) {
  const auto it = index_.find(std::string(key));
  if (it == index_.end()) return;
  entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(it->second));
  index_.clear();
  for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].first, i);
}

void GgufMetadata::wrong(std::string_view key, const GgufValue& found, const char* wanted) const {
  fail(Code::kInvalidArgument, "'{}': '{}' is {}{}, {} was wanted", source_, key,
       found.is_array() ? "an array of type " : "of type ", kTypeNames[static_cast<size_t>(found.type)],
       wanted);
}

std::optional<int64_t> GgufMetadata::integer(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (!std::holds_alternative<int64_t>(found->value) || found->type == GgufType::kBool)
    wrong(key, *found, "an integer");
  return std::get<int64_t>(found->value);
}

std::optional<double> GgufMetadata::number(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (std::holds_alternative<double>(found->value)) return std::get<double>(found->value);
  if (!std::holds_alternative<int64_t>(found->value) || found->type == GgufType::kBool)
    wrong(key, *found, "a number");
  return static_cast<double>(std::get<int64_t>(found->value));
}

std::optional<bool> GgufMetadata::boolean(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return std::nullopt;
  if (found->type != GgufType::kBool || found->is_array()) wrong(key, *found, "a bool");
  return std::get<int64_t>(found->value) != 0;
}

const std::string* GgufMetadata::string(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return nullptr;
  if (!std::holds_alternative<std::string>(found->value)) wrong(key, *found, "a string");
  return &std::get<std::string>(found->value);
}

const std::vector<std::string>* GgufMetadata::strings(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return nullptr;
  if (!std::holds_alternative<std::vector<std::string>>(found->value))
    wrong(key, *found, "an array of strings");
  return &std::get<std::vector<std::string>>(found->value);
}

const std::vector<int64_t>* GgufMetadata::integers(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return nullptr;
  if (!std::holds_alternative<std::vector<int64_t>>(found->value)) wrong(key, *found, "an array of integers");
  return &std::get<std::vector<int64_t>>(found->value);
}

const std::vector<double>* GgufMetadata::numbers(std::string_view key) const {
  const GgufValue* found = find(key);
  if (found == nullptr) return nullptr;
  if (!std::holds_alternative<std::vector<double>>(found->value)) wrong(key, *found, "an array of floats");
  return &std::get<std::vector<double>>(found->value);
}

}  // namespace vertebra
