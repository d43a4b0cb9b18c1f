// Reading and writing whole files and mapping them; every write in the program goes through here,
// so that a full disk, an interrupted write or an injected fault is handled (and tested) once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace vertebra {

// Throws not_found, permission_denied or data_loss with the path and the system's reason.
std::string read_file(const std::filesystem::path& path);

// Writes path + ".tmp", fsyncs, renames over path, fsyncs the folder. On any failure the old file
// (if any) is untouched, the temporary is removed, and resource_exhausted (disk full, quota) or
// unavailable is thrown.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

// A file being written; the same guarantees, for content that comes in pieces.
class AtomicFileWriter {
 public:
  explicit AtomicFileWriter(std::filesystem::path path);
  ~AtomicFileWriter();  // removes the temporary when commit() was not called
  AtomicFileWriter(const AtomicFileWriter&) = delete;
  AtomicFileWriter& operator=(const AtomicFileWriter&) = delete;

  void write(const void* data, size_t size_bytes);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  uint64_t size_bytes() const { return size_bytes_; }
  void commit();

 private:
  void flush();
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  std::string buffer_;
  uint64_t size_bytes_ = 0;
  bool committed_ = false;
};

// Appends one line (a '\n' is added) in a single write; for logs such as metrics.jsonl.
void append_line(const std::filesystem::path& path, std::string_view line);

// A folder that appears whole or not at all: fill `path()`, then commit() fsyncs its files and
// renames it to the final name (an existing folder of that name is replaced). Removed if not committed.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::filesystem::path final_path);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;
  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path final_, temporary_;
  bool committed_ = false;
};

// A folder that this process works in alone, until destroyed or killed. Throws failed_precondition when
// another has it.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

// For tests: called before every write with the path and the bytes about to be written; may throw.
// Empty function: no hook.
void set_write_hook_for_testing(std::function<void(const std::filesystem::path&, size_t size_bytes)> hook);

// A read-only memory mapping of a whole file. An empty file gives an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_bytes_}; }
  std::string_view text() const { return {static_cast<const char*>(data_), size_bytes_}; }

 private:
  const void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace vertebra
