// Bytes of a file as a stream, through gzip, xz or zstd by its ending, and a line buffer over it.
// Owns the bounds that keep a hostile archive from filling memory or running forever; knows
// nothing of documents. Called by data/input_files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace vertebra {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Fills up to `size` bytes and returns how many; 0 only at the end (for size > 0).
  virtual size_t read(char* out, size_t size) = 0;
};

// Opens a file, decompressing when its name ends in .gz, .tgz, .xz, .txz, .zst or .tzst (several
// members or frames one after the other are read as one). Throws not_found / permission_denied /
// unavailable with the path; while reading, data_loss for a damaged or truncated file, and
// resource_exhausted when decompression needs more than 256 MiB of memory, or when the output
// exceeds 64 MiB and 1,000 times the input (text compresses 3 to 20 times; a bomb, more than 1,000).
std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path);

// The name without a compression ending; .tgz, .txz and .tzst become .tar.
std::string without_compression_suffix(const std::string& name);

// A window over a stream that grows on request: view() is what has been read and not consumed.
class StreamBuffer {
 public:
  explicit StreamBuffer(ByteStream& stream) : stream_(&stream) {}

  std::string_view view() const { return std::string_view(buffer_).substr(begin_); }
  // Reads on until view() holds at least `size` bytes; false when the stream ends before.
  bool ensure(size_t size);
  void consume(size_t size);
  // Bytes consumed so far: the position of view() in the (decompressed) stream.
  uint64_t position() const { return position_; }

  // The next line without its '\n' (and without a '\r' before it), valid until the next call;
  // nullopt at the end. Throws invalid_argument naming `source` and the line number when a line is
  // longer than max_bytes.
  std::optional<std::string_view> next_line(size_t max_bytes, std::string_view source);
  int64_t line_number() const { return line_number_; }  // of the line next_line gave last, from 1

 private:
  ByteStream* stream_;
  std::string buffer_;
  size_t begin_ = 0, pending_ = 0;
  uint64_t position_ = 0;
  int64_t line_number_ = 0;
  bool end_ = false;
};

}  // namespace vertebra
