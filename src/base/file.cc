#include "base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/mapped_pages.h"
#include "base/part_file.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;

std::function<void(const fs::path&, size_t)> write_hook;
constexpr size_t kBufferBytes = 1 << 20;

Code code_of(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return Code::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case EFBIG:
      return Code::kResourceExhausted;
    default:
      return Code::kUnavailable;
  }
}

[[noreturn]] void fail_io(const char* what, const fs::path& path, int error) {
  const char* remedy =
      error == ENOSPC || error == EDQUOT ? "; free some space and run the same command again" : "";
  fail(code_of(error), "cannot {} '{}': {}{}", what, path.string(), std::strerror(error), remedy);
}

struct OpenFile {
  int fd;
  ~OpenFile() { close(fd); }
};

int open_for_reading(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_io("read", path, errno);
  struct stat status = {};
  if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
    close(fd);
    fail(Code::kInvalidArgument, "cannot read '{}': it is a folder, a file was wanted", path.string());
  }
  return fd;
}

void write_all(int fd, const fs::path& path, const void* data, size_t size_bytes) {
  if (write_hook) write_hook(path, size_bytes);
  const char* bytes = static_cast<const char*>(data);
  while (size_bytes > 0) {
    const ssize_t written = ::write(fd, bytes, size_bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_io("write", path, errno);
    }
    bytes += written;
    size_bytes -= static_cast<size_t>(written);
  }
}

void sync_path(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_io("open", path, errno);
  const OpenFile file{fd};
  if (fsync(fd) != 0 && errno != EINVAL) fail_io("flush to disk", path, errno);
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// Unique within the process and among processes, so that two writers never share a temporary.
fs::path temporary_name(const fs::path& path) {
  static std::atomic<int> counter{0};
  fs::path out = path;
  out += fmt::format(".tmp-{}-{}", getpid(), counter++);
  return out;
}

}  // namespace

void set_write_hook_for_testing(std::function<void(const fs::path&, size_t)> hook) {
  write_hook = std::move(hook);
}

std::string read_file(const fs::path& path) {
  const OpenFile file{open_for_reading(path)};
  std::string out;
  struct stat status = {};
  if (fstat(file.fd, &status) == 0 && S_ISREG(status.st_mode))
    out.reserve(static_cast<size_t>(status.st_size));
  char chunk[1 << 16];
  for (;;) {
    const ssize_t got = ::read(file.fd, chunk, sizeof chunk);
    if (got < 0) {
      if (errno == EINTR) continue;
      fail_io("read", path, errno);
    }
    if (got == 0) return out;
    out.append(chunk, static_cast<size_t>(got));
  }
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  AtomicFileWriter writer(path);
  writer.write(bytes);
  writer.commit();
}

AtomicFileWriter::AtomicFileWriter(fs::path path)
    : path_(std::move(path)), temporary_(temporary_name(path_)) {
  fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_io("create", path_, errno);
  buffer_.reserve(kBufferBytes);
}

AtomicFileWriter::~AtomicFileWriter() {
  if (fd_ >= 0) close(fd_);
  if (!committed_) unlink(temporary_.c_str());
}

void AtomicFileWriter::write(const void* data, size_t size_bytes) {
  size_bytes_ += size_bytes;
  if (buffer_.size() + size_bytes > kBufferBytes) flush();
  if (size_bytes >= kBufferBytes) {
    write_all(fd_, path_, data, size_bytes);
  } else {
    buffer_.append(static_cast<const char*>(data), size_bytes);
  }
}

void AtomicFileWriter::flush() {
  if (buffer_.empty()) return;
  write_all(fd_, path_, buffer_.data(), buffer_.size());
  buffer_.clear();
}

void AtomicFileWriter::commit() {
  flush();
  if (fsync(fd_) != 0) fail_io("flush to disk", path_, errno);
  const int fd = std::exchange(fd_, -1);
  if (close(fd) != 0) fail_io("close", path_, errno);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail_io("rename into place", path_, errno);
  committed_ = true;
  sync_path(folder_of(path_));
}

void append_line(const fs::path& path, std::string_view line) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) fail_io("open", path, errno);
  const OpenFile file{fd};
  std::string bytes(line);
  bytes += '\n';
  write_all(fd, path, bytes.data(), bytes.size());
}

AtomicFolder::AtomicFolder(fs::path final_path)
    : final_(std::move(final_path)), temporary_(temporary_name(final_)) {
  std::error_code error;
  fs::create_directories(temporary_, error);
  if (error) fail_io("create folder", final_, error.value());
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  for (const auto& entry : fs::recursive_directory_iterator(temporary_)) {
    if (entry.is_regular_file()) sync_path(entry.path());
  }
  sync_path(temporary_);
  std::error_code error;
  if (fs::exists(final_)) {
    const fs::path old = temporary_name(final_);
    fs::rename(final_, old, error);
    if (error) fail_io("replace folder", final_, error.value());
    fs::rename(temporary_, final_, error);
    if (error) {
      std::error_code ignored;
      fs::rename(old, final_, ignored);
      fail_io("rename into place", final_, error.value());
    }
    fs::remove_all(old, error);
  } else {
    fs::rename(temporary_, final_, error);
    if (error) fail_io("rename into place", final_, error.value());
  }
  committed_ = true;
  sync_path(folder_of(final_));
}

FolderLock::FolderLock(const fs::path& folder)
    : fd_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (fd_ < 0) fail_io("open", folder, errno);
  if (flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  const int error = errno;
  close(fd_);
  // A file system that knows no locks: nothing can be said.
  if (error != EWOULDBLOCK) {
    fd_ = -1;
    return;
  }
  fail(
      Code::kFailedPrecondition,
      "another process is at work in the folder '{}'; wait for it, stop it, or choose another folder (--out)",
      folder.string());
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) close(fd_);
}

PartFile::PartFile(fs::path path) : path_(std::move(path)), part_(path_) {
  part_ += ".part";
  fd_ = open(part_.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd_ < 0 && errno == ELOOP)
    fail(Code::kPermissionDenied, "'{}' is a link, which is not followed; remove it", part_.string());
  if (fd_ < 0) fail_io("create", part_, errno);
  struct stat status = {};
  if (fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(fd_);
    fail(Code::kPermissionDenied, "'{}' is no regular file; remove it", part_.string());
  }
  size_bytes_ = static_cast<uint64_t>(status.st_size);
}

PartFile::~PartFile() {
  if (fd_ >= 0) close(fd_);
}

void PartFile::read(const std::function<void(std::span<const char>)>& on_bytes) const {
  std::string chunk(kBufferBytes, '\0');
  for (uint64_t at = 0; at < size_bytes_;) {
    const ssize_t got = ::pread(fd_, chunk.data(), chunk.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail_io("read", part_, got < 0 ? errno : EIO);
    on_bytes({chunk.data(), static_cast<size_t>(got)});
    at += static_cast<uint64_t>(got);
  }
}

void PartFile::append(std::span<const char> bytes) {
  if (lseek(fd_, static_cast<off_t>(size_bytes_), SEEK_SET) < 0) fail_io("write", part_, errno);
  write_all(fd_, part_, bytes.data(), bytes.size());
  size_bytes_ += bytes.size();
}

void PartFile::truncate(uint64_t size_bytes) {
  if (ftruncate(fd_, static_cast<off_t>(size_bytes)) != 0) fail_io("shorten", part_, errno);
  size_bytes_ = size_bytes;
}

void PartFile::commit() {
  if (fsync(fd_) != 0) fail_io("flush to disk", part_, errno);
  if (rename(part_.c_str(), path_.c_str()) != 0) fail_io("rename into place", path_, errno);
  sync_path(folder_of(path_));
}

void PartFile::remove() { unlink(part_.c_str()); }

MappedFile::MappedFile(const fs::path& path) {
  const OpenFile file{open_for_reading(path)};
  struct stat status = {};
  if (fstat(file.fd, &status) != 0) fail_io("read", path, errno);
  size_bytes_ = static_cast<size_t>(status.st_size);
  if (size_bytes_ == 0) return;
  void* mapped = mmap(nullptr, size_bytes_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (mapped == MAP_FAILED) fail_io("map", path, errno);
  data_ = mapped;
  register_mapping(data_, size_bytes_);
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  forget_mapping(data_);
  munmap(const_cast<void*>(data_), size_bytes_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

}  // namespace vertebra
