// Merges the most frequent pair until the vocabulary is full; see bpe_trainer.h. Ties go to the
// smaller pair of ids. Counts, queue and positions follow the peer's trainer step by step, including
// what it does where two different pairs spell the same token: only so do the merges come out equal.
#include "text/bpe_trainer.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "text/byte_level.h"
#include "text/tokenizer_parts.h"
#include "text/word_counts.h"

namespace vertebra {
namespace {

using Pair = uint64_t;  // left id in the high half: compares as (left, right)

Pair pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// Pair -> dense index, open addressing; grows, never forgets.
class PairIndex {
 public:
  PairIndex() : slots_(1 << 16, Slot{kFree, 0}) {}
  uint32_t find_or_add(Pair pair) {
    const size_t mask = slots_.size() - 1;
    for (size_t at = hash(pair) & mask;; at = (at + 1) & mask) {
      if (slots_[at].pair == pair) return slots_[at].index;
      if (slots_[at].pair == kFree) {
        const uint32_t index = size_++;
        slots_[at] = {pair, index};
        if (size_ * 2 > slots_.size()) grow();
        return index;
      }
    }
  }
  uint32_t size() const { return size_; }

 private:
  struct Slot {
    Pair pair;
    uint32_t index;
  };
  static constexpr Pair kFree = ~Pair{0};
  static uint64_t hash(Pair pair) {
    const uint64_t x = pair * 0x9E3779B97F4A7C15ull;
    return x ^ x >> 32;
  }
  void grow() {
    std::vector<Slot> bigger(slots_.size() * 2, Slot{kFree, 0});
    for (const Slot& slot : slots_) {
      if (slot.pair == kFree) continue;
      size_t at = hash(slot.pair) & (bigger.size() - 1);
      while (bigger[at].pair != kFree) at = (at + 1) & (bigger.size() - 1);
      bigger[at] = slot;
    }
    slots_ = std::move(bigger);
  }
  std::vector<Slot> slots_;
  uint32_t size_ = 0;
};

class Merger {
 public:
  Merger(const std::vector<WordCounts::Word>& words, const BpeTrainerOptions& options) : options_(options) {
    for (const std::string& token : options.special_tokens) add_token(token);
    std::vector<int> bytes(256);
    std::iota(bytes.begin(), bytes.end(), 0);
    std::ranges::sort(bytes, {}, [](int b) { return byte_level_char(static_cast<unsigned char>(b)); });
    for (const int b : bytes) {
      const char byte = static_cast<char>(b);
      id_of_byte_[b] = add_token(spell_bytes({&byte, 1}));
    }
    for (const WordCounts::Word& word : words) {
      word_begin_.push_back(symbols_.size());
      word_size_.push_back(static_cast<uint32_t>(word.bytes.size()));
      word_count_.push_back(word.count);
      for (const char c : word.bytes) symbols_.push_back(id_of_byte_[static_cast<unsigned char>(c)]);
    }
  }

  void run() {
    count_pairs();
    Progress progress("tokenizer: merging", static_cast<uint64_t>(options_.vocab_size), "tokens");
    while (tokens_.size() < static_cast<size_t>(options_.vocab_size) && !queue_.empty()) {
      std::ranges::pop_heap(queue_, later);
      Entry top = std::move(queue_.back());
      queue_.pop_back();
      const int64_t count = counts_[top.index];
      if (top.count != count) {
        top.count = count;
        push(std::move(top));
        continue;
      }
      if (count < 1 || options_.min_frequency > count) break;
      merge_pair(top);
      progress.update(tokens_.size());
      if (interrupt_requested()) throw Interrupted("tokenizer training was interrupted while merging");
    }
  }

  std::vector<std::string> take_tokens() { return std::move(tokens_); }

  // In order; of a pair merged twice the later one stands.
  std::vector<BpeModel::Merge> final_merges() const {
    std::unordered_set<Pair> seen;
    std::vector<BpeModel::Merge> out;
    for (auto it = merges_.rbegin(); it != merges_.rend(); ++it) {
      if (seen.insert(pair_of(it->left, it->right)).second) out.push_back(*it);
    }
    std::ranges::reverse(out);
    return out;
  }

 private:
  struct Entry {
    int64_t count;
    Pair pair;
    uint32_t index;                // of the pair
    std::vector<uint32_t> places;  // words that may hold it
  };
  static bool later(const Entry& a, const Entry& b) {
    return a.count != b.count ? a.count < b.count : a.pair > b.pair;
  }

  int32_t add_token(const std::string& spelling) {
    const auto [it, fresh] = id_of_token_.try_emplace(spelling, static_cast<int32_t>(tokens_.size()));
    if (fresh) tokens_.push_back(spelling);
    return it->second;
  }

  void push(Entry entry) {
    queue_.push_back(std::move(entry));
    std::ranges::push_heap(queue_, later);
  }

  uint32_t index_of(Pair pair) {
    const uint32_t index = pairs_.find_or_add(pair);
    if (index == counts_.size()) {
      counts_.push_back(0);
      places_.emplace_back();
    }
    return index;
  }

  // Counts change by `change`; a pair that gains occurrences is queued again with the gaining words.
  void change_count(Pair pair, int sign, uint32_t word) {
    const uint32_t index = index_of(pair);
    counts_[index] += sign * word_count_[word];
    if (sign < 0) return;
    std::vector<uint32_t>& places = places_[index];
    if (places.empty()) touched_.emplace_back(pair, index);
    if (places.empty() || places.back() != word) places.push_back(word);
  }

  void queue_touched() {
    for (const auto& [pair, index] : touched_) {
      std::vector<uint32_t> places = std::exchange(places_[index], {});
      if (counts_[index] > 0) push({counts_[index], pair, index, std::move(places)});
    }
    touched_.clear();
  }

  void count_pairs() {
    for (uint32_t word = 0; word < word_size_.size(); ++word) {
      const int32_t* s = symbols_.data() + word_begin_[word];
      for (uint32_t i = 0; i + 1 < word_size_[word]; ++i) change_count(pair_of(s[i], s[i + 1]), 1, word);
    }
    queue_touched();
  }

  void merge_pair(const Entry& top) {
    const auto left = static_cast<int32_t>(top.pair >> 32);
    const auto right = static_cast<int32_t>(top.pair & 0xFFFFFFFFu);
    const int32_t result = add_token(tokens_[left] + tokens_[right]);
    merges_.push_back({left, right, result});
    for (const uint32_t word : top.places) merge_in_word(word, left, right, result);
    queue_touched();
  }

  void merge_in_word(uint32_t word, int32_t left, int32_t right, int32_t result) {
    int32_t* s = symbols_.data() + word_begin_[word];
    const uint32_t n = word_size_[word];
    uint32_t out = 0;
    for (uint32_t i = 0; i < n; ++i, ++out) {
      if (s[i] != left || i + 1 == n || s[i + 1] != right) {
        s[out] = s[i];
        continue;
      }
      if (out > 0) {
        change_count(pair_of(s[out - 1], left), -1, word);
        change_count(pair_of(s[out - 1], result), 1, word);
      }
      if (i + 2 < n) {
        change_count(pair_of(right, s[i + 2]), -1, word);
        change_count(pair_of(result, s[i + 2]), 1, word);
      }
      s[out] = result;
      ++i;
    }
    word_size_[word] = out;
  }

  const BpeTrainerOptions& options_;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> id_of_token_;
  int32_t id_of_byte_[256];
  std::vector<int32_t> symbols_;     // of all words, one after the other
  std::vector<size_t> word_begin_;   // into symbols_
  std::vector<uint32_t> word_size_;  // symbols left
  std::vector<int64_t> word_count_;
  PairIndex pairs_;
  std::vector<int64_t> counts_;  // by pair index
  std::vector<std::vector<uint32_t>> places_;
  std::vector<std::pair<Pair, uint32_t>> touched_;
  std::vector<Entry> queue_;
  std::vector<BpeModel::Merge> merges_;
};

Json normalizer_section(const std::string& pattern) {
  if (pattern == "qwen2" || pattern == "qwen3") return Json{{"type", "NFC"}};
  return nullptr;
}

Json trained_skeleton(const std::string& pattern) {
  Json json = Json::object();
  json["version"] = "1.0";
  json["truncation"] = nullptr;
  json["padding"] = nullptr;
  json["added_tokens"] = nullptr;
  json["normalizer"] = normalizer_section(pattern);
  json["pre_tokenizer"] = Pretokenizer::section_for_pattern(pattern);
  json["post_processor"] = nullptr;
  json["decoder"] =
      Json{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  json["model"] = Json{{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"ignore_merges", false},
                       {"vocab", nullptr},
                       {"merges", nullptr}};
  return json;
}

void check_options(const BpeTrainerOptions& options) {
  std::unordered_set<std::string> seen;
  for (const std::string& token : options.special_tokens) {
    require(!token.empty(), "a special token is empty");
    require(seen.insert(token).second, "special token '{}' is listed twice", token);
  }
  const size_t least = options.special_tokens.size() + 256;
  require(options.vocab_size >= 0 && static_cast<size_t>(options.vocab_size) >= least &&
              options.vocab_size <= kMaxVocabSize,
          "vocab_size is {}; from {} (256 bytes and {} special tokens) to {} was wanted", options.vocab_size,
          least, options.special_tokens.size(), kMaxVocabSize);
  require(options.min_frequency >= 0, "min_frequency is {}; 0 or more was wanted", options.min_frequency);
}

}  // namespace

Tokenizer train_bpe(FunctionRef<std::optional<std::string_view>()> next, const BpeTrainerOptions& options) {
  check_options(options);
  const std::string source = "trained tokenizer";
  Json skeleton = trained_skeleton(options.pattern);
  const Normalizer normalizer = Normalizer::from_json(skeleton["normalizer"], source);
  const Pretokenizer pretokenizer = Pretokenizer::from_json(skeleton["pre_tokenizer"], source);
  ThreadTeam& threads = options.threads != nullptr ? *options.threads : global_thread_team();

  const WordCounts counts = count_words(next, normalizer, pretokenizer, threads);
  Merger merger(counts.sorted(), options);
  merger.run();

  std::vector<BpeModel::Merge> merges = merger.final_merges();
  auto model =
      std::make_unique<BpeModel>(merger.take_tokens(), std::move(merges), BpeModel::Options{}, source);
  std::vector<AddedToken> added;
  for (const std::string& content : options.special_tokens) {
    AddedToken token;
    token.id = *model->token_id(content);
    token.content = content;
    token.special = true;
    token.normalized = false;
    added.push_back(std::move(token));
  }
  return Tokenizer(TokenizerParts::assemble(std::move(skeleton), std::move(model), std::move(added), source));
}

Tokenizer train_bpe_documents(const std::vector<std::string>& documents, const BpeTrainerOptions& options) {
  size_t at = 0;
  return train_bpe(
      [&]() -> std::optional<std::string_view> {
        return at < documents.size() ? std::optional<std::string_view>(documents[at++]) : std::nullopt;
      },
      options);
}

}  // namespace vertebra
