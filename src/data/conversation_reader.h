// Conversations from JSON lines {"messages": [{"role", "content"}, ...]}, in a file, folder or
// archive, one at a time. Renders nothing: that is text/chat_template. Called by
// data/produce_shards.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/byte_stream.h"
#include "data/input_files.h"
#include "text/conversation.h"

namespace vertebra {

struct ConversationReaderOptions {
  size_t max_line_bytes = size_t{16} << 20;
};

struct ConversationReaderReport {
  InputFilesReport input;
  int64_t conversations = 0;
  int64_t messages = 0;
};

class ConversationReader {
 public:
  // Files are those ending in .jsonl or .ndjson, as InputFiles reads them (others in a folder are
  // skipped and reported; a file named directly may have any ending).
  ConversationReader(const std::filesystem::path& path, ConversationReaderOptions options = {});

  // The next conversation; false at the end. Throws invalid_argument naming file and line for what
  // is no such object: broken JSON or UTF-8, no messages, a role that is not system, user or
  // assistant, a system message after the first, content that is not a string. Other keys are
  // ignored; blank lines are passed over.
  bool next(Conversation& out, std::string& source);
  const ConversationReaderReport& report();

 private:
  ConversationReaderOptions options_;
  InputFiles files_;
  std::unique_ptr<StreamBuffer> buffer_;
  ConversationReaderReport report_;
};

}  // namespace vertebra
