// Walks paths: a file, a folder (recursively, in the sorted order of its paths) or tar archives,
// each through decompression, and gives the plain files inside one after the other as streams.
// Decides which names are data; what they mean is the readers' business.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_stream.h"

namespace vertebra {

class TarStream;

enum class InputFormat { kAuto, kText, kJsonl };
// "auto", "text" or "jsonl"; throws invalid_argument for another name.
InputFormat input_format_from_name(std::string_view name);

struct InputFilesReport {
  int64_t files = 0;                       // files and archive members read
  int64_t skipped = 0;                     // of unknown ending, in folders and archives
  std::vector<std::string> skipped_names;  // the first few of them
};

class InputFiles {
 public:
  // With kAuto the ending decides: .txt .text .md .markdown .rst are text, .jsonl .ndjson are JSON
  // lines; others are skipped and reported in folders and archives, and an error when named
  // directly. With kText or kJsonl every file is read so, whatever its name. Hidden files (".x")
  // in folders and archives are never read. Several paths are read in the order given. Throws
  // not_found when a path does not exist or a folder has nothing to read (naming what was skipped).
  InputFiles(const std::vector<std::filesystem::path>& paths, InputFormat format);
  ~InputFiles();

  // Moves to the next file; false at the end. Throws data_loss for a damaged archive.
  bool next();
  const std::string& name() const { return name_; }  // "path" or "archive.tar.xz:member"
  InputFormat format() const { return current_format_; }
  ByteStream& stream() { return *stream_; }
  const InputFilesReport& report() const { return report_; }

 private:
  class Member;
  void add_path(const std::filesystem::path& path);
  bool next_member();
  void skip(const std::string& name);
  InputFormat format_of(const std::string& plain_name) const;

  InputFormat wanted_, current_format_ = InputFormat::kText;
  std::vector<std::filesystem::path> paths_;
  size_t next_path_ = 0;
  std::unique_ptr<ByteStream> stream_;
  std::unique_ptr<TarStream> tar_;
  std::string name_;
  InputFilesReport report_;
};

}  // namespace vertebra
