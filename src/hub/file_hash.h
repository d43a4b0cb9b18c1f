// The hashes by which the hub knows a file: SHA-256, and SHA-1 of git's blob ("blob SIZE", a zero byte, the
// content).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace vertebra {

class FileHash {
 public:
  // Both are computed; the blob's needs the size beforehand.
  explicit FileHash(uint64_t size_bytes);
  ~FileHash();
  FileHash(const FileHash&) = delete;
  FileHash& operator=(const FileHash&) = delete;
  void update(std::span<const char> bytes);
  struct Digests {
    std::string sha256, git_sha1;
  };
  // Ends the hash; the object must not be used afterwards.
  Digests finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace vertebra
