#include "data/byte_stream.h"

#include <fcntl.h>
#include <lzma.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace vertebra {
namespace {

constexpr size_t kInputBytes = 1 << 16;
constexpr size_t kGrowBytes = 1 << 18;
constexpr uint64_t kDecoderMemoryBytes = uint64_t{256} << 20;
constexpr int kZstdWindowLog = 27;  // 128 MiB, the largest that `zstd` itself reads without a flag
constexpr uint64_t kFreeOutputBytes = uint64_t{64} << 20;
constexpr uint64_t kMaxExpansion = 1000;

class FileStream final : public ByteStream {
 public:
  explicit FileStream(const std::filesystem::path& path) : name_(path.string()) {
    fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd_ < 0) fail_io();
    struct stat status = {};
    const bool regular = fstat(fd_, &status) == 0 && S_ISREG(status.st_mode);
    if (!regular) {
      close(fd_);
      fail(Code::kInvalidArgument, "cannot read '{}': it is not a regular file", name_);
    }
  }
  ~FileStream() override { close(fd_); }

  size_t read(char* out, size_t size) override {
    for (;;) {
      const ssize_t got = ::read(fd_, out, size);
      if (got >= 0) return static_cast<size_t>(got);
      if (errno != EINTR) fail_io();
    }
  }

 private:
  [[noreturn]] void fail_io() const {
    const Code code = errno == ENOENT || errno == ENOTDIR ? Code::kNotFound
                      : errno == EACCES                   ? Code::kPermissionDenied
                                                          : Code::kUnavailable;
    fail(code, "cannot read '{}': {}", name_, std::strerror(errno));
  }

  std::string name_;
  int fd_ = -1;
};

// What the three decoders share: the compressed input, its end, and the bound on expansion.
class Decoder : public ByteStream {
 public:
  Decoder(std::unique_ptr<ByteStream> source, std::string name)
      : source_(std::move(source)), name_(std::move(name)) {}

  size_t read(char* out, size_t size) final {
    size_t done = 0;
    while (done == 0 && !finished_) done = decode(out, size);
    output_bytes_ += done;
    require(output_bytes_ <= std::max(kFreeOutputBytes, input_bytes_ * kMaxExpansion),
            Code::kResourceExhausted,
            "'{}': {} compressed bytes gave more than {} bytes, over {} times as much; this looks like a "
            "decompression bomb. If the data is real, decompress it and name the plain file",
            name_, input_bytes_, output_bytes_, kMaxExpansion);
    return done;
  }

 protected:
  // One step: what was written to `out` (0 is allowed while not finished).
  virtual size_t decode(char* out, size_t size) = 0;

  void refill() {
    if (left_ > 0 || input_ended_) return;
    left_ = source_->read(input_.data(), input_.size());
    next_ = input_.data();
    input_bytes_ += left_;
    input_ended_ = left_ == 0;
  }
  [[noreturn]] void fail_damaged(std::string_view reason) const {
    fail(Code::kDataLoss, "'{}' is damaged near compressed byte {}: {}; get the file again", name_,
         input_bytes_ - left_, reason);
  }
  void require_memory(bool enough) const {
    require(enough, Code::kResourceExhausted,
            "'{}' needs more than {} MiB to decompress; compress it again with a smaller window", name_,
            kDecoderMemoryBytes >> 20);
  }

  std::unique_ptr<ByteStream> source_;
  std::string name_;
  std::array<char, kInputBytes> input_;
  const char* next_ = nullptr;
  size_t left_ = 0;
  uint64_t input_bytes_ = 0, output_bytes_ = 0;
  bool input_ended_ = false, finished_ = false;
};

class GzipDecoder final : public Decoder {
 public:
  GzipDecoder(std::unique_ptr<ByteStream> source, std::string name)
      : Decoder(std::move(source), std::move(name)) {
    if (inflateInit2(&state_, 15 + 16) != Z_OK) fail(Code::kResourceExhausted, "zlib: out of memory");
  }
  ~GzipDecoder() override { inflateEnd(&state_); }

 protected:
  size_t decode(char* out, size_t size) override {
    refill();
    if (left_ == 0) {
      if (in_member_ || input_bytes_ == 0) fail_damaged("the gzip stream ends too early");
      finished_ = true;
      return 0;
    }
    if (!in_member_) {
      inflateReset(&state_);
      in_member_ = true;
    }
    state_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(next_));
    state_.avail_in = static_cast<uInt>(left_);
    state_.next_out = reinterpret_cast<Bytef*>(out);
    state_.avail_out = static_cast<uInt>(std::min<size_t>(size, 1u << 30));
    const uInt room = state_.avail_out;
    const int status = inflate(&state_, Z_NO_FLUSH);
    next_ = reinterpret_cast<const char*>(state_.next_in);
    left_ = state_.avail_in;
    if (status == Z_STREAM_END) {
      in_member_ = false;
    } else if (status != Z_OK && status != Z_BUF_ERROR) {
      fail_damaged(state_.msg != nullptr ? state_.msg : "not a gzip stream");
    }
    return room - state_.avail_out;
  }

 private:
  z_stream state_ = {};
  bool in_member_ = false;
};

class XzDecoder final : public Decoder {
 public:
  XzDecoder(std::unique_ptr<ByteStream> source, std::string name)
      : Decoder(std::move(source), std::move(name)) {
    if (lzma_stream_decoder(&state_, kDecoderMemoryBytes, LZMA_CONCATENATED) != LZMA_OK)
      fail(Code::kResourceExhausted, "liblzma: out of memory");
  }
  ~XzDecoder() override { lzma_end(&state_); }

 protected:
  size_t decode(char* out, size_t size) override {
    refill();
    state_.next_in = reinterpret_cast<const uint8_t*>(next_);
    state_.avail_in = left_;
    state_.next_out = reinterpret_cast<uint8_t*>(out);
    state_.avail_out = size;
    const lzma_ret status = lzma_code(&state_, input_ended_ ? LZMA_FINISH : LZMA_RUN);
    next_ = reinterpret_cast<const char*>(state_.next_in);
    left_ = state_.avail_in;
    if (status == LZMA_STREAM_END) {
      finished_ = true;
    } else if (status == LZMA_BUF_ERROR) {
      // "No progress possible" twice: harmless while there is input to come, the end otherwise.
      if (input_ended_) fail_damaged("the xz stream ends too early");
    } else {
      require_memory(status != LZMA_MEMLIMIT_ERROR && status != LZMA_MEM_ERROR);
      if (status == LZMA_FORMAT_ERROR) fail_damaged("not an xz stream");
      if (status != LZMA_OK) fail_damaged("its content does not match its checks");
    }
    return size - state_.avail_out;
  }

 private:
  lzma_stream state_ = LZMA_STREAM_INIT;
};

class ZstdDecoder final : public Decoder {
 public:
  ZstdDecoder(std::unique_ptr<ByteStream> source, std::string name)
      : Decoder(std::move(source), std::move(name)), state_(ZSTD_createDCtx()) {
    if (state_ == nullptr) fail(Code::kResourceExhausted, "zstd: out of memory");
    ZSTD_DCtx_setParameter(state_, ZSTD_d_windowLogMax, kZstdWindowLog);
  }
  ~ZstdDecoder() override { ZSTD_freeDCtx(state_); }

 protected:
  size_t decode(char* out, size_t size) override {
    refill();
    if (left_ == 0 && !output_pending_) {
      if (in_frame_ || input_bytes_ == 0) fail_damaged("the zstd stream ends too early");
      finished_ = true;
      return 0;
    }
    ZSTD_inBuffer input = {next_, left_, 0};
    ZSTD_outBuffer output = {out, size, 0};
    const size_t status = ZSTD_decompressStream(state_, &output, &input);
    if (ZSTD_isError(status)) {
      require_memory(ZSTD_getErrorCode(status) != ZSTD_error_frameParameter_windowTooLarge);
      fail_damaged(ZSTD_getErrorName(status));
    }
    next_ += input.pos;
    left_ -= input.pos;
    in_frame_ = status != 0;
    output_pending_ = output.pos == output.size;  // more may lie inside the decoder
    return output.pos;
  }

 private:
  ZSTD_DCtx* state_;
  bool in_frame_ = false, output_pending_ = false;
};

bool strip_suffix(std::string& name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  return true;
}

}  // namespace

std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path) {
  const std::string name = path.string();
  auto file = std::make_unique<FileStream>(path);
  if (name.ends_with(".gz") || name.ends_with(".tgz"))
    return std::make_unique<GzipDecoder>(std::move(file), name);
  if (name.ends_with(".xz") || name.ends_with(".txz"))
    return std::make_unique<XzDecoder>(std::move(file), name);
  if (name.ends_with(".zst") || name.ends_with(".tzst"))
    return std::make_unique<ZstdDecoder>(std::move(file), name);
  return file;
}

std::string without_compression_suffix(const std::string& name) {
  std::string out = name;
  for (const std::string_view short_tar : {".tgz", ".txz", ".tzst"}) {
    if (strip_suffix(out, short_tar)) return out + ".tar";
  }
  for (const std::string_view suffix : {".gz", ".xz", ".zst"}) {
    if (strip_suffix(out, suffix)) break;
  }
  return out;
}

bool StreamBuffer::ensure(size_t size) {
  while (buffer_.size() - begin_ < size) {
    if (end_) return false;
    if (begin_ > 0) {
      buffer_.erase(0, begin_);
      begin_ = 0;
    }
    const size_t old_size = buffer_.size();
    buffer_.resize(old_size + kGrowBytes);
    const size_t got = stream_->read(buffer_.data() + old_size, kGrowBytes);
    buffer_.resize(old_size + got);
    end_ = got == 0;
  }
  return true;
}

void StreamBuffer::consume(size_t size) {
  VERTEBRA_CHECK(size <= buffer_.size() - begin_, "consumed more than was read");
  begin_ += size;
  position_ += size;
}

std::optional<std::string_view> StreamBuffer::next_line(size_t max_bytes, std::string_view source) {
  consume(std::exchange(pending_, 0));
  if (!ensure(1)) return std::nullopt;
  ++line_number_;
  size_t scanned = 0;
  for (;;) {
    const size_t end = view().find('\n', scanned);
    scanned = std::min(end, view().size());
    require(scanned <= max_bytes,
            "{}:{}: the line is longer than {} bytes, the limit; split it, or raise the limit", source,
            line_number_, max_bytes);
    if (end == std::string_view::npos && ensure(scanned + 1)) continue;
    std::string_view line = view().substr(0, scanned);
    pending_ = end == std::string_view::npos ? scanned : scanned + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line;
  }
}

}  // namespace vertebra
