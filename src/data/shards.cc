#include "data/shards.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/rng.h"

namespace vertebra {
namespace {

namespace fs = std::filesystem;
static_assert(std::endian::native == std::endian::little, "shards are read in place as little endian");

constexpr char kMagic[8] = {'V', 'T', 'S', 'H', 'A', 'R', 'D', '1'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kHasLossMask = 1;
constexpr int kMaxVocab = 1 << 24;
constexpr uint64_t kMaxCount = uint64_t{1} << 40;  // documents or tokens of a file: keeps sums far from 2^64
constexpr const char* kRemedy = "; make the shards again";

struct Header {
  char magic[8];
  uint32_t version, token_bytes, flags, vocab_size;
  uint64_t documents, tokens, file_size, hash;
  uint64_t reserved;
};
static_assert(sizeof(Header) == 64);

uint64_t hash_of(const Header& header) {
  return stream_id(std::string_view(reinterpret_cast<const char*>(&header), offsetof(Header, hash)));
}

uint64_t padded(uint64_t size) { return (size + 7) / 8 * 8; }

uint64_t expected_size(const Header& header) {
  const uint64_t mask = (header.flags & kHasLossMask) != 0 ? padded((header.tokens + 7) / 8) : 0;
  return sizeof(Header) + (header.documents + 1) * 8 + padded(header.tokens * header.token_bytes) + mask;
}

int bytes_per_token(int vocab_size) { return vocab_size <= 65536 ? 2 : 4; }

std::string shard_name(Split split, int index) {
  return fmt::format("{}-{:05}.bin", split_name(split), index);
}

}  // namespace

ShardWriter::ShardWriter(fs::path folder, int vocab_size, bool has_loss_mask, int64_t shard_tokens)
    : folder_(std::move(folder)),
      vocab_size_(vocab_size),
      token_bytes_(bytes_per_token(vocab_size)),
      has_loss_mask_(has_loss_mask),
      shard_tokens_(shard_tokens) {
  require(vocab_size >= 1 && vocab_size <= kMaxVocab, "vocabulary of {} ids; 1 to {} was wanted", vocab_size,
          kMaxVocab);
  require(shard_tokens >= 1 && shard_tokens <= int64_t{1} << 32, "shard_tokens is {}; 1 to {} was wanted",
          shard_tokens, int64_t{1} << 32);
}

void ShardWriter::add(Split split, std::span<const int32_t> tokens, std::span<const uint8_t> loss,
                      uint64_t text_bytes) {
  require(loss.size() == (has_loss_mask_ ? tokens.size() : 0), Code::kInternal,
          "a document of {} tokens with a loss mask of {}", tokens.size(), loss.size());
  if (tokens.empty()) return;
  Open& open = open_[static_cast<size_t>(split)];
  const auto count = static_cast<int64_t>(tokens.size());
  if (open.offsets.back() > 0 && static_cast<int64_t>(open.offsets.back()) + count > shard_tokens_)
    close(split);

  const size_t old_bytes = open.tokens.size();
  open.tokens.resize(old_bytes + tokens.size() * static_cast<size_t>(token_bytes_));
  char* out = open.tokens.data() + old_bytes;
  for (const int32_t token : tokens) {
    require(token >= 0 && token < vocab_size_, Code::kInternal,
            "token id {} from the tokenizer; its vocabulary has {}", token, vocab_size_);
    std::memcpy(out, &token, static_cast<size_t>(token_bytes_));  // the low bytes: little endian
    out += token_bytes_;
  }
  uint64_t position = open.offsets.back();
  SplitCounts& counts = counts_[static_cast<size_t>(split)];
  if (has_loss_mask_) {
    open.mask.resize((position + tokens.size() + 7) / 8, '\0');
    for (const uint8_t bit : loss) {
      if (bit != 0) {
        open.mask[position / 8] = static_cast<char>(open.mask[position / 8] | (1 << (position % 8)));
        ++counts.loss_tokens;
      }
      ++position;
    }
  } else {
    counts.loss_tokens += count;
  }
  open.offsets.push_back(open.offsets.back() + tokens.size());
  ++counts.documents;
  counts.tokens += count;
  counts.text_bytes += text_bytes;
}

void ShardWriter::close(Split split) {
  Open& open = open_[static_cast<size_t>(split)];
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.token_bytes = static_cast<uint32_t>(token_bytes_);
  header.flags = has_loss_mask_ ? kHasLossMask : 0;
  header.vocab_size = static_cast<uint32_t>(vocab_size_);
  header.documents = open.offsets.size() - 1;
  header.tokens = open.offsets.back();
  header.file_size = expected_size(header);
  header.hash = hash_of(header);
  open.tokens.resize(padded(open.tokens.size()), '\0');
  open.mask.resize(padded(open.mask.size()), '\0');
  AtomicFileWriter writer(folder_ / shard_name(split, open.shards));
  writer.write(&header, sizeof header);
  writer.write(open.offsets.data(), open.offsets.size() * sizeof(uint64_t));
  writer.write(open.tokens);
  writer.write(open.mask);
  VERTEBRA_CHECK(writer.size_bytes() == header.file_size, "the shard's layout and its size disagree");
  writer.commit();
  ++open.shards;
  open.offsets.assign(1, 0);
  open.tokens.clear();
  open.mask.clear();
}

std::array<SplitCounts, kSplits> ShardWriter::finish() {
  for (const Split split : {Split::kTrain, Split::kValidation}) {
    if (open_[static_cast<size_t>(split)].offsets.size() > 1) close(split);
  }
  return counts_;
}

Shard::Shard(const fs::path& path) : name_(path.string()), file_(path) {
  const std::span<const std::byte> bytes = file_.bytes();
  const auto check = [&](bool good, std::string_view what) {
    require(good, Code::kDataLoss, "shard '{}' of {} bytes: {}{}", name_, bytes.size(), what, kRemedy);
  };
  Header header;
  check(bytes.size() >= sizeof header, "shorter than a header");
  std::memcpy(&header, bytes.data(), sizeof header);
  check(std::memcmp(header.magic, kMagic, sizeof kMagic) == 0, "does not begin with VTSHARD1");
  check(header.version == kVersion, fmt::format("version {}, {} was wanted", header.version, kVersion));
  check(header.hash == hash_of(header) && header.reserved == 0, "its header is damaged");
  check(header.vocab_size >= 1 && header.vocab_size <= kMaxVocab, "no sensible vocabulary size");
  check(header.token_bytes == static_cast<uint32_t>(bytes_per_token(static_cast<int>(header.vocab_size))),
        "its token size does not fit its vocabulary");
  check((header.flags & ~kHasLossMask) == 0, "flags this version does not know");
  check(header.documents < kMaxCount && header.tokens < kMaxCount, "counts beyond any file");
  check(header.file_size == expected_size(header) && header.file_size == bytes.size(),
        fmt::format("its header promises {} documents and {} tokens, {} bytes", header.documents,
                    header.tokens, expected_size(header)));

  documents_ = static_cast<int64_t>(header.documents);
  tokens_ = static_cast<int64_t>(header.tokens);
  vocab_size_ = static_cast<int>(header.vocab_size);
  token_bytes_ = static_cast<int>(header.token_bytes);
  offsets_ = reinterpret_cast<const uint64_t*>(bytes.data() + sizeof header);
  data_ = bytes.data() + sizeof header + (header.documents + 1) * 8;
  if ((header.flags & kHasLossMask) != 0) mask_ = data_ + padded(header.tokens * header.token_bytes);
  check(offsets_[0] == 0 && offsets_[documents_] == header.tokens,
        "its document borders do not span its tokens");
  for (int64_t i = 0; i < documents_; ++i)
    check(offsets_[i] < offsets_[i + 1], "its document borders do not rise");
}

void Shard::read_tokens(int64_t begin, std::span<int32_t> out) const {
  VERTEBRA_CHECK(begin >= 0 && begin + static_cast<int64_t>(out.size()) <= tokens_,
                 "tokens outside the shard");
  const std::byte* from = data_ + begin * token_bytes_;
  uint32_t largest = 0;
  if (token_bytes_ == 2) {
    for (size_t i = 0; i < out.size(); ++i) {
      uint16_t token;
      std::memcpy(&token, from + i * 2, 2);
      out[i] = token;
      largest = std::max<uint32_t>(largest, token);
    }
  } else {
    std::memcpy(out.data(), from, out.size() * 4);
    for (const int32_t token : out) largest = std::max(largest, static_cast<uint32_t>(token));
  }
  require(largest < static_cast<uint32_t>(vocab_size_), Code::kDataLoss,
          "shard '{}': token id {} near token {}, the vocabulary has {}{}", name_, largest, begin,
          vocab_size_, kRemedy);
}

bool Shard::in_loss(int64_t position) const {
  return mask_ == nullptr || ((static_cast<unsigned>(mask_[position / 8]) >> (position % 8)) & 1) != 0;
}

ShardSplit::ShardSplit(std::vector<Shard> shards) : shards_(std::move(shards)) {
  for (const Shard& shard : shards_) {
    document_starts_.push_back(document_starts_.back() + shard.documents());
    token_starts_.push_back(token_starts_.back() + shard.tokens());
  }
}

namespace {

// The last entry of `starts` (rising, shards never empty) that is not above `value`.
size_t shard_at(const std::vector<int64_t>& starts, int64_t value) {
  return static_cast<size_t>(std::upper_bound(starts.begin(), starts.end(), value) - starts.begin()) - 1;
}

}  // namespace

int64_t ShardSplit::document_begin(int64_t document) const {
  VERTEBRA_CHECK(document >= 0 && document <= documents(), "no such document");
  if (document == documents()) return tokens();
  const size_t shard = shard_at(document_starts_, document);
  return token_starts_[shard] +
         static_cast<int64_t>(
             shards_[shard].offsets()[static_cast<size_t>(document - document_starts_[shard])]);
}

int64_t ShardSplit::document_of(int64_t token) const {
  VERTEBRA_CHECK(token >= 0 && token < tokens(), "no such token");
  const size_t shard = shard_at(token_starts_, token);
  const auto offsets = shards_[shard].offsets();
  const auto local = static_cast<uint64_t>(token - token_starts_[shard]);
  return document_starts_[shard] +
         (std::upper_bound(offsets.begin(), offsets.end(), local) - offsets.begin()) - 1;
}

void ShardSplit::read_tokens(int64_t begin, std::span<int32_t> out) const {
  while (!out.empty()) {
    VERTEBRA_CHECK(begin >= 0 && begin < tokens(), "tokens outside the split");
    const size_t shard = shard_at(token_starts_, begin);
    const auto part =
        static_cast<size_t>(std::min(static_cast<int64_t>(out.size()), token_starts_[shard + 1] - begin));
    shards_[shard].read_tokens(begin - token_starts_[shard], out.first(part));
    out = out.subspan(part);
    begin += static_cast<int64_t>(part);
  }
}

bool ShardSplit::in_loss(int64_t token) const {
  const size_t shard = shard_at(token_starts_, token);
  return shards_[shard].in_loss(token - token_starts_[shard]);
}

ShardSet::ShardSet(const fs::path& folder, bool verify_hashes) : manifest_(read_manifest(folder)) {
  const std::string name = (folder / "manifest.json").string();
  require(manifest_.kind == "shards", "'{}' is of kind '{}', shards were wanted", folder.string(),
          manifest_.kind);
  vocab_size_ = json_get<int>(manifest_.results, "vocab_size", name);
  has_loss_mask_ = json_get<bool>(manifest_.results, "loss_mask", name);
  if (const auto it = manifest_.inputs.find("tokenizer"); it != manifest_.inputs.end())
    tokenizer_digest_ = it->second;
  if (verify_hashes) {
    const auto damage = find_damage(folder, manifest_);
    require(!damage.has_value(), Code::kDataLoss, "{}{}", damage.value_or(""), kRemedy);
  }
  size_t found_files = 0;
  for (const Split split : {Split::kTrain, Split::kValidation}) {
    const auto s = static_cast<size_t>(split);
    const std::string split_key(split_name(split));
    const Json counts = json_get<Json>(manifest_.results, split_key, name);
    counts_[s] = {json_get<int64_t>(counts, "documents", name), json_get<int64_t>(counts, "tokens", name),
                  json_get<int64_t>(counts, "loss_tokens", name),
                  json_get<uint64_t>(counts, "text_bytes", name)};
    const int shard_count = json_get<int>(counts, "shards", name);
    require(shard_count >= 0 && static_cast<size_t>(shard_count) <= manifest_.files.size(), Code::kDataLoss,
            "'{}' speaks of {} shards but lists {} files{}", name, shard_count, manifest_.files.size(),
            kRemedy);
    std::vector<Shard> shards;
    for (int i = 0; i < shard_count; ++i) {
      const fs::path path = folder / shard_name(split, i);
      const auto listed = manifest_.files.find(shard_name(split, i));
      require(listed != manifest_.files.end(), Code::kDataLoss, "'{}' does not list '{}'{}", name,
              shard_name(split, i), kRemedy);
      const Shard& shard = shards.emplace_back(path);
      require(fs::file_size(path) == listed->second.size_bytes, Code::kDataLoss,
              "'{}' is not the file of {} bytes its manifest lists{}", path.string(),
              listed->second.size_bytes, kRemedy);
      require(shard.vocab_size() == vocab_size_ && shard.has_loss_mask() == has_loss_mask_, Code::kDataLoss,
              "'{}' has another vocabulary or loss mask than '{}' says{}", path.string(), name, kRemedy);
      ++found_files;
    }
    splits_[s] = ShardSplit(std::move(shards));
    require(splits_[s].documents() == counts_[s].documents && splits_[s].tokens() == counts_[s].tokens,
            Code::kDataLoss, "'{}' says {} {} documents with {} tokens, its shards hold {} with {}{}", name,
            counts_[s].documents, split_key, counts_[s].tokens, splits_[s].documents(), splits_[s].tokens(),
            kRemedy);
  }
  require(found_files == manifest_.files.size(), Code::kDataLoss,
          "'{}' lists {} files, its counts speak of {}{}", name, manifest_.files.size(), found_files,
          kRemedy);
}

}  // namespace vertebra
