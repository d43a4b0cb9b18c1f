// Learns a byte-level BPE vocabulary from text. The result depends on the text and the options alone,
// never on the number of threads, and equals that of Hugging Face's BpeTrainer with the same settings
// (initial alphabet of all 256 bytes). Called by the tokenizer stage of a recipe and the command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/function_ref.h"
#include "base/thread_team.h"
#include "text/tokenizer.h"

namespace vertebra {

struct BpeTrainerOptions {
  int vocab_size = 32'768;  // special tokens and the 256 bytes included
  // "gpt2", "cl100k", "llama3", "qwen2", "qwen3" (with NFC), "smollm", or a regular expression.
  std::string pattern = "llama3";
  std::vector<std::string> special_tokens;  // take the first ids, in this order
  int64_t min_frequency = 0;                // of a pair, to be merged
  ThreadTeam* threads = nullptr;            // null: the process's team
};

// Calls next() until it returns nullopt; a view need only live until the following call, and every
// document is cut into pieces by itself. Throws invalid_argument for impossible options, Interrupted
// when asked to stop. Fewer tokens than vocab_size result when the text has no more pairs.
Tokenizer train_bpe(FunctionRef<std::optional<std::string_view>()> next, const BpeTrainerOptions& options);
Tokenizer train_bpe_documents(const std::vector<std::string>& documents, const BpeTrainerOptions& options);

}  // namespace vertebra
