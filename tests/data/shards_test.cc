// Token shards: what the producers write, that it does not depend on threads, that the held-out
// split is stable, and that no damage to a file goes unnoticed or crashes.
#include "data/shards.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "base/rng.h"
#include "data/produce_shards.h"
#include "tests/data/test_files.h"

namespace vertebra {
namespace {

using testing::error_of;
using testing::expect_contains;
using testing::TestFolder;

// Bytes as ids, so that tokens can be compared with texts.
std::vector<int32_t> encode_bytes(std::string_view text) {
  std::vector<int32_t> out;
  for (const char c : text) out.push_back(static_cast<unsigned char>(c));
  return out;
}

constexpr int32_t kEnd = 256, kBegin = 257;

std::string jsonl(int count, int first = 0) {
  std::string out;
  for (int i = first; i < first + count; ++i)
    out += fmt::format("{{\"text\": \"document {} {}\"}}\n", i,
                       std::string(static_cast<size_t>(i * 37 % 91), 'z'));
  return out;
}

ShardOptions options_for(const std::filesystem::path& folder) {
  ShardOptions options;
  options.folder = folder;
  options.vocab_size = 258;
  options.end_of_text = kEnd;
  options.validation_share = 0.2;
  options.shard_tokens = 4000;
  options.tokenizer_digest = "d1";
  return options;
}

ShardReport write(const std::filesystem::path& input, const ShardOptions& options, int threads = 1) {
  DocumentReader reader(input);
  ThreadTeam team(threads);
  return write_pretraining_shards(
      reader, [](std::string_view text) { return encode_bytes(text); }, options, team);
}

std::vector<std::string> documents_of(const ShardSet& set, Split split) {
  std::vector<std::string> out;
  const ShardSplit& tokens = set.split(split);
  for (int64_t d = 0; d < tokens.documents(); ++d) {
    const int64_t begin = tokens.document_begin(d), end = tokens.document_begin(d + 1);
    std::vector<int32_t> ids(static_cast<size_t>(end - begin));
    tokens.read_tokens(begin, ids);
    EXPECT_EQ(ids.back(), kEnd);
    EXPECT_EQ(tokens.document_of(begin), d);
    EXPECT_EQ(tokens.document_of(end - 1), d);
    out.emplace_back(ids.begin(), ids.end() - 1);
  }
  return out;
}

std::map<std::string, std::string> contents(const std::filesystem::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    out[entry.path().filename().string()] = read_file(entry.path());
  return out;
}

TEST(Shards, EveryDocumentOnceInOneOfTheSplits) {
  const TestFolder folder;
  const auto input = folder.write("in.jsonl", jsonl(300) + jsonl(40, 100));
  const ShardReport report = write(input, options_for(folder / "shards"));
  EXPECT_EQ(report.documents_read, 340);
  EXPECT_EQ(report.duplicates_dropped, 40);
  EXPECT_EQ(report.first_duplicate, input.string() + ":301");

  const ShardSet set(folder / "shards");
  const auto train = documents_of(set, Split::kTrain), validation = documents_of(set, Split::kValidation);
  EXPECT_EQ(train.size() + validation.size(), 300u);
  EXPECT_GT(validation.size(), 30u);
  EXPECT_LT(validation.size(), 90u);
  std::set<std::string> all(train.begin(), train.end());
  all.insert(validation.begin(), validation.end());
  EXPECT_EQ(all.size(), 300u);
  uint64_t bytes = 0;
  for (const std::string& text : train) bytes += text.size();
  EXPECT_EQ(set.counts(Split::kTrain).text_bytes, bytes);
  EXPECT_EQ(set.counts(Split::kTrain).tokens, static_cast<int64_t>(bytes + train.size()));
  EXPECT_EQ(set.counts(Split::kTrain).loss_tokens, set.counts(Split::kTrain).tokens);
  EXPECT_EQ(set.tokenizer_digest(), "d1");
  EXPECT_EQ(set.manifest().results.at("duplicates_dropped"), 40);
  EXPECT_TRUE(std::filesystem::exists(folder / "shards/train-00001.bin"));
}

TEST(Shards, MoreDocumentsNeverMoveOneBetweenSplits) {
  const TestFolder folder;
  write(folder.write("a.jsonl", jsonl(200)), options_for(folder / "a"));
  write(folder.write("b.jsonl", jsonl(203, 1000) + jsonl(200)), options_for(folder / "b"));
  const auto held_out = documents_of(ShardSet(folder / "b"), Split::kValidation);
  const std::set<std::string> later(held_out.begin(), held_out.end());
  for (const std::string& text : documents_of(ShardSet(folder / "a"), Split::kValidation))
    EXPECT_TRUE(later.contains(text)) << text;
  for (const std::string& text : documents_of(ShardSet(folder / "a"), Split::kTrain))
    EXPECT_FALSE(later.contains(text)) << text;
}

TEST(Shards, SameBytesForAnyNumberOfThreads) {
  const TestFolder folder;
  const auto input = folder.write("in.jsonl", jsonl(1500) + jsonl(10));
  write(input, options_for(folder / "one"), 1);
  write(input, options_for(folder / "four"), 4);
  EXPECT_EQ(contents(folder / "one"), contents(folder / "four"));
}

TEST(Shards, BeginOfTextAndWideTokens) {
  const TestFolder folder;
  ShardOptions options = options_for(folder / "shards");
  options.begin_of_text = kBegin;
  options.validation_share = 0;
  write(folder.write("a.txt", "abc"), options);
  std::vector<int32_t> ids(5);
  ShardSet(folder / "shards").split(Split::kTrain).read_tokens(0, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{kBegin, 'a', 'b', 'c', kEnd}));

  options.vocab_size = 70000;
  DocumentReader reader(folder / "a.txt");
  ThreadTeam team(1);
  const auto wide = [](std::string_view) { return std::vector<int32_t>{69999, 3}; };
  write_pretraining_shards(reader, wide, options, team);
  ids.resize(4);
  ShardSet(folder / "shards").split(Split::kTrain).read_tokens(0, ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{kBegin, 69999, 3, kEnd}));
}

TEST(Shards, ConversationsCarryTheirLossMask) {
  const TestFolder folder;
  std::string lines;
  for (const char* text : {"one", "two", "one", "three"}) {
    lines += fmt::format(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{}\"}}, {{\"role\": \"assistant\", "
        "\"content\": "
        "\"ok\"}}]}}\n",
        text);
  }
  const auto render = [](const Conversation& conversation) {
    TokenizedConversation out;
    for (const Message& message : conversation.messages) {
      for (const int32_t id : encode_bytes(message.content)) {
        out.tokens.push_back(id);
        out.loss.push_back(message.role == "assistant");
      }
    }
    return out;
  };
  ConversationReader reader(folder.write("in.jsonl", lines));
  ThreadTeam team(2);
  ShardOptions options = options_for(folder / "shards");
  options.validation_share = 0;
  const ShardReport report = write_conversation_shards(reader, render, options, team);
  EXPECT_EQ(report.duplicates_dropped, 1);
  EXPECT_EQ(report.counts[0].documents, 3);
  EXPECT_EQ(report.counts[0].loss_tokens, 6);
  const ShardSet set(folder / "shards");
  EXPECT_TRUE(set.has_loss_mask());
  std::string mask;
  for (int64_t t = 0; t < set.split(Split::kTrain).tokens(); ++t)
    mask += set.split(Split::kTrain).in_loss(t) ? '1' : '0';
  EXPECT_EQ(mask,
            "00011"
            "00011"
            "0000011");
}

TEST(Shards, ErrorsLeaveTheOldFolder) {
  const TestFolder folder;
  write(folder.write("a.jsonl", jsonl(20)), options_for(folder / "shards"));
  const auto before = contents(folder / "shards");
  error_of(Code::kInvalidArgument, [&] {
    write(folder.write("bad.jsonl", jsonl(2000) + "{broken\n"), options_for(folder / "shards"), 2);
  });
  expect_contains(error_of(Code::kInvalidArgument,
                           [&] { write(folder.write("empty.jsonl", "\n"), options_for(folder / "shards")); }),
                  {"no training document"});
  ShardOptions tiny = options_for(folder / "shards");
  tiny.vocab_size = 100;
  tiny.end_of_text = -1;
  expect_contains(error_of(Code::kInternal, [&] { write(folder / "a.jsonl", tiny); }), {"token id", "100"});
  EXPECT_EQ(contents(folder / "shards"), before);
}

TEST(Shards, FullDiskIsReported) {
  const TestFolder folder;
  const auto input = folder.write("a.jsonl", jsonl(200));
  set_write_hook_for_testing([](const std::filesystem::path& path, size_t) {
    if (path.filename() == "train-00001.bin") fail(Code::kResourceExhausted, "disk full");
  });
  error_of(Code::kResourceExhausted, [&] { write(input, options_for(folder / "shards")); });
  set_write_hook_for_testing({});
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder / ""), {}), 1)
      << "only the input is left";
}

// Opens the set, reads every token and mask bit.
void read_everything(const std::filesystem::path& folder, bool verify_hashes) {
  const ShardSet set(folder, verify_hashes);
  for (const Split split : {Split::kTrain, Split::kValidation}) {
    const ShardSplit& tokens = set.split(split);
    std::vector<int32_t> ids(static_cast<size_t>(tokens.tokens()));
    tokens.read_tokens(0, ids);
    for (int64_t t = 0; t < tokens.tokens(); ++t) tokens.in_loss(t);
  }
}

TEST(Shards, EveryFlippedBitAndTruncationIsNoticed) {
  const TestFolder folder;
  write(folder.write("a.jsonl", jsonl(12)), options_for(folder / "s"));
  const auto path = folder / "s/train-00000.bin";
  const std::string good = read_file(path);
  read_everything(folder / "s", true);
  for (size_t bit = 0; bit < good.size() * 8; bit += bit < 8 * 64 ? 1 : 101) {
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    folder.write("s/train-00000.bin", bytes);
    const std::string message = error_of(Code::kDataLoss, [&] { read_everything(folder / "s", true); });
    expect_contains(message, {"train-00000.bin"});
    // Without the hashes: the header and borders are still checked, and nothing crashes.
    try {
      read_everything(folder / "s", false);
      EXPECT_GE(bit / 8, 64u) << "a flipped bit in the header went unnoticed";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::kDataLoss) << error.what();
    }
  }
  for (size_t size = 0; size < good.size(); size += size < 100 ? 1 : 97) {
    folder.write("s/train-00000.bin", good.substr(0, size));
    error_of(Code::kDataLoss, [&] { read_everything(folder / "s", false); });
  }
  folder.write("s/train-00000.bin", good + "x");
  error_of(Code::kDataLoss, [&] { read_everything(folder / "s", false); });
  folder.write("s/train-00000.bin", good);
  read_everything(folder / "s", false);
  std::filesystem::remove(path);
  EXPECT_THROW(read_everything(folder / "s", false), Error);
  EXPECT_THROW(ShardSet(folder / "nothing"), Error);
}

// A header whose own hash is right but whose numbers are not: nothing is believed without a look.
TEST(Shards, LyingHeaderWithARightHash) {
  const TestFolder folder;
  write(folder.write("a.jsonl", jsonl(12)), options_for(folder / "s"));
  const auto path = folder / "s/train-00000.bin";
  const std::string good = read_file(path);
  const uint64_t values[] = {0,           1, 2, 5, 0xFFFF, 0xFFFFFFFFu, uint64_t{1} << 39, uint64_t{1} << 61,
                             ~uint64_t{0}};
  for (const auto& [offset, size] :
       {std::pair<size_t, size_t>{8, 4}, {12, 4}, {16, 4}, {20, 4}, {24, 8}, {32, 8}, {40, 8}, {56, 8}}) {
    for (const uint64_t value : values) {
      std::string bytes = good;
      std::memcpy(bytes.data() + offset, &value, size);
      const uint64_t hash = stream_id(std::string_view(bytes).substr(0, 48));
      std::memcpy(bytes.data() + 48, &hash, 8);
      if (bytes == good) continue;
      folder.write("s/train-00000.bin", bytes);
      error_of(Code::kDataLoss, [&] { read_everything(folder / "s", false); });
    }
  }
  // Borders that fall, and ids outside the vocabulary.
  for (const size_t offset : {size_t{64}, size_t{72}, size_t{64 + 12 * 8}}) {
    std::string bytes = good;
    std::memset(bytes.data() + offset, 0xFF, 8);
    folder.write("s/train-00000.bin", bytes);
    error_of(Code::kDataLoss, [&] { read_everything(folder / "s", false); });
  }
  std::string bytes = good;
  bytes[bytes.size() - 10] = '\x7F';
  bytes[bytes.size() - 9] = '\x7F';
  folder.write("s/train-00000.bin", bytes);
  expect_contains(error_of(Code::kDataLoss, [&] { read_everything(folder / "s", false); }), {"token id"});
}

TEST(Shards, LyingManifest) {
  const TestFolder folder;
  write(folder.write("a.jsonl", jsonl(60)), options_for(folder / "s"));
  const Json good = read_json_file(folder / "s/manifest.json");
  const auto open_with = [&](const Json& manifest) {
    write_json_file(folder / "s/manifest.json", manifest);
    ShardSet set(folder / "s", false);
  };
  open_with(good);
  Json lie = good;
  lie["results"]["train"]["tokens"] = 5;
  expect_contains(error_of(Code::kDataLoss, [&] { open_with(lie); }), {"manifest.json", "5"});
  lie = good;
  lie["results"]["train"]["shards"] = 1000000000;
  error_of(Code::kDataLoss, [&] { open_with(lie); });
  lie = good;
  lie["results"]["validation"]["shards"] = 0;
  error_of(Code::kDataLoss, [&] { open_with(lie); });
  lie = good;
  lie["results"]["vocab_size"] = 1000;
  error_of(Code::kDataLoss, [&] { open_with(lie); });
  lie = good;
  lie["kind"] = "model";
  error_of(Code::kInvalidArgument, [&] { open_with(lie); });
  lie = good;
  lie["results"].erase("loss_mask");
  error_of(Code::kInvalidArgument, [&] { open_with(lie); });
}

}  // namespace
}  // namespace vertebra
