// The members of a tar archive (POSIX ustar and pax, GNU long names) read as a stream, nothing kept
// and nothing ever written to disk. Called by data/input_files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "data/byte_stream.h"

namespace vertebra {

class TarStream {
 public:
  TarStream(std::unique_ptr<ByteStream> source, std::string name);

  // Moves to the next regular file (what is left of the current one is skipped); false at the end
  // mark. Throws data_loss for a bad header checksum, a size that is no number, or an archive that
  // ends before its end mark.
  bool next();
  const std::string& member() const { return member_; }
  // Bytes of the current member; 0 at its end.
  size_t read(char* out, size_t size);

 private:
  void read_exactly(char* out, size_t size);
  void skip(uint64_t size_bytes);
  std::string read_text(uint64_t size_bytes);
  void read_pax(const std::string& records);

  std::unique_ptr<ByteStream> source_;
  std::string name_, member_, long_name_;
  uint64_t left_ = 0, padding_ = 0, position_ = 0;
  int64_t pax_size_ = -1;
};

}  // namespace vertebra
