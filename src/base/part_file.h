// A file that arrives in pieces and may be gone on with by another process: NAME.part until it is whole. The
// writes are those of base/file.h, with its errors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

namespace vertebra {

class PartFile {
 public:
  // Opens or creates `path`.part; a link in its place is not followed (permission_denied).
  explicit PartFile(std::filesystem::path path);
  ~PartFile();  // what was written stays
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  uint64_t size_bytes() const { return size_bytes_; }
  // All bytes so far, in order.
  void read(const std::function<void(std::span<const char>)>& on_bytes) const;
  void append(std::span<const char> bytes);
  void truncate(uint64_t size_bytes);
  // Flushes to disk and gives it its name.
  void commit();
  void remove();

 private:
  std::filesystem::path path_, part_;
  int fd_ = -1;
  uint64_t size_bytes_ = 0;
};

}  // namespace vertebra
