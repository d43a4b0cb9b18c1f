// Batches: every token once per epoch, labels that never cross a document, resume by step number,
// packing of whole conversations, data-parallel slices and evaluation.
#include "data/loader.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/rng.h"
#include "data/permutation.h"
#include "tests/data/test_files.h"

namespace vertebra {
namespace {

using testing::error_of;
using testing::TestFolder;

constexpr int kVocab = 60000;

// Documents of the given lengths whose tokens count up over the whole split: a token is its own
// position. With a mask, every third position is out of the loss.
std::shared_ptr<const ShardSet> make_set(const TestFolder& folder, const std::vector<int>& lengths,
                                         bool masked) {
  const auto path = folder / "shards";
  std::filesystem::create_directories(path);
  ShardWriter writer(path, kVocab, masked, 1000);
  int32_t token = 0;
  for (const int length : lengths) {
    std::vector<int32_t> tokens;
    std::vector<uint8_t> loss;
    for (int i = 0; i < length; ++i) {
      if (masked) loss.push_back(token % 3 != 0);
      tokens.push_back(token++);
    }
    writer.add(Split::kTrain, tokens, loss, static_cast<uint64_t>(length));
  }
  const auto counts = writer.finish();
  Manifest manifest;
  manifest.kind = "shards";
  manifest.results = {{"vocab_size", kVocab}, {"loss_mask", masked}};
  for (const Split split : {Split::kTrain, Split::kValidation}) {
    const SplitCounts& c = counts[static_cast<size_t>(split)];
    manifest.results[std::string(split_name(split))] = {{"shards", writer.shards(split)},
                                                        {"documents", c.documents},
                                                        {"tokens", c.tokens},
                                                        {"loss_tokens", c.loss_tokens},
                                                        {"text_bytes", c.text_bytes}};
  }
  write_manifest(path, manifest);
  return std::make_shared<const ShardSet>(path);
}

std::vector<int> some_lengths(int count) {
  const Philox random(7, "lengths");
  std::vector<int> out;
  for (int i = 0; i < count; ++i)
    out.push_back(1 + static_cast<int>(random.below(static_cast<uint64_t>(i), 60)));
  return out;
}

std::vector<int> document_numbers(const std::vector<int>& lengths) {
  std::vector<int> out;
  for (size_t d = 0; d < lengths.size(); ++d)
    out.insert(out.end(), static_cast<size_t>(lengths[d]), static_cast<int>(d));
  return out;
}

LoaderOptions stream_options(int rows, int length) {
  LoaderOptions options;
  options.rows = rows;
  options.length = length;
  options.seed = 5;
  return options;
}

bool same(const Batch& a, const Batch& b) {
  return a.tokens == b.tokens && a.labels == b.labels && a.segments == b.segments &&
         a.positions == b.positions && a.loss_tokens == b.loss_tokens;
}

// Checks the rules every batch obeys, and counts each input and each label (tokens are positions).
void check_batch(const Batch& batch, const std::vector<int>& document, bool masked,
                 std::map<int, int>& inputs, std::map<int, int>& labels) {
  int64_t loss_tokens = 0;
  const size_t length = static_cast<size_t>(batch.length);
  for (size_t at = 0; at < batch.tokens.size(); ++at) {
    const bool row_start = at % length == 0;
    if (batch.segments[at] < 0) {
      EXPECT_EQ(batch.tokens[at], 0);
      EXPECT_EQ(batch.labels[at], -1);
      EXPECT_EQ(batch.positions[at], 0);
      continue;
    }
    const int token = batch.tokens[at];
    ++inputs[token];
    if (row_start) {
      EXPECT_EQ(batch.segments[at], 0);
      EXPECT_EQ(batch.positions[at], 0);
    } else if (batch.segments[at] == batch.segments[at - 1]) {
      EXPECT_EQ(token, batch.tokens[at - 1] + 1);
      EXPECT_EQ(document[static_cast<size_t>(token)], document[static_cast<size_t>(token - 1)]);
      EXPECT_EQ(batch.positions[at], batch.positions[at - 1] + 1);
    } else {
      EXPECT_EQ(batch.segments[at], batch.segments[at - 1] + 1);
      EXPECT_EQ(batch.positions[at], 0);
    }
    if (batch.labels[at] >= 0) {
      EXPECT_EQ(batch.labels[at], token + 1);
      EXPECT_EQ(document[static_cast<size_t>(token + 1)], document[static_cast<size_t>(token)]);
      EXPECT_TRUE(!masked || batch.labels[at] % 3 != 0);
      ++labels[batch.labels[at]];
      ++loss_tokens;
    }
  }
  EXPECT_EQ(batch.loss_tokens, loss_tokens);
}

void expect_each_once(const std::map<int, int>& seen, size_t size) {
  EXPECT_EQ(seen.size(), size);
  for (const auto& [token, count] : seen) EXPECT_EQ(count, 1) << token;
}

TEST(Permutation, IsABijectionForEverySize) {
  for (uint64_t size = 1; size < 300; ++size) {
    std::set<uint64_t> seen;
    const Permutation order(size, 3, 4);
    for (uint64_t i = 0; i < size; ++i) {
      ASSERT_LT(order(i), size);
      seen.insert(order(i));
    }
    EXPECT_EQ(seen.size(), size);
  }
  const Permutation huge(uint64_t{1} << 45, 1, 1);
  EXPECT_LT(huge(12345), uint64_t{1} << 45);
}

TEST(Permutation, ShufflesAndDependsOnSeedAndStream) {
  const uint64_t size = 1000;
  const Permutation a(size, 1, 1), b(size, 2, 1), c(size, 1, 2);
  int fixed = 0, same_b = 0, same_c = 0, neighbours = 0;
  for (uint64_t i = 0; i < size; ++i) {
    fixed += a(i) == i;
    same_b += a(i) == b(i);
    same_c += a(i) == c(i);
    neighbours += i > 0 && a(i) == a(i - 1) + 1;
  }
  // One of each is expected by chance; ten has a probability of about 1e-7.
  for (const int count : {fixed, same_b, same_c, neighbours}) EXPECT_LT(count, 10);
}

TEST(BatchLoader, EveryTokenOncePerEpoch) {
  for (const bool masked : {false, true}) {
    const TestFolder folder;
    const auto lengths = some_lengths(40);
    const auto document = document_numbers(lengths);
    const auto set = make_set(folder, lengths, masked);
    LoaderOptions options = stream_options(3, 16);
    options.repeat = false;
    const BatchLoader loader(set, Split::kTrain, options);
    std::map<int, int> inputs, labels;
    for (int64_t step = 0; step < loader.steps_per_epoch(); ++step)
      check_batch(loader.batch(step), document, masked, inputs, labels);
    expect_each_once(inputs, document.size());
    size_t wanted = 0;
    for (size_t t = 1; t < document.size(); ++t)
      wanted += document[t] == document[t - 1] && (!masked || t % 3 != 0);
    expect_each_once(labels, wanted);
    EXPECT_EQ(loader.report().tokens, static_cast<int64_t>(document.size()));
  }
}

TEST(BatchLoader, EpochsAreShuffledDifferentlyAndSeedsToo) {
  const TestFolder folder;
  const auto set = make_set(folder, some_lengths(200), false);
  const auto first_tokens = [&](uint64_t seed, int64_t first_row) {
    LoaderOptions options = stream_options(1, 16);
    options.seed = seed;
    const BatchLoader loader(set, Split::kTrain, options);
    std::vector<int32_t> out;
    for (int64_t step = 0; step < 20; ++step) out.push_back(loader.batch(first_row + step).tokens[0]);
    return out;
  };
  const int64_t rows = BatchLoader(set, Split::kTrain, stream_options(1, 16)).report().rows;
  EXPECT_EQ(first_tokens(1, 0), first_tokens(1, 0));
  EXPECT_NE(first_tokens(1, 0), first_tokens(2, 0));
  EXPECT_NE(first_tokens(1, 0), first_tokens(1, rows));
}

TEST(BatchLoader, AnyStepCanBeReachedDirectlyAndReplicasShareOneBatch) {
  const TestFolder folder;
  const auto set = make_set(folder, some_lengths(50), true);
  for (const Packing packing : {Packing::kStream, Packing::kWhole}) {
    LoaderOptions options = stream_options(4, 32);
    options.packing = packing;
    const BatchLoader whole(set, Split::kTrain, options);
    std::vector<Batch> run;
    for (int64_t step = 0; step < 30; ++step) run.push_back(whole.batch(step));
    EXPECT_GT(whole.epoch_of(29), 1);
    const BatchLoader resumed(set, Split::kTrain, options);
    for (int64_t step = 29; step >= 0; --step)
      EXPECT_TRUE(same(resumed.batch(step), run[static_cast<size_t>(step)]));
    options.rows = 2;
    options.replicas = 2;
    for (int replica = 0; replica < 2; ++replica) {
      options.replica = replica;
      const BatchLoader part(set, Split::kTrain, options);
      for (int64_t step = 0; step < 30; ++step) {
        const Batch batch = part.batch(step);
        const auto begin = run[static_cast<size_t>(step)].tokens.begin() + replica * 64;
        EXPECT_TRUE(std::equal(batch.tokens.begin(), batch.tokens.end(), begin));
      }
    }
  }
}

TEST(BatchLoader, WholeDocumentsArePackedBestFit) {
  const TestFolder folder;
  const std::vector<int> lengths = {6, 7, 4, 3, 12, 2};
  const auto set = make_set(folder, lengths, false);
  LoaderOptions options = evaluation_options(1, 10, Packing::kWhole);
  const BatchLoader loader(set, Split::kTrain, options);
  // Rows: {6, 4}, {7, 3}, {12 cut to 10}, {2}: each takes the longest that fits.
  EXPECT_EQ(loader.report().rows, 4);
  EXPECT_EQ(loader.report().documents_cut, 1);
  EXPECT_EQ(loader.report().tokens_lost, 2);
  EXPECT_EQ(loader.batch(0).tokens, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 13, 14, 15, 16}));
  EXPECT_EQ(loader.batch(0).labels, (std::vector<int32_t>{1, 2, 3, 4, 5, -1, 14, 15, 16, -1}));
  EXPECT_EQ(loader.batch(0).segments, (std::vector<int32_t>{0, 0, 0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(loader.batch(0).positions, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 0, 1, 2, 3}));
  EXPECT_EQ(loader.batch(3).segments, (std::vector<int32_t>{0, 0, -1, -1, -1, -1, -1, -1, -1, -1}));

  options.too_long = TooLong::kDrop;
  const BatchLoader dropping(set, Split::kTrain, options);
  EXPECT_EQ(dropping.report().documents_dropped, 1);
  EXPECT_EQ(dropping.report().tokens_lost, 12);
  EXPECT_EQ(dropping.report().documents, 5);
  options.window = 1;  // no choice: documents stay in order, a row ends where the next does not fit
  EXPECT_EQ(BatchLoader(set, Split::kTrain, options).report().rows, 3);  // {6}, {7}, {4, 3, 2}
}

TEST(BatchLoader, WholePackingSeesEveryDocumentOncePerEpoch) {
  const TestFolder folder;
  const auto lengths = some_lengths(300);
  const auto document = document_numbers(lengths);
  const auto set = make_set(folder, lengths, true);
  LoaderOptions options = stream_options(2, 64);
  options.packing = Packing::kWhole;
  options.repeat = false;
  const BatchLoader loader(set, Split::kTrain, options);
  std::map<int, int> inputs, labels;
  for (int64_t step = 0; step < loader.steps_per_epoch(); ++step)
    check_batch(loader.batch(step), document, true, inputs, labels);
  expect_each_once(inputs, document.size());
  // Best fit over a window wastes little: over 95 % of the places hold a token.
  EXPECT_GT(static_cast<double>(loader.report().tokens),
            0.95 * 64.0 * static_cast<double>(loader.report().rows));
}

TEST(BatchLoader, EvaluationReadsInOrderOnceAndPads) {
  const TestFolder folder;
  const auto lengths = some_lengths(10);
  const auto document = document_numbers(lengths);
  const auto set = make_set(folder, lengths, false);
  const BatchLoader loader(set, Split::kTrain, evaluation_options(4, 16));
  std::map<int, int> inputs, labels;
  int32_t next = 0;
  for (int64_t step = 0; step < loader.steps_per_epoch(); ++step) {
    const Batch batch = loader.batch(step);
    check_batch(batch, document, false, inputs, labels);
    for (size_t at = 0; at < batch.tokens.size(); ++at) {
      if (batch.segments[at] >= 0) {
        EXPECT_EQ(batch.tokens[at], next++);
      }
    }
  }
  EXPECT_EQ(next, static_cast<int32_t>(document.size()));
  EXPECT_EQ(loader.batch(loader.steps_per_epoch()).loss_tokens, 0);
}

TEST(BatchLoader, BadOptions) {
  const TestFolder folder;
  const auto set = make_set(folder, {20, 20}, false);
  error_of(Code::kInvalidArgument, [&] { BatchLoader(set, Split::kTrain, stream_options(0, 16)); });
  error_of(Code::kInvalidArgument, [&] { BatchLoader(set, Split::kTrain, stream_options(1, 1)); });
  error_of(Code::kInvalidArgument, [&] { BatchLoader(set, Split::kTrain, stream_options(1, 16)).batch(-1); });
  error_of(Code::kFailedPrecondition, [&] { BatchLoader(set, Split::kValidation, stream_options(1, 16)); });
  LoaderOptions options = evaluation_options(1, 10, Packing::kWhole);
  options.too_long = TooLong::kDrop;
  error_of(Code::kFailedPrecondition, [&] { BatchLoader(set, Split::kTrain, options); });
  options.replica = 1;
  error_of(Code::kInvalidArgument, [&] { BatchLoader(set, Split::kTrain, options); });
  error_of(Code::kInvalidArgument, [&] { packing_from_name("best"); });
}

}  // namespace
}  // namespace vertebra
