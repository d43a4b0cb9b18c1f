// `vertebra bench` beside llama.cpp's programs on the same GGUF files, in turn, medians of the rounds and
// their ratio: prompts of 512 tokens, answers of 128 to one request, several requests at once, and the time
// to the first token with the most memory a process held.
//   bench_llama_cpp FILE.gguf... [--programs DIR] [--vertebra PROGRAM] [--threads N] [--rounds N]
//                   [--streams N] [--busy] [--only PART] [--json]
// --programs: where llama-bench lies; default: what tools/peers/llama-cpp built. --busy: while another
// process takes one core, beside the same without it.
#include <fmt/format.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "bench/child.h"
#include "bench/figure.h"
#include "bench/options.h"

namespace vertebra::bench {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> files;
  std::string programs, vertebra;
  CommonOptions common;
  int streams = 8;
  bool busy = false;
};

// One figure of both sides. More is better, unless `smaller`.
struct Comparison {
  std::string name, unit;
  std::function<double()> ours, peers;
  bool smaller = false;
  double share = 0;  // of our own measured ceiling; 0: none
};

class LlamaCppBench {
 public:
  explicit LlamaCppBench(Options options) : options_(std::move(options)) {
    options_.common.rounds = std::max(1, options_.common.rounds);
    if (options_.vertebra.empty())
      options_.vertebra =
          (fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "vertebra").string();
    if (options_.programs.empty()) options_.programs = built_programs();
    require(fs::exists(program("llama-bench")), Code::kNotFound,
            "{} is not there; tools/peers/llama-cpp builds it, or --programs names another folder",
            program("llama-bench"));
  }

  void run() {
    for (const std::string& file : options_.files) {
      require(fs::is_regular_file(file), Code::kNotFound, "{} is no file", file);
      model(file);
    }
  }

 private:
  static std::string built_programs() {
    std::string out = run_child({VERTEBRA_SOURCE_DIR "/tools/peers/llama-cpp", "--where"}).output;
    while (!out.empty() && out.back() == '\n') out.pop_back();
    return out;
  }
  std::string program(const char* name) const { return (fs::path(options_.programs) / name).string(); }
  std::string threads() const { return std::to_string(options_.common.threads); }

  // The first line of `vertebra bench`; its share of the ceiling goes to `share`.
  double our_figure(const std::string& name, const std::string& file, const std::vector<std::string>& more,
                    double* share) const {
    std::vector<std::string> arguments = {options_.vertebra, "bench",   name,    file,
                                          "--threads",       threads(), "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const std::string output = run_child(std::move(arguments)).output;
    const Json line = parse_json(output.substr(0, output.find('\n')), "the output of vertebra bench");
    if (share != nullptr && !line["share"].is_null())
      *share = json_get<double>(line, "share", "vertebra bench");
    return json_get<double>(line, "value", "vertebra bench");
  }

  double llama_bench(const std::string& file, int prompt, int answer) {
    const std::string output =
        run_child({program("llama-bench"), "-m", file, "-t", threads(), "-p", std::to_string(prompt), "-n",
                   std::to_string(answer), "-r", "1", "-o", "json"})
            .output;
    const Json runs = parse_json(output, "the output of llama-bench");
    require(runs.is_array() && !runs.empty(), "llama-bench measured nothing");
    peer_ = "llama.cpp " + json_get<std::string>(runs[0], "build_commit", "llama-bench");
    return json_get<double>(runs[0], "avg_ts", "llama-bench");
  }

  double batched_bench(const std::string& file) const {
    const std::string output =
        run_child({program("llama-batched-bench"), "-m", file, "-t", threads(), "-c",
                   std::to_string(256 * options_.streams), "-b", "2048", "-npp", "128", "-ntg", "128", "-npl",
                   std::to_string(options_.streams), "--output-format", "jsonl"})
            .output;
    const size_t start = output.find('{');
    require(start != std::string::npos, "llama-batched-bench printed no figures");
    const Json line = parse_json(output.substr(start, output.find('\n', start) - start),
                                 "the output of llama-batched-bench");
    return json_get<double>(line, "speed_tg", "llama-batched-bench");
  }

  void model(const std::string& file) {
    std::vector<Comparison> parts;
    const auto add = [&](Comparison part) {
      if (part.name.find(options_.common.only) != std::string::npos) parts.push_back(std::move(part));
    };
    double share = 0;
    add({"prefill 512", "tokens/s", [&] { return our_figure("prefill", file, {}, &share); },
         [&] { return llama_bench(file, 512, 0); }});
    add({"decode 128", "tokens/s", [&] { return our_figure("decode", file, {"--streams", "1"}, &share); },
         [&] { return llama_bench(file, 0, 128); }});
    const std::vector<std::string> streams = {
        "--streams", std::to_string(options_.streams), "--prompt", "128", "--answer", "128"};
    add({fmt::format("{} requests, 128 + 128", options_.streams), "tokens/s",
         [&] { return our_figure("decode", file, streams, &share); }, [&] { return batched_bench(file); }});
    double ours_peak = 0, peers_peak = 0;
    const auto first_token = [&](std::vector<std::string> arguments, double* peak) {
      const ChildResult result = run_child(std::move(arguments));
      *peak = std::max(*peak, result.peak_bytes);
      return result.seconds;
    };
    add({"start to first token", "s",
         [&] {
           return first_token({options_.vertebra, "generate", file, "-p", "Once upon a time", "-n", "1",
                               "--context", "512", "--threads", threads()},
                              &ours_peak);
         },
         [&] {
           return first_token({program("llama-completion"), "-m", file, "-p", "Once upon a time", "-n", "1",
                               "-c", "512", "-t", threads(), "-no-cnv", "--no-warmup", "--simple-io"},
                              &peers_peak);
         },
         /*smaller=*/true});
    for (const Comparison& part : parts) {
      share = 0;
      compare(file, part, false);
      print_share(share);
      if (options_.busy) compare(file, part, true);
    }
    if (ours_peak > 0) {
      const auto size = static_cast<double>(fs::file_size(file));
      report(file, {"peak memory over the file's size", "", nullptr, nullptr, true}, ours_peak / size,
             peers_peak / size);
    }
  }

  // In turn, and in the other order every second round.
  void compare(const std::string& file, const Comparison& part, bool busy) {
    std::vector<double> ours, peers;
    for (int round = 0; round < options_.common.rounds; ++round) {
      std::unique_ptr<BusyProcess> other;
      if (busy) other = std::make_unique<BusyProcess>();
      if (round % 2 == 1) peers.push_back(part.peers());
      ours.push_back(part.ours());
      if (round % 2 == 0) peers.push_back(part.peers());
    }
    Comparison named = part;
    if (busy) named.name += ", one core busy";
    report(file, named, median(ours), median(peers));
  }

  void report(const std::string& file, const Comparison& part, double ours, double peers) {
    const double ratio = part.smaller ? peers / ours : ours / peers;
    const std::string model = fs::path(file).filename().string();
    if (options_.common.json) {
      fmt::print("{}\n", json_line(Json{{"name", part.name},
                                        {"value", ours},
                                        {"unit", part.unit},
                                        {"peer", peer_},
                                        {"peer_value", peers},
                                        {"ratio", ratio},
                                        {"model", model},
                                        {"threads", options_.common.threads},
                                        {"rounds", options_.common.rounds},
                                        {"isa", std::string(isa_name(active_isa()))},
                                        {"device", device_name()}}));
    } else {
      if (!headed_) {
        fmt::print("{}, {}, {} threads, medians of {} rounds, beside {}\n", device_name(),
                   isa_name(active_isa()), options_.common.threads, options_.common.rounds,
                   peer_.empty() ? "llama.cpp" : peer_);
        headed_ = true;
      }
      fmt::print("{:28} {:34} {:9.2f} / {:9.2f} {:8}  {:5.2f}x\n", model, part.name, ours, peers, part.unit,
                 ratio);
    }
    std::fflush(stdout);
  }

  void print_share(double share) const {
    if (!options_.common.json && share > 0)
      fmt::print("{:28} {:34} {:.0f} % of this machine's measured ceiling\n", "", "", 100 * share);
  }

  Options options_;
  std::string peer_;
  bool headed_ = false;
};

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  using namespace vertebra::bench;
  CLI::App app("Quantized models beside llama.cpp on the same files", "bench_llama_cpp");
  Options options;
  options.common.rounds = 3;
  app.add_option("files", options.files, "GGUF files")->required();
  app.add_option("--programs", options.programs, "The folder of llama-bench and llama-batched-bench");
  app.add_option("--vertebra", options.vertebra, "The program measured (default: of this build)");
  app.add_option("--streams", options.streams, "Requests at once")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_flag("--busy", options.busy, "Also while another process takes one core");
  add_common(app, options.common);
  return bench_main(app, argc, argv, [&] { LlamaCppBench(options).run(); });
}
