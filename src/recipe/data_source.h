// Where a recipe's text comes from: a path on disk, or the conversations that its facts stage made. Read by
// the tokenizer and shards stages, which must see the same data.
#pragma once

#include <filesystem>
#include <string>

#include "data/conversation_reader.h"
#include "data/document_reader.h"
#include "recipe/stage.h"

namespace vertebra {

// The table [data]: path, format ("text", "jsonl", "conversations", "auto"), field, separator, invalid_utf8.
struct DataSource {
  std::filesystem::path path;  // empty: the facts stage's training conversations
  bool conversations = false;
  DocumentReaderOptions documents;
  Json settings;  // as resolved, for manifests

  // Reads the table; with neither a path nor a facts stage it is an error.
  static DataSource read(const RunContext& context);
  // The file or folder itself; the facts stage's file lies in the run.
  std::filesystem::path location(const RunContext& context) const;
  bool from_facts() const { return path.empty(); }
};

}  // namespace vertebra
