// Conversations from JSON lines {"messages": [{"role", "content"}, ...]}, in a file, folder or
// archive, one at a time. Renders nothing: that is text/chat_template. Called by
// data/produce_shards.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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
  // Of folders and archives the files ending in .jsonl or .ndjson are read, others are passed over;
  // when only plain files are named, they may have any ending.
  explicit ConversationReader(const std::vector<std::filesystem::path>& paths,
                              ConversationReaderOptions options = {});
  explicit ConversationReader(const std::filesystem::path& path, ConversationReaderOptions options = {})
      : ConversationReader(std::vector<std::filesystem::path>{path}, std::move(options)) {}

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
