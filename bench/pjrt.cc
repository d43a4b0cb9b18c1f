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
#include "backend/pjrt/find_plugins.h"
#include "backend/pjrt/pjrt_backend.h"
#include "base/error.h"
#include "bench/figure.h"
#include "train/train_graph.h"

namespace vertebra::bench {
namespace {

namespace fs = std::filesystem;

struct Options {
  bool json = false;
  std::string device = "pjrt:cpu";
  int calls = 20000;
};

std::unique_ptr<Backend> make_backend(const std::string& device, const fs::path& cache) {
  require(device.starts_with("pjrt:"), "--device {}: pjrt:NAME was wanted", device);
  const fs::path file = pjrt::require_plugin(device.substr(5)).file;
  return make_pjrt_backend({.plugin = file, .device_name = device, .cache = cache});
}

// x <- x + 1 for each of `states` donated scalars: what the host spends on a run.
void measure_call(const Options& options, int states) {
  const auto backend = make_backend(options.device, {});
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
      const auto backend = make_backend(options.device, cache);
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

int run(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      require(i + 1 < argc, "{} needs a value", flag);
      return argv[++i];
    };
    if (flag == "--json") {
      options.json = true;
    } else if (flag == "--device") {
      options.device = value();
    } else if (flag == "--calls") {
      options.calls = std::max(10, std::atoi(value().c_str()));
    } else {
      fail(Code::kInvalidArgument, "{} is not known; see the head of bench/pjrt.cc", flag);
    }
  }
  // First: a client that was started keeps threads, which a fork does not copy.
  const fs::path cache = fs::temp_directory_path() / fmt::format("vertebra-bench-{}", getpid());
  for (const char* name : {"start of GPT-2 124M, empty cache", "start of GPT-2 124M, from the cache"})
    print_figure({name, start_of_gpt2(options, cache), "s", 0, options.device}, options.json, 1);
  fs::remove_all(cache);
  for (const int states : {1, 100}) measure_call(options, states);
  return 0;
}

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  try {
    return vertebra::bench::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_pjrt: {}\n", error.what());
    return 1;
  }
}
