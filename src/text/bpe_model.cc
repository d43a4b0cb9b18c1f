// A piece is looked up whole first (nine in ten are one token), then in a small cache, then merged:
// by scanning an array when short, with a heap when long. See bpe_model.h.
#include "text/bpe_model.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "text/byte_level.h"

namespace vertebra {
namespace {

constexpr size_t kKeyBytes = 15;      // longest piece that fits a PieceKey
constexpr size_t kShortSymbols = 48;  // up to here rescanning an array beats a heap
constexpr uint32_t kNoRank = ~uint32_t{0};
constexpr size_t kCacheSlots = 8192;  // of one cache line each: half a MiB per encoding thread
constexpr int kCachedIds = 11;

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15ull;
  return x ^ x >> 32;
}

}  // namespace

class BpeModel::Scratch {
 public:
  struct CacheSlot {
    PieceKey key;
    int32_t count = 0;
    int32_t ids[kCachedIds];
  };
  static_assert(sizeof(CacheSlot) == 64);
  std::vector<CacheSlot> cache = std::vector<CacheSlot>(kCacheSlots);
  std::vector<int32_t> symbols, previous, next;
  std::vector<uint32_t> rank;
  std::vector<uint64_t> heap;
};

BpeModel::ScratchLease::ScratchLease(const BpeModel& model) : model_(model) {
  {
    const std::lock_guard lock(model.pool_mutex_);
    if (!model.pool_.empty()) {
      scratch_ = std::move(model.pool_.back());
      model.pool_.pop_back();
    }
  }
  if (scratch_ == nullptr) scratch_ = std::make_unique<Scratch>();
}

BpeModel::ScratchLease::~ScratchLease() {
  const std::lock_guard lock(model_.pool_mutex_);
  model_.pool_.push_back(std::move(scratch_));
}

BpeModel::~BpeModel() = default;

BpeModel::BpeModel(std::vector<std::string> tokens, std::vector<Merge> merges, Options options,
                   const std::string& source)
    : tokens_(std::move(tokens)), merges_(std::move(merges)), options_(std::move(options)) {
  require(tokens_.size() <= kMaxVocabSize, "{}: a vocabulary of {} ids; at most {} are accepted", source,
          tokens_.size(), kMaxVocabSize);
  id_of_token_.reserve(tokens_.size());
  id_of_byte_.fill(-1);
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (tokens_[id].empty()) continue;
    const auto [it, fresh] = id_of_token_.try_emplace(tokens_[id], static_cast<int32_t>(id));
    require(fresh, "{}: token '{}' has two ids, {} and {}", source, tokens_[id], it->second, id);
  }
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    if (const auto id = token_id(spell_bytes({&byte, 1}))) id_of_byte_[b] = *id;
  }
  if (options_.unk_token) {
    const auto id = token_id(*options_.unk_token);
    require(id.has_value(), "{}: unk_token '{}' is not in the vocabulary", source, *options_.unk_token);
    unk_id_ = *id;
  }
  build_pairs(source);
  build_pieces();
}

std::optional<int32_t> BpeModel::token_id(std::string_view spelling) const {
  const auto it = id_of_token_.find(spelling);
  return it == id_of_token_.end() ? std::nullopt : std::optional(it->second);
}

int BpeModel::missing_bytes() const { return static_cast<int>(std::ranges::count(id_of_byte_, -1)); }

void BpeModel::build_pairs(const std::string& source) {
  const uint64_t size = std::bit_ceil(merges_.size() * 2 + 2);
  pairs_.assign(size, {});
  pair_mask_ = size - 1;
  const auto is_token = [&](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < tokens_.size() && !tokens_[id].empty();
  };
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    const Merge& merge = merges_[rank];
    require(is_token(merge.left) && is_token(merge.right) && is_token(merge.result),
            "{}: merge {} names ids ({}, {}, {}) that are not all in the vocabulary", source, rank,
            merge.left, merge.right, merge.result);
    const uint64_t pair = pair_of(merge.left, merge.right);
    uint64_t at = mix(pair) & pair_mask_;
    while (pairs_[at].pair != ~uint64_t{0} && pairs_[at].pair != pair) at = (at + 1) & pair_mask_;
    pairs_[at] = {pair, static_cast<uint32_t>(rank), merge.result};  // of two equal merges the last counts
  }
}

const BpeModel::PairSlot* BpeModel::find_pair(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (uint64_t at = mix(pair) & pair_mask_;; at = (at + 1) & pair_mask_) {
    const PairSlot& slot = pairs_[at];
    if (slot.pair == pair) return &slot;
    if (slot.pair == ~uint64_t{0}) return nullptr;
  }
}

BpeModel::PieceKey BpeModel::piece_key(std::string_view piece, const char* buffer_end) {
  PieceKey key;
  if (buffer_end - piece.data() >= 16) [[likely]] {
    std::memcpy(&key, piece.data(), 16);
    const size_t n = piece.size();
    if (n < 8) {
      key.low &= (uint64_t{1} << 8 * n) - 1;
      key.high = 0;
    } else {
      key.high &= (uint64_t{1} << 8 * (n - 8)) - 1;
    }
  } else {
    std::memcpy(&key, piece.data(), piece.size());
  }
  key.high |= static_cast<uint64_t>(piece.size()) << 56;
  return key;
}

uint64_t BpeModel::hash_key(const PieceKey& key) {
  return mix(key.low ^ std::rotl(key.high * 0xD6E8FEB86659FD93ull, 29));
}

void BpeModel::insert_piece(std::string_view bytes, int32_t id) {
  const PieceKey key = piece_key(bytes, bytes.data() + bytes.size());
  uint64_t at = hash_key(key) & piece_mask_;
  while (pieces_[at].key != PieceKey{} && pieces_[at].key != key) at = (at + 1) & piece_mask_;
  pieces_[at] = {key, id};
}

// Which tokens does their own text encode to? Usually all, but merges may never reach one.
void BpeModel::build_pieces() {
  piece_mask_ = std::bit_ceil(tokens_.size() * 2 + 2) - 1;
  pieces_.assign(piece_mask_ + 1, {});
  Scratch scratch;
  std::vector<int32_t> ids;
  std::vector<std::pair<std::string, int32_t>> long_tokens;
  for (size_t id = 0; id < tokens_.size(); ++id) {
    const auto bytes = unspell_bytes(tokens_[id]);
    if (!bytes || bytes->empty()) continue;
    if (!options_.ignore_merges) {
      ids.clear();
      merge_piece(*bytes, scratch, ids);
      if (ids.size() != 1 || ids[0] != static_cast<int32_t>(id)) continue;
    }
    if (bytes->size() <= kKeyBytes) {
      insert_piece(*bytes, static_cast<int32_t>(id));
    } else {
      long_tokens.emplace_back(*bytes, static_cast<int32_t>(id));
    }
  }
  long_bytes_.reserve(long_tokens.size());
  for (auto& [bytes, id] : long_tokens) {
    long_bytes_.push_back(std::move(bytes));
    long_pieces_.emplace(long_bytes_.back(), id);
  }
}

void BpeModel::encode_piece(std::string_view piece, const char* buffer_end, Scratch& scratch,
                            std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (piece.size() > kKeyBytes) {
    if (!long_pieces_.empty()) {
      const auto it = long_pieces_.find(piece);
      if (it != long_pieces_.end()) {
        ids.push_back(it->second);
        return;
      }
    }
    merge_piece(piece, scratch, ids);
    return;
  }
  const PieceKey key = piece_key(piece, buffer_end);
  const uint64_t hash = hash_key(key);
  for (uint64_t at = hash & piece_mask_; pieces_[at].key != PieceKey{}; at = (at + 1) & piece_mask_) {
    if (pieces_[at].key == key) {
      ids.push_back(pieces_[at].id);
      return;
    }
  }
  Scratch::CacheSlot& slot = scratch.cache[hash % kCacheSlots];
  if (slot.key == key) {
    ids.insert(ids.end(), slot.ids, slot.ids + slot.count);
    return;
  }
  const size_t first = ids.size();
  merge_piece(piece, scratch, ids);
  if (ids.size() - first <= kCachedIds) {
    slot.key = key;
    slot.count = static_cast<int32_t>(ids.size() - first);
    std::copy(ids.begin() + static_cast<ptrdiff_t>(first), ids.end(), slot.ids);
  }
}

void BpeModel::initial_symbols(std::string_view piece, std::vector<int32_t>& symbols) const {
  symbols.clear();
  bool after_unk = false;
  for (const char c : piece) {
    const int32_t id = id_of_byte_[static_cast<unsigned char>(c)];
    if (id >= 0) {
      symbols.push_back(id);
      after_unk = false;
    } else if (unk_id_ >= 0 && !(after_unk && options_.fuse_unk)) {
      symbols.push_back(unk_id_);
      after_unk = true;
    }
  }
}

void BpeModel::merge_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const {
  std::vector<int32_t>& symbols = scratch.symbols;
  initial_symbols(piece, symbols);
  size_t n = symbols.size();
  if (n > kShortSymbols) {
    merge_long(symbols, scratch, ids);
    return;
  }
  uint32_t rank[kShortSymbols];
  int32_t result[kShortSymbols];
  const auto look_up = [&](size_t i) {
    const PairSlot* slot = i + 1 < n ? find_pair(symbols[i], symbols[i + 1]) : nullptr;
    rank[i] = slot == nullptr ? kNoRank : slot->rank;
    result[i] = slot == nullptr ? 0 : slot->result;
  };
  for (size_t i = 0; i < n; ++i) look_up(i);
  while (n > 1) {
    const size_t best = static_cast<size_t>(std::min_element(rank, rank + n) - rank);  // leftmost of equals
    if (rank[best] == kNoRank) break;
    symbols[best] = result[best];
    std::copy(symbols.begin() + best + 2, symbols.begin() + n, symbols.begin() + best + 1);
    std::copy(rank + best + 2, rank + n, rank + best + 1);
    std::copy(result + best + 2, result + n, result + best + 1);
    --n;
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.begin() + n);
}

// A linked list over the symbols and a heap of (rank, position); an entry counts only while it still
// is the rank of the pair at its position.
void BpeModel::merge_long(std::vector<int32_t>& symbols, Scratch& scratch, std::vector<int32_t>& ids) const {
  const auto n = static_cast<int32_t>(symbols.size());
  auto& [cache, unused, previous, next, rank, heap] = scratch;
  previous.resize(n);
  next.resize(n);
  rank.resize(n);
  heap.clear();
  for (int32_t i = 0; i < n; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1 < n ? i + 1 : -1;
    const PairSlot* slot = i + 1 < n ? find_pair(symbols[i], symbols[i + 1]) : nullptr;
    rank[i] = slot == nullptr ? kNoRank : slot->rank;
    if (slot != nullptr) heap.push_back(uint64_t{slot->rank} << 32 | static_cast<uint32_t>(i));
  }
  const auto later = std::greater<uint64_t>();
  std::make_heap(heap.begin(), heap.end(), later);
  const auto look_up = [&](int32_t i) {
    const PairSlot* slot = next[i] >= 0 ? find_pair(symbols[i], symbols[next[i]]) : nullptr;
    rank[i] = slot == nullptr ? kNoRank : slot->rank;
    if (slot == nullptr) return;
    heap.push_back(uint64_t{slot->rank} << 32 | static_cast<uint32_t>(i));
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    const uint64_t top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), later);
    heap.pop_back();
    const auto at = static_cast<int32_t>(top & 0xFFFFFFFFu);
    if (rank[at] != static_cast<uint32_t>(top >> 32)) continue;
    const int32_t gone = next[at];
    symbols[at] = merges_[rank[at]].result;
    next[at] = next[gone];
    if (next[at] >= 0) previous[next[at]] = at;
    rank[gone] = kNoRank;
    look_up(at);
    if (previous[at] >= 0) look_up(previous[at]);
  }
  for (int32_t i = 0; i >= 0; i = next[i]) ids.push_back(symbols[i]);
}

}  // namespace vertebra
