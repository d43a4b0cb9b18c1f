// What our side of a PJRT plugin costs: a call of a graph that does next to nothing, and the start of a large
// model whose executable is in the cache.
//   bench_pjrt [--json] [--device pjrt:cpu] [--calls N]
// Every start is a process of its own.
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "backend/buffer_set.h"
#include "base/error.h"
#include "bench/device.h"
#include "bench/figure.h"
#include "bench/options.h"
#include "train/train_graph.h"

namespace vertebra::bench {
namespace {

namespace fs = std::filesystem;

struct Options {
  bool json = false;
  std::string device = "pjrt:cpu";
  int calls = 20000;
};

// x <- x + 1 for each of `states` donated scalars: what the host spends on a run.
void measure_call(const Options& options, int states) {
  ThreadTeam team(1);
  const auto backend = open_device(options.device, team, fs::path());
  Graph graph;
  BufferSet buffers;
  for (int i = 0; i < states; ++i) {
    const std::string name = fmt::format("x{}", i);
    const Value x = graph.parameter(name, {DType::kF32, {}});
    graph.add_output(name, add(x, 1.0), x);
    buffers.set(name, backend->upload(Tensor::scalar(0.0f)));
  }
  BoundExecutable executable(*backend, graph, buffers);
  std::vector<double> seconds;
  constexpr int kParts = 10;
  for (int part = 0; part < kParts; ++part) {
    const double start = now_s();
    for (int i = 0; i < options.calls / kParts; ++i) executable.run();
    buffers.at("x0").to_host();
    seconds.push_back((now_s() - start) / (options.calls / kParts));
  }
  print_figure(
      {fmt::format("call, {} buffers in and out", states), 1e6 * median(seconds), "us", 0, options.device},
      options.json, 1);
}

// Seconds from nothing to a step that is ready to run, in a child process.
double start_of_gpt2(const Options& options, const fs::path& cache) {
  const double start = now_s();
  const pid_t child = fork();
  require(child >= 0, Code::kResourceExhausted, "no child process");
  if (child == 0) {
    try {
      ThreadTeam team(1);
      const auto backend = open_device(options.device, team, cache);
      const Json sizes = {{"depth", 12}, {"embedding", 768}, {"heads", 12}};
      const auto model = make_model(default_config("gpt2", sizes, 50257, 1024), "gpt2");
      TrainGraphOptions graph;
      graph.rows = 4;
      graph.length = 256;
      backend->compile(build_training_step(*model, graph));
      _exit(0);
    } catch (const std::exception& error) {
      fmt::print(stderr, "bench_pjrt: {}\n", error.what());
      _exit(1);
    }
  }
  int status = 0;
  waitpid(child, &status, 0);
  require(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child that compiles ended with status {}",
          status);
  return now_s() - start;
}

void run(const Options& options) {
  // First: a client that was started keeps threads, which a fork does not copy.
  const fs::path cache = fs::temp_directory_path() / fmt::format("vertebra-bench-{}", getpid());
  for (const char* name : {"start of GPT-2 124M, empty cache", "start of GPT-2 124M, from the cache"})
    print_figure({name, start_of_gpt2(options, cache), "s", 0, options.device}, options.json, 1);
  fs::remove_all(cache);
  for (const int states : {1, 100}) measure_call(options, states);
}

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  using namespace vertebra::bench;
  CLI::App app("What our side of a PJRT plugin costs", "bench_pjrt");
  Options options;
  app.add_flag("--json", options.json, "One line of JSON a figure");
  app.add_option("--device", options.device, "pjrt:NAME")->capture_default_str();
  app.add_option("--calls", options.calls)->check(CLI::Range(10, 1 << 30))->capture_default_str();
  return bench_main(app, argc, argv, [&] { run(options); });
}
