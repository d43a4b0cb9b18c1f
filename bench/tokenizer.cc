// Byte-level BPE: training and encoding, best of several rounds, beside what tiktoken and
// Hugging Face tokenizers do with the same text, vocabulary and pattern (bench/peers/tokenizer.py, which also
// checks that ids and merges are equal).
//   bench_tokenizer [--json] [--threads N] [--vocab N] [--pattern gpt2|llama3|qwen2|smollm] [--rounds N]
//   TEXT_FILE
// Training takes every line as a document, as the peer does; encoding takes the text whole, on one thread.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "bench/options.h"
#include "text/bpe_trainer.h"

namespace vertebra {
namespace {

struct Options {
  bool json = false;
  int threads = default_thread_count();
  int vocab_size = 32'768;
  int rounds = 5;
  std::string pattern = "gpt2";
  std::string text_file;
};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Tokenizer train(std::string_view text, const Options& options, ThreadTeam& team) {
  BpeTrainerOptions training;
  training.vocab_size = options.vocab_size;
  training.pattern = options.pattern;
  training.special_tokens = {"<|endoftext|>"};
  training.threads = &team;
  size_t at = 0;
  return train_bpe(
      [&]() -> std::optional<std::string_view> {
        if (at == text.size()) return std::nullopt;
        const size_t newline = text.find('\n', at);
        const size_t end = newline == text.npos ? text.size() : newline + 1;
        const std::string_view line = text.substr(at, end - at);
        at = end;
        return line;
      },
      training);
}

// What the Python script prints, or null when it cannot run.
Json run_peer(const Options& options, const std::filesystem::path& folder) {
  const auto script = std::filesystem::path(VERTEBRA_SOURCE_DIR) / "bench/peers/tokenizer.py";
  const std::string command =
      fmt::format("python3 '{}' '{}' '{}' --pattern {} --vocab {} --threads {} --rounds {}", script.string(),
                  options.text_file, folder.string(), options.pattern, options.vocab_size, options.threads,
                  options.rounds);
  std::string output;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char buffer[4096];
    while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, n);
    if (pclose(pipe) == 0) return parse_json(output, script.string());
  }
  fmt::print(stderr, "SKIPPED: the peers; install them with: pip install tokenizers tiktoken\n");
  return nullptr;
}

void print_figure(const Options& options, const char* name, double value, const char* unit, int threads) {
  if (options.json) {
    const Json line = {{"name", name},
                       {"value", value},
                       {"unit", unit},
                       {"ceiling", nullptr},
                       {"share", nullptr},
                       {"threads", threads},
                       {"isa", nullptr},
                       {"device", "cpu"},
                       {"model", fmt::format("bpe-{}-{}", options.pattern, options.vocab_size)}};
    fmt::print("{}\n", json_line(line));
  } else {
    fmt::print("{:<44}{:>10.2f} {:<5} {} thread{}\n", name, value, unit, threads, threads == 1 ? "" : "s");
  }
}

void print_peer(const Options& options, const Json& peer, double train_s, double encode_mb_s) {
  const auto figure = [&](const char* key) { return json_get<double>(peer, key, "peer", 0.0); };
  if (const double hf = figure("tokenizers_train_s"); hf > 0) {
    print_figure(options, "peer.tokenizers.train", hf, "s", options.threads);
    print_figure(options, "tokenizer.train / peer.tokenizers", hf / train_s, "x", options.threads);
  }
  if (const double hf = figure("tokenizers_encode_mb_s"); hf > 0) {
    print_figure(options, "peer.tokenizers.encode", hf, "MB/s", 1);
    print_figure(options, "tokenizer.encode / peer.tokenizers", encode_mb_s / hf, "x", 1);
  }
  if (const double tiktoken = figure("tiktoken_encode_mb_s"); tiktoken > 0) {
    print_figure(options, "peer.tiktoken.encode", tiktoken, "MB/s", 1);
    print_figure(options, "tokenizer.encode / peer.tiktoken", encode_mb_s / tiktoken, "x", 1);
  }
  for (const char* key : {"tiktoken_ids_equal", "tokenizers_merges_equal"}) {
    if (peer.contains(key)) print_figure(options, key, json_get<bool>(peer, key, "peer") ? 1 : 0, "bool", 1);
  }
}

void run(const Options& options) {
  ThreadTeam team(options.threads);
  const std::string text = read_file(options.text_file);
  double train_s = 1e30, encode_s = 1e30;
  std::optional<Tokenizer> tokenizer;
  for (int round = 0; round < options.rounds; ++round) {
    const double start = seconds();
    tokenizer = train(text, options, team);
    train_s = std::min(train_s, seconds() - start);
  }
  std::vector<int32_t> ids;
  for (int round = 0; round < options.rounds; ++round) {
    const double start = seconds();
    ids = tokenizer->encode(text);
    encode_s = std::min(encode_s, seconds() - start);
  }
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  double decode_s = seconds();
  require(tokenizer->decode(ids) == text, Code::kInternal, "decode does not give the text back");
  decode_s = seconds() - decode_s;

  print_figure(options, "tokenizer.train", train_s, "s", options.threads);
  print_figure(options, "tokenizer.encode", megabytes / encode_s, "MB/s", 1);
  print_figure(options, "tokenizer.decode", megabytes / decode_s, "MB/s", 1);
  const auto folder = std::filesystem::temp_directory_path() /
                      fmt::format("vertebra_bench_tokenizer_{}", static_cast<int>(getpid()));
  std::filesystem::create_directories(folder);
  tokenizer->save(folder);
  write_file_atomic(folder / "ids.bin",
                    {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)});
  const Json peer = run_peer(options, folder);
  std::filesystem::remove_all(folder);
  if (!peer.is_null()) print_peer(options, peer, train_s, megabytes / encode_s);
}

}  // namespace
}  // namespace vertebra

int main(int argc, char** argv) {
  using namespace vertebra;
  CLI::App app("Byte-level BPE beside tiktoken and Hugging Face tokenizers", "bench_tokenizer");
  Options options;
  app.add_option("text", options.text_file, "A text file, twenty megabytes of prose, say")->required();
  bench::add_json_and_threads(app, options.json, options.threads);
  bench::add_rounds(app, options.rounds);
  app.add_option("--vocab", options.vocab_size)->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--pattern", options.pattern)->capture_default_str();
  return bench::bench_main(app, argc, argv, [&] { run(options); });
}
