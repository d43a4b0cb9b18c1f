// Documents of a file or folder, one at a time in a fixed order and bounded memory: text and
// Markdown files (a file is a document), JSON lines (a line is one), plain or in .gz .xz .zst .tar.
// Does not tokenize, deduplicate or shuffle. Called by data/produce_shards and the tokenizer's
// training.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/byte_stream.h"
#include "data/input_files.h"

namespace vertebra {

struct Document {
  std::string text;
  std::string source;  // "a.txt", "a.txt part 2", "data.jsonl.gz:7", "novels.tar.xz:eng/x.txt"
};

// What to do with a text file that is not UTF-8: name the place and stop, or pass the bytes on (a
// byte-level tokenizer can carry them). JSON is UTF-8 by its own rule, whatever is chosen here.
enum class InvalidUtf8 { kError, kKeep };
InvalidUtf8 invalid_utf8_from_name(std::string_view name);  // "error" or "keep"

struct DocumentReaderOptions {
  InputFormat format = InputFormat::kAuto;
  std::string field = "text";  // of a JSON line; its value must be a string
  // A text file holds several documents when it has lines that equal this ("<|endoftext|>"); such
  // lines are dropped. Empty: a file is one document.
  std::string separator;
  // A longer document is cut behind the last line that ends in the second half of the limit, or at
  // a character when there is none; each part is a document of its own. Counted in the report.
  size_t max_document_bytes = size_t{16} << 20;
  size_t max_line_bytes = size_t{64} << 20;  // of JSON lines; a longer one is an error
  InvalidUtf8 invalid_utf8 = InvalidUtf8::kError;
};

struct DocumentReaderReport {
  InputFilesReport input;
  int64_t documents = 0;
  uint64_t bytes = 0;
  int64_t blank = 0;  // files, lines or parts with nothing but white space: no documents
  int64_t cut = 0;    // cuts made because of max_document_bytes
  std::string first_cut;
};

class DocumentReader {
 public:
  // Files and folders, read in the order given. Throws not_found when there is nothing to read,
  // invalid_argument for options out of range.
  explicit DocumentReader(const std::vector<std::filesystem::path>& paths,
                          DocumentReaderOptions options = {});
  explicit DocumentReader(const std::filesystem::path& path, DocumentReaderOptions options = {})
      : DocumentReader(std::vector<std::filesystem::path>{path}, std::move(options)) {}

  // The next document; false at the end. A byte order mark is dropped, line ends are kept as they
  // are. Throws invalid_argument naming the file and the line (JSON) or byte (text): a NUL byte
  // means a binary file (or UTF-16); broken UTF-8 unless kept; a line that is no JSON object, lacks
  // the field or is too long. Throws data_loss for damaged archives.
  bool next(Document& out);
  const DocumentReaderReport& report();

 private:
  bool next_text(Document& out);
  bool next_json_line(Document& out);
  bool next_part(Document& out);
  bool fill_text();
  size_t find_separator(bool at_end);
  bool emit(Document& out);

  struct JsonField;
  struct JsonFieldDeleter {
    void operator()(JsonField* field) const;
  };

  DocumentReaderOptions options_;
  InputFiles files_;
  std::unique_ptr<StreamBuffer> buffer_;
  std::unique_ptr<JsonField, JsonFieldDeleter> json_field_;
  std::string long_text_, long_source_;  // what is left of a JSON document that is being cut
  size_t long_begin_ = 0;
  size_t scanned_ = 0;  // of buffer_'s view: no separator begins before
  int part_ = 0;
  bool after_cut_ = false;
  DocumentReaderReport report_;
};

// Where a text of more than `limit` bytes is cut: behind the last '\n' in (limit / 2, limit], else
// before the character that crosses `limit`.
size_t document_cut(std::string_view text, size_t limit);

}  // namespace vertebra
