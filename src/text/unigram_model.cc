// One forward pass keeps the best way to reach every byte position; see unigram_model.h.
#include "text/unigram_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "text/unicode.h"

namespace vertebra {
namespace {

// How much worse than the worst token an unknown character is.
constexpr double kUnknownPenalty = 10.0;
// Bytes of the longest path in the trie; bounds its memory and the time per position.
constexpr size_t kMaxTokenBytes = 1 << 12;
constexpr size_t kMaxTrieNodes = size_t{1} << 27;
constexpr uint32_t kNowhere = ~uint32_t{0};  // no path ends here

uint32_t edge_hash(uint32_t node, unsigned char byte) {
  const uint64_t x = (uint64_t{node} << 8 | byte) * 0x9E3779B97F4A7C15ull;
  return static_cast<uint32_t>(x >> 32);
}

}  // namespace

struct UnigramModel::Buffers final : TokenModel::Scratch {
  struct Best {
    double sum;
    int32_t id;      // -1: unknown
    uint32_t begin;  // of the token that ends here
  };
  std::vector<Best> best;
  std::vector<std::pair<uint32_t, int32_t>> path;  // begin and id, last token first
};

std::unique_ptr<TokenModel::Scratch> UnigramModel::make_scratch() const {
  return std::make_unique<Buffers>();
}

UnigramModel::UnigramModel(std::vector<std::string> names, std::vector<double> scores, Options options,
                           const std::string& source)
    : TokenModel(std::move(names), source), scores_(std::move(scores)), options_(std::move(options)) {
  require(scores_.size() == tokens().size(), "{}: {} scores for a vocabulary of {} tokens", source,
          scores_.size(), tokens().size());
  const auto count = static_cast<int32_t>(tokens().size());
  require(!options_.unk_id || (*options_.unk_id >= 0 && *options_.unk_id < count),
          "{}: unk_id {} is not an id of this vocabulary (0 to {})", source, options_.unk_id.value_or(0),
          count - 1);
  id_of_byte_.fill(-1);
  if (options_.byte_fallback) {
    for (int b = 0; b < 256; ++b) {
      if (const auto id = token_id(byte_token_spelling(static_cast<unsigned char>(b)))) id_of_byte_[b] = *id;
    }
  }
  std::vector<uint8_t> reachable(tokens().size(), 1);
  is_user_defined_.assign(tokens().size(), 0);
  for (const int32_t id : options_.unreachable) reachable.at(static_cast<size_t>(id)) = 0;
  for (const int32_t id : options_.user_defined) is_user_defined_.at(static_cast<size_t>(id)) = 1;
  double min_score = std::numeric_limits<double>::max();
  bool any_score = false;
  size_t bytes = 0;
  for (size_t id = 0; id < tokens().size(); ++id) {
    require(std::isfinite(scores_[id]), "{}: the score of token {} ('{}') is not a number", source, id,
            tokens()[id]);
    require(tokens()[id].size() <= kMaxTokenBytes, "{}: token {} has {} bytes; at most {} are accepted",
            source, id, tokens()[id].size(), kMaxTokenBytes);
    bytes += tokens()[id].size();
    if (!reachable[id] || (is_user_defined_[id] && options_.sentencepiece_sums)) continue;
    min_score = std::min(min_score, scores_[id]);
    any_score = true;
  }
  require(bytes < kMaxTrieNodes, "{}: a vocabulary of {} bytes; less than {} is accepted", source, bytes,
          kMaxTrieNodes);
  if (!any_score) min_score = 0;
  unk_score_ = min_score - kUnknownPenalty;
  if (options_.sentencepiece_sums) unk_score_ = static_cast<float>(min_score) - 10.0F;
  edges_.resize(std::bit_ceil(bytes * 2 + 2));
  edge_mask_ = static_cast<uint32_t>(edges_.size() - 1);
  id_at_.assign(1, -1);
  for (size_t id = 0; id < tokens().size(); ++id) {
    if (reachable[id] && !tokens()[id].empty()) insert(tokens()[id], static_cast<int32_t>(id));
  }
}

void UnigramModel::insert(std::string_view text, int32_t id) {
  uint32_t node = 0;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    uint32_t at = edge_hash(node, byte) & edge_mask_;
    while (edges_[at].child != 0 && (edges_[at].node != node || edges_[at].byte != byte))
      at = (at + 1) & edge_mask_;
    if (edges_[at].child == 0) {
      edges_[at] = {node, static_cast<uint32_t>(id_at_.size()), byte};
      id_at_.push_back(-1);
    }
    node = edges_[at].child;
  }
  id_at_[node] = id;
}

uint32_t UnigramModel::child(uint32_t node, unsigned char byte) const {
  for (uint32_t at = edge_hash(node, byte) & edge_mask_; edges_[at].child != 0; at = (at + 1) & edge_mask_) {
    if (edges_[at].node == node && edges_[at].byte == byte) return edges_[at].child;
  }
  return 0;
}

// SentencePiece keeps 32-bit sums of long texts precise so: the sum at `begin` becomes 0, and those behind
// it, up to `end`, follow.
void UnigramModel::keep_sums_small(Buffers& buffers, size_t begin, size_t end) const {
  constexpr float kThreshold = 100000.0F;
  const auto offset = static_cast<float>(buffers.best[begin].sum);
  if (offset >= -kThreshold && offset <= kThreshold) return;
  for (size_t at = begin; at <= end; ++at) {
    Buffers::Best& best = buffers.best[at];
    if (best.begin != kNowhere) best.sum = static_cast<float>(best.sum) - offset;
  }
}

template <class Sum>
void UnigramModel::viterbi(std::string_view piece, Buffers& buffers) const {
  auto& best = buffers.best;
  best.assign(piece.size() + 1, {0, -1, kNowhere});
  best[0].begin = 0;
  size_t frontier = 0;  // the furthest place that a path has reached
  for (size_t begin = 0; begin < piece.size();) {
    const size_t length = decode_utf8(piece.data() + begin, piece.data() + piece.size()).length;
    if (options_.sentencepiece_sums) keep_sums_small(buffers, begin, frontier);
    const Sum so_far = static_cast<Sum>(best[begin].sum);
    bool whole_character = false;
    const auto offer = [&](size_t end, Sum sum, int32_t id) {
      if (best[end].begin == kNowhere || sum > static_cast<Sum>(best[end].sum))
        best[end] = {static_cast<double>(sum), id, static_cast<uint32_t>(begin)};
      frontier = std::max(frontier, end);
    };
    uint32_t node = 0;
    for (size_t at = begin; at < piece.size(); ++at) {
      node = child(node, static_cast<unsigned char>(piece[at]));
      if (node == 0) break;
      const int32_t id = id_at_[node];
      if (id < 0) continue;
      const size_t end = at + 1;
      if (end - begin == length) whole_character = true;
      const double score = options_.sentencepiece_sums && is_user_defined_[id]
                               ? static_cast<float>(0.1 * static_cast<double>(end - begin - 1))
                               : scores_[id];
      offer(end, static_cast<Sum>(score) + so_far, id);
    }
    if (!whole_character) offer(begin + length, static_cast<Sum>(unk_score_) + so_far, -1);
    begin += length;
  }
}

void UnigramModel::append_unknown(std::string_view text, std::vector<int32_t>& ids) const {
  if (options_.byte_fallback &&
      std::ranges::all_of(text, [&](char c) { return id_of_byte_[static_cast<unsigned char>(c)] >= 0; })) {
    for (const char c : text) ids.push_back(id_of_byte_[static_cast<unsigned char>(c)]);
  } else if (options_.unk_id) {
    ids.push_back(*options_.unk_id);
  }
}

void UnigramModel::encode_piece(std::string_view piece, const char*, Scratch& scratch,
                                std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  Buffers& buffers = static_cast<Buffers&>(scratch);
  if (options_.sentencepiece_sums) {
    viterbi<float>(piece, buffers);
  } else {
    viterbi<double>(piece, buffers);
  }
  auto& path = buffers.path;
  path.clear();
  for (size_t end = piece.size(); end > 0; end = path.back().first)
    path.emplace_back(buffers.best[end].begin, buffers.best[end].id);
  for (size_t i = path.size(); i-- > 0;) {
    if (path[i].second >= 0) {
      ids.push_back(path[i].second);
      continue;
    }
    const size_t begin = path[i].first;
    while (options_.fuse_unk && i > 0 && path[i - 1].second < 0) --i;
    const size_t end = i > 0 ? path[i - 1].first : piece.size();
    append_unknown(piece.substr(begin, end - begin), ids);
  }
}

void UnigramModel::write(Json& model) const {
  Json& vocab = model["vocab"] = Json::array();
  for (size_t id = 0; id < tokens().size(); ++id) vocab.push_back(Json::array({tokens()[id], scores_[id]}));
}

}  // namespace vertebra
