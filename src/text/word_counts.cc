// Documents are gathered into batches, batches cut into chunks, chunks counted by all workers.
#include "text/word_counts.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"

namespace vertebra {
namespace {

constexpr size_t kBatchBytes = 16 << 20;
constexpr size_t kChunkBytes = 256 << 10;
constexpr size_t kInitialSlots = 1 << 14;

uint64_t hash_word(std::string_view word) {
  uint64_t hash = word.size() * 0x9E3779B97F4A7C15ull;
  const char* p = word.data();
  size_t n = word.size();
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t part;
    std::memcpy(&part, p, 8);
    hash = (hash ^ part) * 0xD6E8FEB86659FD93ull;
    hash ^= hash >> 32;
  }
  uint64_t part = 0;
  for (size_t i = 0; i < n; ++i) part |= static_cast<uint64_t>(static_cast<unsigned char>(p[i])) << 8 * i;
  hash = (hash ^ part) * 0xD6E8FEB86659FD93ull;
  return hash ^ hash >> 32;
}

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// A place at or after `from` where every built-in pattern begins a new piece whatever lies around
// it: the space in "letter, space, letter".
size_t safe_cut(std::string_view text, size_t from) {
  for (size_t at = text.find(' ', from); at != text.npos && at + 1 < text.size();
       at = text.find(' ', at + 1)) {
    if (at > 0 && is_ascii_letter(text[at - 1]) && is_ascii_letter(text[at + 1])) return at;
  }
  return text.size();
}

void cut_document(std::string_view document, bool may_cut, std::vector<std::string_view>& chunks) {
  while (may_cut && document.size() > kChunkBytes) {
    const size_t cut = safe_cut(document, kChunkBytes);
    chunks.push_back(document.substr(0, cut));
    document.remove_prefix(cut);
  }
  if (!document.empty()) chunks.push_back(document);
}

void count_chunk(std::string_view text, const Normalizer& normalizer, const Pretokenizer& pretokenizer,
                 WordCounts& counts) {
  std::string normalized;
  if (!normalizer.empty()) {
    normalized = normalizer.apply(text);
    text = normalized;
  }
  if (const auto kind = pretokenizer.only_scanner()) {
    const ScanFunction scan = scanner(*kind);
    const char* const end = text.data() + text.size();
    for (const char* p = text.data(); p < end;) {
      const char* next = scan(p, end);
      counts.add({p, static_cast<size_t>(next - p)}, 1);
      p = next;
    }
  } else {
    pretokenizer.split(text, [&](std::string_view piece) { counts.add(piece, 1); });
  }
}

}  // namespace

WordCounts::WordCounts() : slots_(kInitialSlots) {}

void WordCounts::add(std::string_view word, int64_t count) {
  require(word.size() < UINT32_MAX, "one piece of {} bytes is too long to train on", word.size());
  insert(hash_word(word), word, count);
}

void WordCounts::insert(uint64_t hash, std::string_view word, int64_t count) {
  const size_t mask = slots_.size() - 1;
  for (size_t at = hash & mask;; at = (at + 1) & mask) {
    Slot& slot = slots_[at];
    if (slot.size == 0) {
      slot = {hash, arena_.size(), static_cast<uint32_t>(word.size()), count};
      arena_ += word;
      if (++used_ * 2 > slots_.size()) grow();
      return;
    }
    if (slot.hash == hash && slot.size == word.size() &&
        std::memcmp(arena_.data() + slot.offset, word.data(), word.size()) == 0) {
      slot.count += count;
      return;
    }
  }
}

void WordCounts::grow() {
  std::vector<Slot> bigger(slots_.size() * 2);
  const size_t mask = bigger.size() - 1;
  for (const Slot& slot : slots_) {
    if (slot.size == 0) continue;
    size_t at = slot.hash & mask;
    while (bigger[at].size != 0) at = (at + 1) & mask;
    bigger[at] = slot;
  }
  slots_ = std::move(bigger);
}

void WordCounts::add_all(const WordCounts& other) {
  for (const Slot& slot : other.slots_) {
    if (slot.size > 0)
      insert(slot.hash, std::string_view(other.arena_).substr(slot.offset, slot.size), slot.count);
  }
}

std::vector<WordCounts::Word> WordCounts::sorted() const {
  std::vector<Word> words;
  words.reserve(used_);
  for (const Slot& slot : slots_) {
    if (slot.size > 0) words.push_back({std::string_view(arena_).substr(slot.offset, slot.size), slot.count});
  }
  std::ranges::sort(words, {}, &Word::bytes);
  return words;
}

WordCounts count_words(FunctionRef<std::optional<std::string_view>()> next, const Normalizer& normalizer,
                       const Pretokenizer& pretokenizer, ThreadTeam& threads) {
  std::vector<WordCounts> counts(threads.size());
  Progress progress("tokenizer: counting words", 0, "B");
  uint64_t done_bytes = 0;
  for (bool more = true; more;) {
    std::string batch;
    std::vector<size_t> ends;
    while (more && batch.size() < kBatchBytes) {
      const auto document = next();
      more = document.has_value();
      if (more) batch += *document;
      if (more) ends.push_back(batch.size());
    }
    std::vector<std::string_view> chunks;
    size_t begin = 0;
    for (const size_t end : ends) {
      cut_document(std::string_view(batch).substr(begin, end - begin),
                   pretokenizer.only_scanner().has_value(), chunks);
      begin = end;
    }
    threads.parallel_for(static_cast<int64_t>(chunks.size()), [&](int64_t index, int worker) {
      count_chunk(chunks[index], normalizer, pretokenizer, counts[worker]);
    });
    done_bytes += batch.size();
    progress.update(done_bytes);
    if (interrupt_requested()) throw Interrupted("tokenizer training was interrupted while counting words");
  }
  for (size_t worker = 1; worker < counts.size(); ++worker) counts[0].add_all(counts[worker]);
  return std::move(counts[0]);
}

}  // namespace vertebra
