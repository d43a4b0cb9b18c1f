// Reads the header token by token: a header may name a million tensors, so nothing here may take
// longer than n log n, and nothing may nest deeper than the format does.
#include "formats/safetensors_header.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"

namespace vertebra {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference implementation

// Takes the events of nlohmann's parser. Depth 1 holds tensors and __metadata__, depth 2 their fields,
// depth 3 the lists of numbers.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(SafetensorsHeader& header, const std::string& source) : header_(header), source_(source) {}

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool number_float(double, const std::string& text) override { unexpected(text); }
  bool binary(Json::binary_t&) override { unexpected("bytes"); }
  bool number_integer(int64_t value) override { unexpected(std::to_string(value)); }
  bool number_unsigned(uint64_t value) override {
    if (!in_list_) unexpected(std::to_string(value));
    numbers_.push_back(value);
    require(numbers_.size() <= 64, "'{}': tensor '{}': '{}' has more than 64 numbers", source_, entry_.name,
            field_);
    return true;
  }

  bool string(std::string& text) override {
    if (depth_ != 2 || in_list_) unexpected("a string");
    if (in_metadata_) {
      header_.metadata[field_] = text;
    } else if (field_ == "dtype") {
      entry_.dtype = text;
      set_field(kDtype);
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_object(size_t) override {
    if (depth_ == 2 || in_list_) unexpected("an object");
    ++depth_;
    return true;
  }

  bool key(std::string& name) override {
    if (depth_ == 2) {
      field_ = name;
      return true;
    }
    in_metadata_ = name == "__metadata__";
    entry_ = {};
    entry_.name = name;
    field_.clear();
    fields_ = 0;
    require(names_.insert(name).second, "'{}': tensor '{}' is in the header twice", source_, name);
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && !in_metadata_) finish_entry();
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || in_list_ || in_metadata_ || (field_ != "shape" && field_ != "data_offsets")) {
      unexpected("a list");
    }
    in_list_ = true;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    in_list_ = false;
    if (field_ == "shape") {
      set_shape();
    } else {
      require(numbers_.size() == 2, "'{}': tensor '{}': data_offsets has {} numbers, 2 were wanted", source_,
              entry_.name, numbers_.size());
      entry_.begin = numbers_[0];
      entry_.end = numbers_[1];
      set_field(kOffsets);
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    fail(Code::kInvalidArgument, "'{}': its safetensors header is not valid JSON at byte {}", source_,
         position);
  }

 private:
  static constexpr int kDtype = 1, kShape = 2, kOffsets = 4;

  [[noreturn]] void unexpected(const std::string& found) const {
    if (depth_ == 0)
      fail(Code::kInvalidArgument, "'{}': its safetensors header is {}, not an object", source_, found);
    fail(Code::kInvalidArgument, "'{}': tensor '{}': {} stands in the header where it does not belong{}",
         source_, entry_.name, found, field_.empty() ? "" : " ('" + field_ + "')");
  }

  void set_field(int field) {
    require(!(fields_ & field), "'{}': tensor '{}' has its {} twice", source_, entry_.name, field_);
    fields_ |= field;
  }

  void set_shape() {
    uint64_t elements = 1;
    std::vector<int64_t> sizes;
    require(numbers_.size() <= Shape::kMaxRank, "'{}': tensor '{}' has {} dimensions, at most {} are taken",
            source_, entry_.name, numbers_.size(), Shape::kMaxRank);
    for (const uint64_t size : numbers_) {
      const bool overflow = size > (uint64_t{1} << 48) || __builtin_mul_overflow(elements, size, &elements) ||
                            elements > (uint64_t{1} << 56);
      require(!overflow, "'{}': tensor '{}': its shape has more elements than any file can hold", source_,
              entry_.name);
      sizes.push_back(static_cast<int64_t>(size));
    }
    entry_.shape = Shape(std::span<const int64_t>(sizes));
    set_field(kShape);
  }

  void finish_entry() {
    const char* missing = !(fields_ & kDtype)     ? "dtype"
                          : !(fields_ & kShape)   ? "shape"
                          : !(fields_ & kOffsets) ? "data_offsets"
                                                  : nullptr;
    require(missing == nullptr, "'{}': tensor '{}' has no {} in the header", source_, entry_.name,
            missing != nullptr ? missing : "");
    const auto size = safetensors_dtype_size(entry_.dtype);
    require(size.has_value(), "'{}': tensor '{}' has the unknown dtype '{}'", source_, entry_.name,
            entry_.dtype);
    require(entry_.begin <= entry_.end, Code::kDataLoss,
            "'{}': tensor '{}' ends at byte {}, before its begin at {}", source_, entry_.name, entry_.end,
            entry_.begin);
    const uint64_t wanted = static_cast<uint64_t>(entry_.shape.elements()) * *size;
    require(entry_.end - entry_.begin == wanted, Code::kDataLoss,
            "'{}': tensor '{}' ({} {}) has {} bytes, {} were wanted", source_, entry_.name, entry_.dtype,
            entry_.shape.to_string(), entry_.end - entry_.begin, wanted);
    header_.entries.push_back(std::move(entry_));
    entry_ = {};
  }

  SafetensorsHeader& header_;
  const std::string& source_;
  std::unordered_set<std::string> names_;
  SafetensorsEntry entry_;
  std::string field_;
  std::vector<uint64_t> numbers_;
  int depth_ = 0;
  int fields_ = 0;
  bool in_metadata_ = false;
  bool in_list_ = false;
};

// Tensors must follow each other without hole or overlap and fill the file.
void check_layout(SafetensorsHeader& header, uint64_t data_bytes, const std::string& source) {
  std::vector<size_t> order(header.entries.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const SafetensorsEntry &left = header.entries[a], &right = header.entries[b];
    return std::tie(left.begin, left.end, a) < std::tie(right.begin, right.end, b);
  });
  std::vector<SafetensorsEntry> sorted;
  for (const size_t i : order) sorted.push_back(std::move(header.entries[i]));
  header.entries = std::move(sorted);
  uint64_t at = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    require(entry.end <= data_bytes, Code::kDataLoss,
            "'{}': tensor '{}' ends at byte {} of the data, the file has {}: is it cut off?", source,
            entry.name, entry.end, data_bytes);
    require(entry.begin == at, Code::kDataLoss,
            "'{}': tensor '{}' begins at byte {} of the data, {} was wanted ({})", source, entry.name,
            entry.begin, at, entry.begin < at ? "it overlaps the one before" : "a hole");
    at = entry.end;
  }
  require(at == data_bytes, Code::kDataLoss, "'{}': {} bytes of data follow the header, its tensors have {}",
          source, data_bytes, at);
}

}  // namespace

std::optional<uint64_t> safetensors_dtype_size(std::string_view dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype == "F8_E4M3" || dtype == "F8_E5M2" ||
      dtype == "F8_E8M0") {
    return 1;
  }
  return std::nullopt;
}

SafetensorsHeader parse_safetensors_header(std::string_view bytes, const std::string& source) {
  require(bytes.size() >= 8, Code::kDataLoss, "'{}' has {} bytes: too short for a safetensors file", source,
          bytes.size());
  uint64_t size = 0;
  for (int i = 7; i >= 0; --i) size = (size << 8) | static_cast<unsigned char>(bytes[static_cast<size_t>(i)]);
  require(size <= kMaxHeaderBytes,
          "'{}' is no safetensors file: its header would have {} bytes, at most {} are taken", source, size,
          kMaxHeaderBytes);
  require(size <= bytes.size() - 8, Code::kDataLoss,
          "'{}': its header has {} bytes, the file only {}: is it cut off?", source, size, bytes.size() - 8);
  const std::string_view text = bytes.substr(8, size);
  require(text.starts_with('{'), "'{}' is no safetensors file: its header does not begin with '{{'", source);
  SafetensorsHeader header;
  header.data_begin = 8 + size;
  HeaderReader reader(header, source);
  Json::sax_parse(text.begin(), text.end(), &reader);
  check_layout(header, bytes.size() - header.data_begin, source);
  return header;
}

}  // namespace vertebra
