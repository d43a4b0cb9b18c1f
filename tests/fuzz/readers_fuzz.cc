// Arbitrary bytes to the readers of documents and conversations, in every format and compression,
// and to the shard reader: an Error or a result, never a crash, a hang or unbounded memory. The
// first byte chooses what the rest is taken for.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "data/conversation_reader.h"
#include "data/document_reader.h"
#include "data/shards.h"

namespace {

constexpr const char* kEndings[] = {".txt",     ".jsonl", ".tar",        ".txt.gz", ".txt.xz",
                                    ".txt.zst", ".tgz",   ".conv.jsonl", ".bin"};

void read_documents(const std::filesystem::path& path, uint8_t variant) {
  vertebra::DocumentReaderOptions options;
  options.max_document_bytes = 64;
  options.max_line_bytes = 4096;
  if ((variant & 1) != 0) options.separator = "--";
  if ((variant & 2) != 0) options.invalid_utf8 = vertebra::InvalidUtf8::kKeep;
  vertebra::DocumentReader reader(path, options);
  vertebra::Document document;
  while (reader.next(document)) {
    if (document.text.empty() || document.text.size() > options.max_document_bytes) std::abort();
  }
}

void read_conversations(const std::filesystem::path& path) {
  vertebra::ConversationReader reader(path);
  vertebra::Conversation conversation;
  std::string source;
  while (reader.next(conversation, source)) {
    if (conversation.messages.empty()) std::abort();
  }
}

void read_shard(const std::filesystem::path& path) {
  const vertebra::Shard shard(path);
  std::vector<int32_t> tokens(static_cast<size_t>(shard.tokens()));
  for (int64_t t = 0; t < shard.tokens(); ++t) shard.in_loss(t);
  shard.read_tokens(0, tokens);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t kind = data[0] % std::size(kEndings);
  static const std::filesystem::path folder = [] {
    const auto path = std::filesystem::temp_directory_path() / fmt::format("readers-fuzz-{}", getpid());
    std::filesystem::create_directories(path);
    return path;
  }();
  const std::filesystem::path path = folder / (std::string("input") + kEndings[kind]);
  std::string bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  if (std::string_view(kEndings[kind]) == ".bin" && bytes.size() >= 56) {
    // The header's hash is put right, or nothing behind that check would ever be reached.
    const uint64_t hash = vertebra::stream_id(std::string_view(bytes).substr(0, 48));
    for (size_t i = 0; i < 8; ++i) bytes[48 + i] = static_cast<char>(hash >> (8 * i));
  }
  std::ofstream(path, std::ios::binary) << bytes;
  try {
    if (std::string_view(kEndings[kind]) == ".bin") {
      read_shard(path);
    } else if (std::string_view(kEndings[kind]) == ".conv.jsonl") {
      read_conversations(path);
    } else {
      read_documents(path, data[1]);
    }
  } catch (const vertebra::Error&) {
  }
  return 0;
}
