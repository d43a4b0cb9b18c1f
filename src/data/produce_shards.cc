#include "data/produce_shards.h"

#include <charconv>
#include <unordered_set>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/sha256.h"

namespace vertebra {
namespace {

// A group is read while the one before is encoded: enough work for many threads, and two groups in
// memory at most.
constexpr size_t kGroupDocuments = 1024;
constexpr size_t kGroupBytes = size_t{16} << 20;

struct Digest128 {
  uint64_t high, low;
  bool operator==(const Digest128&) const = default;
};
struct DigestHash {
  size_t operator()(const Digest128& digest) const { return static_cast<size_t>(digest.low); }
};

Digest128 digest_of(const std::string& hex) {
  Digest128 out = {};
  std::from_chars(hex.data(), hex.data() + 16, out.high, 16);
  std::from_chars(hex.data() + 16, hex.data() + 32, out.low, 16);
  return out;
}

// Roles and contents with their lengths, so that no two conversations share a text.
std::string hashed_text(const Conversation& conversation) {
  std::string out;
  for (const Message& message : conversation.messages) {
    out +=
        fmt::format("{}:{}{}:{}", message.role.size(), message.role, message.content.size(), message.content);
  }
  return out;
}
const std::string& hashed_text(const Document& document) { return document.text; }

uint64_t text_bytes(const Document& document) { return document.text.size(); }
uint64_t text_bytes(const Conversation& conversation) {
  uint64_t out = 0;
  for (const Message& message : conversation.messages) out += message.content.size();
  return out;
}

template <class Item>
struct Entry {
  Item item;
  Split split = Split::kTrain;
  uint64_t bytes = 0;
  TokenizedConversation encoded;
};

template <class Item>
class Producer {
 public:
  using ReadFn = FunctionRef<bool(Item&, std::string& source)>;
  using EncodeItemFn = FunctionRef<TokenizedConversation(const Item&)>;

  Producer(const ShardOptions& options, ReadFn read, EncodeItemFn encode, bool has_loss_mask)
      : options_(options), read_(read), encode_(encode), has_loss_mask_(has_loss_mask) {
    require(options.validation_share >= 0 && options.validation_share < 1,
            "validation_share is {}; 0 up to, but not, 1 was wanted", options.validation_share);
    for (const int32_t token : {options.end_of_text, options.begin_of_text}) {
      require(token >= -1 && token < options.vocab_size, "special token id {}; the vocabulary has {}", token,
              options.vocab_size);
    }
  }

  ShardReport run(ThreadTeam& team) {
    AtomicFolder folder(options_.folder);
    ShardWriter writer(folder.path(), options_.vocab_size, has_loss_mask_, options_.shard_tokens);
    Progress progress("shards", 0, "tokens");
    std::vector<Entry<Item>> current, next;
    read_group(current);
    while (!current.empty()) {
      if (interrupt_requested()) throw Interrupted("interrupted while writing shards; nothing was changed");
      // Index 0 reads the next group while the others encode this one. Reading alone decides what is
      // a duplicate, in order, so the threads cannot change the outcome.
      team.parallel_for(static_cast<int64_t>(current.size()) + 1, [&](int64_t index, int) {
        if (index == 0) {
          read_group(next);
        } else {
          Entry<Item>& entry = current[static_cast<size_t>(index - 1)];
          entry.encoded = encode_(entry.item);
        }
      });
      for (const Entry<Item>& entry : current) {
        report_.without_tokens += entry.encoded.tokens.empty();
        writer.add(entry.split, entry.encoded.tokens, entry.encoded.loss, entry.bytes);
        tokens_ += entry.encoded.tokens.size();
      }
      progress.update(tokens_);
      current.swap(next);
    }
    report_.counts = writer.finish();
    require(report_.counts[0].documents > 0,
            "no training document is left of {} read ({} duplicates, {} held out)", report_.documents_read,
            report_.duplicates_dropped, report_.counts[1].documents);
    write_certificate(folder.path(), writer);
    folder.commit();
    report_outcome();
    return report_;
  }

 private:
  void read_group(std::vector<Entry<Item>>& group) {
    group.clear();
    size_t bytes = 0;
    Item item;
    std::string source;
    while (group.size() < kGroupDocuments && bytes < kGroupBytes && read_(item, source)) {
      ++report_.documents_read;
      const std::string hex = sha256_hex(hashed_text(item));
      all_digests_.update(hex);
      const Digest128 digest = digest_of(hex);
      if (options_.drop_duplicates && !seen_.insert(digest).second) {
        if (report_.duplicates_dropped++ == 0) report_.first_duplicate = source;
        continue;
      }
      Entry<Item>& entry = group.emplace_back();
      entry.split = static_cast<double>(digest.high) * 0x1p-64 < options_.validation_share
                        ? Split::kValidation
                        : Split::kTrain;
      entry.bytes = text_bytes(item);
      bytes += entry.bytes;
      entry.item = std::move(item);
      item = Item();
    }
  }

  void write_certificate(const std::filesystem::path& folder, const ShardWriter& writer) {
    Manifest manifest;
    manifest.kind = "shards";
    manifest.inputs = options_.inputs;
    if (!options_.tokenizer_digest.empty()) manifest.inputs["tokenizer"] = options_.tokenizer_digest;
    manifest.inputs["documents"] = all_digests_.hex();
    manifest.recipe = options_.recipe;
    Json& results = manifest.results;
    results = {{"vocab_size", options_.vocab_size},
               {"loss_mask", has_loss_mask_},
               {"end_of_text", options_.end_of_text},
               {"begin_of_text", options_.begin_of_text},
               {"validation_share", options_.validation_share},
               {"documents_read", report_.documents_read},
               {"duplicates_dropped", report_.duplicates_dropped},
               {"documents_without_tokens", report_.without_tokens}};
    for (const Split split : {Split::kTrain, Split::kValidation}) {
      const SplitCounts& counts = report_.counts[static_cast<size_t>(split)];
      results[std::string(split_name(split))] = {{"shards", writer.shards(split)},
                                                 {"documents", counts.documents},
                                                 {"tokens", counts.tokens},
                                                 {"loss_tokens", counts.loss_tokens},
                                                 {"text_bytes", counts.text_bytes}};
    }
    write_manifest(folder, manifest);
  }

  void report_outcome() const {
    if (report_.duplicates_dropped > 0) {
      log_info("{} of {} documents were exact duplicates and dropped; the first: {}",
               report_.duplicates_dropped, report_.documents_read, report_.first_duplicate);
    }
    if (options_.validation_share > 0 && report_.counts[1].documents == 0) {
      log_warning(
          "no document of {} fell into the held-out share of {}: nothing to validate on. A few large files "
          "can "
          "be cut with a separator or a smaller max_document_bytes",
          report_.documents_read, options_.validation_share);
    }
  }

  const ShardOptions& options_;
  ReadFn read_;
  EncodeItemFn encode_;
  bool has_loss_mask_;
  std::unordered_set<Digest128, DigestHash> seen_;
  Sha256 all_digests_;  // of every document read, in order: the birth certificate's input
  uint64_t tokens_ = 0;
  ShardReport report_;
};

}  // namespace

ShardReport write_pretraining_shards(DocumentReader& documents, EncodeFn encode, const ShardOptions& options,
                                     ThreadTeam& team) {
  const auto read = [&](Document& out, std::string& source) {
    const bool found = documents.next(out);
    source = out.source;
    return found;
  };
  const auto encode_document = [&](const Document& document) {
    TokenizedConversation out;
    std::vector<int32_t> tokens = encode(document.text);
    if (tokens.empty()) return out;
    if (options.begin_of_text >= 0) out.tokens.push_back(options.begin_of_text);
    out.tokens.insert(out.tokens.end(), tokens.begin(), tokens.end());
    if (options.end_of_text >= 0) out.tokens.push_back(options.end_of_text);
    return out;
  };
  ShardReport report = Producer<Document>(options, read, encode_document, false).run(team);
  const DocumentReaderReport& read_report = documents.report();
  if (read_report.cut > 0) {
    log_info("{} cuts in documents over the size limit; the first in {}", read_report.cut,
             read_report.first_cut);
  }
  if (read_report.input.skipped > 0) {
    log_warning("{} files skipped for their ending, such as '{}'", read_report.input.skipped,
                read_report.input.skipped_names.front());
  }
  return report;
}

ShardReport write_conversation_shards(ConversationReader& conversations, RenderFn render,
                                      const ShardOptions& options, ThreadTeam& team) {
  const auto read = [&](Conversation& out, std::string& source) { return conversations.next(out, source); };
  const auto encode = [&](const Conversation& conversation) { return render(conversation); };
  return Producer<Conversation>(options, read, encode, true).run(team);
}

}  // namespace vertebra
