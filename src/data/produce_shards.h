// From documents or conversations to a folder of token shards: duplicates out, a held-out share by
// hash, tokens by a callback on all threads, a manifest. The folder appears whole or not at all, and
// its bytes do not depend on the number of threads. Called by the shards and SFT stages.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "base/json.h"
#include "base/thread_team.h"
#include "data/conversation_reader.h"
#include "data/document_reader.h"
#include "data/shards.h"

namespace vertebra {

struct ShardOptions {
  std::filesystem::path folder;  // where the shards go; an older folder of that name is replaced
  int vocab_size = 0;
  int32_t end_of_text = -1;    // appended to every document; -1: none (conversations bring their own)
  int32_t begin_of_text = -1;  // put before every document; -1: none
  // A document is held out when the first 64 bits of its SHA-256, as a fraction of 2^64, lie below
  // this: it depends on the text alone, so that more data never moves a document between splits.
  double validation_share = 0.01;
  bool drop_duplicates = true;  // exact ones, by 128 bits of SHA-256; the first one stays
  int64_t shard_tokens = int64_t{16} << 20;
  std::string tokenizer_digest;               // recorded as the input "tokenizer"
  std::map<std::string, std::string> inputs;  // further inputs and their SHA-256, for the manifest
  Json recipe = Json::object();               // the stage's settings, for the manifest
};

struct ShardReport {
  std::array<SplitCounts, kSplits> counts;
  int64_t documents_read = 0;
  int64_t duplicates_dropped = 0;
  std::string first_duplicate;  // its source; empty without duplicates
  int64_t without_tokens = 0;   // documents the callback gave nothing for
};

// The ids of one text, without the tokens the options add. Called from several threads at once.
using EncodeFn = FunctionRef<std::vector<int32_t>(std::string_view text)>;

struct TokenizedConversation {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> loss;  // per token: 1 where the model is to produce it, else 0
};
// A conversation as the chat template renders it. Called from several threads at once.
using RenderFn = FunctionRef<TokenizedConversation(const Conversation&)>;

// Throws what the reader and the callback throw, invalid_argument when no training document is left,
// resource_exhausted when the disk is full, Interrupted on a signal; the folder is then as before.
ShardReport write_pretraining_shards(DocumentReader& documents, EncodeFn encode, const ShardOptions& options,
                                     ThreadTeam& team);
// text_bytes counts the contents of the messages; duplicates are conversations equal in every role
// and content.
ShardReport write_conversation_shards(ConversationReader& conversations, RenderFn render,
                                      const ShardOptions& options, ThreadTeam& team);

}  // namespace vertebra
