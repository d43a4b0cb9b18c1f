// A piece is looked up whole first (nine in ten are one token), then in a small cache, then merged:
// by scanning an array when short, with a heap when long. SentencePiece text, which comes as one piece, is
// cut into words first where no merge can reach across. See bpe_model.h.
#include "text/bpe_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "text/byte_level.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

constexpr size_t kKeyBytes = 15;                // longest piece that fits a PieceKey
constexpr size_t kShortSymbols = 48;            // up to here rescanning an array beats a heap
constexpr size_t kMaxMerges = size_t{1} << 26;  // what a hostile vocabulary may make us build
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

struct BpeModel::Buffers final : TokenModel::Scratch {
  struct CacheSlot {
    PieceKey key;
    int32_t count = 0;
    int32_t ids[kCachedIds];
  };
  static_assert(sizeof(CacheSlot) == 64);
  std::vector<CacheSlot> cache = std::vector<CacheSlot>(kCacheSlots);
  std::vector<int32_t> symbols;
  struct {
    std::vector<int32_t> previous, next, result;
    std::vector<uint32_t> rank;
    std::vector<uint64_t> heap;
  } lists;
};

std::unique_ptr<TokenModel::Scratch> BpeModel::make_scratch() const { return std::make_unique<Buffers>(); }

BpeModel::BpeModel(std::vector<std::string> tokens, std::vector<Merge> merges, Options options,
                   const std::string& source)
    : BpeModel(std::move(tokens), std::move(merges), {}, {}, std::move(options), source) {}

BpeModel::BpeModel(std::vector<std::string> tokens, std::vector<Merge> merges, std::vector<uint32_t> ranks,
                   std::vector<std::string> bare_characters, Options options, const std::string& source)
    : TokenModel(std::move(tokens), source),
      merges_(std::move(merges)),
      ranks_(std::move(ranks)),
      bare_characters_(std::move(bare_characters)),
      options_(std::move(options)) {
  id_of_byte_.fill(-1);
  if (options_.unk_token) unk_id_ = required_id(*options_.unk_token, "unk_token", source);
  build_characters(source);
  build_pairs(source);
  build_word_breaks();
  build_pieces();
}

void BpeModel::build_characters(const std::string& source) {
  if (options_.alphabet == Alphabet::kBytes || options_.byte_fallback) {
    for (int b = 0; b < 256; ++b) {
      const char byte = static_cast<char>(b);
      const auto id = token_id(options_.alphabet == Alphabet::kBytes
                                   ? spell_bytes({&byte, 1})
                                   : byte_token_spelling(static_cast<unsigned char>(b)));
      if (id) id_of_byte_[b] = *id;
    }
  }
  for (size_t i = 0; i < bare_characters_.size(); ++i) {
    id_of_bare_character_.emplace(bare_characters_[i], static_cast<int32_t>(tokens().size() + i));
  }
  for (const int32_t id : options_.user_defined) {
    require(id >= 0 && static_cast<size_t>(id) < tokens().size() && !tokens()[id].empty(),
            "{}: the user-defined token {} is not in the vocabulary", source, id);
    user_defined_.add(tokens()[id], static_cast<size_t>(id));
  }
}

int BpeModel::missing_bytes() const {
  return unk_id_ >= 0 || options_.alphabet == Alphabet::kCharacters
             ? 0
             : static_cast<int>(std::ranges::count(id_of_byte_, -1));
}

std::unique_ptr<const BpeModel> BpeModel::from_scores(std::vector<std::string> tokens,
                                                      const std::vector<float>& scores,
                                                      const std::vector<uint8_t>& may_merge, Options options,
                                                      const std::string& source) {
  require(scores.size() == tokens.size() && may_merge.size() == tokens.size(),
          "{}: {} scores for a vocabulary of {} tokens", source, scores.size(), tokens.size());
  options.alphabet = Alphabet::kCharacters;
  std::unordered_map<std::string_view, int32_t> ids;
  ids.reserve(tokens.size());
  std::vector<int32_t> by_score;
  for (size_t id = 0; id < tokens.size(); ++id) {
    require(!std::isnan(scores[id]), "{}: the score of token {} is not a number", source, id);
    if (may_merge[id] == 0 || tokens[id].empty()) continue;
    ids.emplace(tokens[id], static_cast<int32_t>(id));
    by_score.push_back(static_cast<int32_t>(id));
  }
  std::ranges::sort(
      by_score, [&](int32_t a, int32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  // A character that is no token can still be half of one.
  std::vector<std::string> bare;
  std::unordered_map<std::string, int32_t> bare_ids;
  const auto half = [&](std::string_view text) -> int32_t {
    if (const auto it = ids.find(text); it != ids.end()) return it->second;
    const Utf8Char c = decode_utf8(text.data(), text.data() + text.size());
    if (static_cast<size_t>(c.length) != text.size()) return -1;
    const auto [it, fresh] =
        bare_ids.try_emplace(std::string(text), static_cast<int32_t>(tokens.size() + bare.size()));
    if (fresh) bare.emplace_back(text);
    return it->second;
  };
  std::vector<Merge> merges;
  std::vector<uint32_t> ranks;
  for (size_t i = 0; i < by_score.size(); ++i) {
    const std::string_view text = tokens[by_score[i]];
    const bool tie = i > 0 && scores[by_score[i]] == scores[by_score[i - 1]];
    const uint32_t rank = ranks.empty() ? 0 : ranks.back() + (tie ? 0 : 1);
    for (size_t at = 0; at < text.size();) {
      at += decode_utf8(text.data() + at, text.data() + text.size()).length;
      if (at >= text.size()) break;
      const int32_t left = half(text.substr(0, at)), right = half(text.substr(at));
      if (left < 0 || right < 0) continue;
      require(merges.size() < kMaxMerges, "{}: the vocabulary has more than {} ways to merge", source,
              kMaxMerges);
      merges.push_back({left, right, by_score[i]});
      ranks.push_back(rank);
    }
  }
  return std::unique_ptr<const BpeModel>(new BpeModel(std::move(tokens), std::move(merges), std::move(ranks),
                                                      std::move(bare), std::move(options), source));
}

void BpeModel::write(Json& model) const {
  model["vocab"] = vocabulary_object();
  Json& list = model["merges"] = Json::array();
  const auto count = static_cast<int32_t>(tokens().size());
  for (const Merge& merge : merges_) {
    if (merge.left >= count || merge.right >= count) continue;  // of a character without a token
    if (options_.merges_as_pairs) {
      list.push_back(Json::array({tokens()[merge.left], tokens()[merge.right]}));
    } else {
      list.push_back(tokens()[merge.left] + " " + tokens()[merge.right]);
    }
  }
}

void BpeModel::build_pairs(const std::string& source) {
  const uint64_t size = std::bit_ceil(merges_.size() * 2 + 2);
  pairs_.assign(size, {});
  pair_mask_ = size - 1;
  const auto is_token = [&](int32_t id) {
    return id >= 0 && static_cast<size_t>(id) < tokens().size() + bare_characters_.size() &&
           (static_cast<size_t>(id) >= tokens().size() || !tokens()[id].empty());
  };
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    const Merge& merge = merges_[rank];
    require(is_token(merge.left) && is_token(merge.right) && is_token(merge.result),
            "{}: merge {} names ids ({}, {}, {}) that are not all in the vocabulary", source, rank,
            merge.left, merge.right, merge.result);
    const uint64_t pair = pair_of(merge.left, merge.right);
    uint64_t at = mix(pair) & pair_mask_;
    while (pairs_[at].pair != ~uint64_t{0} && pairs_[at].pair != pair) at = (at + 1) & pair_mask_;
    // Of two equal merges the last counts.
    pairs_[at] = {pair, ranks_.empty() ? static_cast<uint32_t>(rank) : ranks_[rank], merge.result};
  }
}

void BpeModel::build_word_breaks() {
  breaks_words_ = options_.alphabet == Alphabet::kCharacters && !options_.ignore_merges &&
                  options_.continuing_prefix.empty() && options_.end_of_word_suffix.empty() &&
                  token_id(kSpaceSymbol).has_value();
  if (!breaks_words_) return;
  for (const std::string& token : tokens()) {
    for (size_t at = token.find(kSpaceSymbol, 1); at != token.npos; at = token.find(kSpaceSymbol, at + 1)) {
      const size_t before = last_utf8_char(std::string_view(token).substr(0, at));
      joins_space_.insert(token.substr(before, at - before));
    }
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
  piece_mask_ = std::bit_ceil(tokens().size() * 2 + 2) - 1;
  pieces_.assign(piece_mask_ + 1, {});
  Buffers buffers;
  std::vector<int32_t> ids;
  std::vector<std::pair<std::string, int32_t>> long_tokens;
  for (size_t id = 0; id < tokens().size(); ++id) {
    const auto bytes =
        options_.alphabet == Alphabet::kBytes ? unspell_bytes(tokens()[id]) : std::optional(tokens()[id]);
    if (!bytes || bytes->empty()) continue;
    if (!options_.ignore_merges) {
      ids.clear();
      merge_piece(*bytes, buffers, ids);
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
  Buffers& buffers = static_cast<Buffers&>(scratch);
  if (!breaks_words_) {
    encode_word(piece, buffer_end, buffers, ids);
    return;
  }
  size_t begin = 0;
  for (size_t at = piece.find(kSpaceSymbol, 1); at < piece.size(); at = piece.find(kSpaceSymbol, at + 1)) {
    const std::string_view before = piece.substr(0, at).substr(last_utf8_char(piece.substr(0, at)));
    if (before == kSpaceSymbol || joins_space_.contains(std::string(before))) continue;
    encode_word(piece.substr(begin, at - begin), buffer_end, buffers, ids);
    begin = at;
  }
  encode_word(piece.substr(begin), buffer_end, buffers, ids);
}

void BpeModel::encode_word(std::string_view piece, const char* buffer_end, Buffers& buffers,
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
    merge_piece(piece, buffers, ids);
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
  Buffers::CacheSlot& slot = buffers.cache[hash % kCacheSlots];
  if (slot.key == key) {
    ids.insert(ids.end(), slot.ids, slot.ids + slot.count);
    return;
  }
  const size_t first = ids.size();
  merge_piece(piece, buffers, ids);
  if (ids.size() - first <= kCachedIds) {
    slot.key = key;
    slot.count = static_cast<int32_t>(ids.size() - first);
    std::copy(ids.begin() + static_cast<ptrdiff_t>(first), ids.end(), slot.ids);
  }
}

void BpeModel::initial_symbols(std::string_view piece, std::vector<int32_t>& symbols) const {
  symbols.clear();
  if (options_.alphabet == Alphabet::kCharacters) {
    initial_characters(piece, symbols);
    return;
  }
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

// The token of one character, or its bytes; false where there is neither.
bool BpeModel::character_symbols(std::string_view character, std::vector<int32_t>& symbols) const {
  if (const auto id = token_id(character)) {
    symbols.push_back(*id);
    return true;
  }
  if (const auto it = id_of_bare_character_.find(character); it != id_of_bare_character_.end()) {
    symbols.push_back(it->second);
    return true;
  }
  if (!options_.byte_fallback) return false;
  for (const char c : character) {
    if (id_of_byte_[static_cast<unsigned char>(c)] < 0) return false;
  }
  for (const char c : character) symbols.push_back(id_of_byte_[static_cast<unsigned char>(c)]);
  return true;
}

void BpeModel::initial_characters(std::string_view piece, std::vector<int32_t>& symbols) const {
  const bool affixes = !options_.continuing_prefix.empty() || !options_.end_of_word_suffix.empty();
  bool after_unk = false;
  std::string spelled;
  for (size_t at = 0; at < piece.size();) {
    if (const auto match = user_defined_.match_at(piece, at)) {
      symbols.push_back(static_cast<int32_t>(match->index));
      at = match->end;
      after_unk = false;
      continue;
    }
    const size_t length = decode_utf8(piece.data() + at, piece.data() + piece.size()).length;
    std::string_view character = piece.substr(at, length);
    if (affixes) {
      spelled = at > 0 ? options_.continuing_prefix : std::string();
      spelled += character;
      if (at + length == piece.size()) spelled += options_.end_of_word_suffix;
      character = spelled;
    }
    at += length;
    if (character_symbols(character, symbols)) {
      after_unk = false;
    } else if (unk_id_ >= 0 && !(after_unk && options_.fuse_unk)) {
      symbols.push_back(unk_id_);
      after_unk = true;
    }
  }
}

void BpeModel::append_final(const int32_t* symbols, size_t count, std::vector<int32_t>& ids) const {
  if (bare_characters_.empty()) {
    ids.insert(ids.end(), symbols, symbols + count);
    return;
  }
  bool after_unk = false;
  for (size_t i = 0; i < count; ++i) {
    const size_t bare = static_cast<size_t>(symbols[i]) - tokens().size();
    if (symbols[i] < static_cast<int32_t>(tokens().size())) {
      ids.push_back(symbols[i]);
      after_unk = symbols[i] == unk_id_;
      continue;
    }
    const std::string& character = bare_characters_[bare];
    const bool bytes = options_.byte_fallback && std::ranges::all_of(character, [&](char c) {
                         return id_of_byte_[static_cast<unsigned char>(c)] >= 0;
                       });
    if (bytes) {
      for (const char c : character) ids.push_back(id_of_byte_[static_cast<unsigned char>(c)]);
      after_unk = false;
    } else if (unk_id_ >= 0 && !(after_unk && options_.fuse_unk)) {
      ids.push_back(unk_id_);
      after_unk = true;
    }
  }
}

void BpeModel::merge_piece(std::string_view piece, Buffers& scratch, std::vector<int32_t>& ids) const {
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
  append_final(symbols.data(), n, ids);
}

// A linked list over the symbols and a heap of (rank, position); an entry counts only while it still
// is the rank of the pair at its position.
void BpeModel::merge_long(std::vector<int32_t>& symbols, Buffers& buffers, std::vector<int32_t>& ids) const {
  const auto n = static_cast<int32_t>(symbols.size());
  auto& [previous, next, result, rank, heap] = buffers.lists;
  previous.resize(n);
  next.resize(n);
  rank.resize(n);
  result.resize(n);
  heap.clear();
  for (int32_t i = 0; i < n; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1 < n ? i + 1 : -1;
    const PairSlot* slot = i + 1 < n ? find_pair(symbols[i], symbols[i + 1]) : nullptr;
    rank[i] = slot == nullptr ? kNoRank : slot->rank;
    result[i] = slot == nullptr ? 0 : slot->result;
    if (slot != nullptr) heap.push_back(uint64_t{slot->rank} << 32 | static_cast<uint32_t>(i));
  }
  const auto later = std::greater<uint64_t>();
  std::make_heap(heap.begin(), heap.end(), later);
  const auto look_up = [&](int32_t i) {
    const PairSlot* slot = next[i] >= 0 ? find_pair(symbols[i], symbols[next[i]]) : nullptr;
    rank[i] = slot == nullptr ? kNoRank : slot->rank;
    result[i] = slot == nullptr ? 0 : slot->result;
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
    symbols[at] = result[at];
    next[at] = next[gone];
    if (next[at] >= 0) previous[next[at]] = at;
    rank[gone] = kNoRank;
    look_up(at);
    if (previous[at] >= 0) look_up(previous[at]);
  }
  size_t count = 0;
  for (int32_t i = 0; i >= 0; i = next[i]) symbols[count++] = symbols[i];
  append_final(symbols.data(), count, ids);
}

}  // namespace vertebra
