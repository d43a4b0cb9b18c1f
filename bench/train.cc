// A training step (forward, backward, clipping, AdamW) beside PyTorch's (torch.compile, fused AdamW): step by
// step in turn, medians, shares of the multiply-add ceiling measured in the same run, and peak memory of
// both.
//   bench_train [--json] [--threads N] [--rounds N] [--only SUBSTRING] [--no-peer] [--isa NAME] [--profile
//   STEPS] [--device pjrt:cpu]
// With --device pjrt:cpu, the fp32 cases on that plugin, beside jax.jit on the same plugin; VERTEBRA_PYTHON
// names the Python that has JAX. Such a plugin takes all threads, whatever --threads says. With any other
// device (pjrt:cuda, ...) the cases for accelerators, bf16 at T 1024, as shares of the chip's stated peak;
// beside PyTorch on the same chip where that is a GPU it sees, else beside JAX. Every measurement is a
// process of its own, ours and the peer's alike, driven over pipes: "step" -> seconds and loss, "memory" ->
// bytes, "ceiling" -> FLOP/s. --profile runs our steps in this process, for perf.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend/buffer_set.h"
#include "backend/cpu/ceiling.h"
#include "base/error.h"
#include "base/json.h"
#include "base/rng.h"
#include "bench/device.h"
#include "bench/figure.h"
#include "bench/options.h"
#include "train/train_graph.h"

namespace vertebra::bench {
namespace {

struct Case {
  std::string name;
  std::string type;
  Json sizes;
  int64_t vocabulary, context, rows, length;
  DType compute;
  bool accelerator = false;  // too much for a CPU
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = [] {
    const Json llama = {{"depth", 6}, {"embedding", 384}, {"heads", 6}, {"feed_forward", 1024}};
    const Json gpt2 = {{"depth", 12}, {"embedding", 768}, {"heads", 12}};
    std::vector<Case> out;
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const std::string type(dtype_name(compute));
      out.push_back({"llama-12m-b16-t256-" + type, "llama", llama, 4096, 1024, 16, 256, compute, false});
      out.push_back({"llama-12m-b1-t128-" + type, "llama", llama, 4096, 1024, 1, 128, compute, false});
      out.push_back({"gpt2-124m-b4-t256-" + type, "gpt2", gpt2, 50257, 1024, 4, 256, compute, false});
    }
    const Json medium = {{"depth", 24}, {"embedding", 1024}, {"heads", 16}, {"feed_forward", 2816}};
    out.push_back({"gpt2-124m-b8-t1024-bf16", "gpt2", gpt2, 50257, 1024, 8, 1024, DType::kBF16, true});
    out.push_back({"llama-350m-b8-t1024-bf16", "llama", medium, 32000, 1024, 8, 1024, DType::kBF16, true});
    return out;
  }();
  return all;
}

const Case& find_case(const std::string& name) {
  for (const Case& each : cases())
    if (each.name == name) return each;
  fail(Code::kInvalidArgument, "case '{}' is not known", name);
}

struct Options : CommonOptions {
  bool peer = true;
  int profile_steps = 0;
  std::string worker, device = "cpu";

  bool on_accelerator() const { return device != "cpu" && device != "pjrt:cpu"; }
};

double status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return std::atof(line.c_str() + key.size()) * 1024;
  }
  return 0;
}

// On one thread processor time, which other programs do not lengthen.
double step_clock_s(int threads) {
  if (threads > 1) return now_s();
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Our side of a measurement: everything a trainer holds, and one step at a time.
class TrainingStep {
 public:
  TrainingStep(const Case& c, const Options& options)
      : team_(options.threads), backend_(open_device(options.device, team_)), compute_(c.compute) {
    idle_bytes_ = status_bytes("VmRSS:");
    const auto model = make_model(default_config(c.type, c.sizes, c.vocabulary, c.context), c.name);
    TrainGraphOptions graph;
    graph.rows = c.rows;
    graph.length = c.length;
    graph.compute = c.compute;
    for (const ParameterSpec& spec : model->parameters())
      buffers_.set(spec.name, backend_->upload(initial_value(spec, 1)));
    for (const StateSpec& spec : optimizer_state(*model, graph.optimizer))
      buffers_.set(spec.name, backend_->upload(Tensor::zeros({DType::kF32, spec.shape})));
    executable_.emplace(*backend_, build_training_step(*model, graph), buffers_);
    fill(c);
  }

  double run() {
    const double start = step_clock_s(team_.size());
    buffers_.at(inputs::kStep).copy_from(Tensor::scalar(static_cast<float>(++step_)));
    executable_->run();
    loss_ = buffers_.at(outputs::kLoss).to_host().at(0) / tokens_;
    return step_clock_s(team_.size()) - start;
  }
  double loss() const { return loss_; }
  // Of the process; on a device with memory of its own, of the buffers and what a step needs besides.
  double memory_bytes() const {
    if (backend_->host_memory()) return status_bytes("VmHWM:") - idle_bytes_;
    double bytes = static_cast<double>(executable_->executable().workspace_bytes());
    for (const auto& [name, buffer] : buffers_.all())
      bytes += static_cast<double>(buffer->type().size_bytes());
    return bytes;
  }
  double peak_flops() const { return backend_->peak_flops(compute_); }
  std::string describe() const { return executable_->executable().describe(); }

 private:
  void fill(const Case& c) {
    const Shape shape = {c.rows, c.length};
    tokens_ = static_cast<double>(shape.elements());
    Tensor tokens(DType::kI32, shape), labels(DType::kI32, shape), positions(DType::kI32, shape);
    const Philox random(1, "batch");
    for (int64_t i = 0; i < shape.elements(); ++i) {
      const auto vocabulary = static_cast<uint64_t>(c.vocabulary);
      tokens.set(i, static_cast<double>(random.below(static_cast<uint64_t>(i), vocabulary)));
      labels.set(i, static_cast<double>(random.below(static_cast<uint64_t>(i) + 1, vocabulary)));
      positions.set(i, static_cast<double>(i % c.length));
    }
    upload(inputs::kTokens, tokens);
    upload(inputs::kLabels, labels);
    upload(inputs::kPositions, positions);
    upload(inputs::kSegments, Tensor::zeros({DType::kI32, shape}));
    upload(inputs::kLossScale, Tensor::scalar(static_cast<float>(1 / tokens_)));
    upload(inputs::kLearningRate, Tensor::scalar(3e-4f));
    upload(inputs::kMatrixLearningRate, Tensor::scalar(0.0f));
    upload(inputs::kNormLimit, Tensor::scalar(1e30f));
  }
  void upload(const char* name, const Tensor& value) {
    if (Buffer* buffer = buffers_.find(name)) buffer->copy_from(value);
  }

  ThreadTeam team_;
  std::unique_ptr<Backend> backend_;
  DType compute_;
  BufferSet buffers_;
  std::optional<BoundExecutable> executable_;
  double tokens_ = 0, loss_ = 0, idle_bytes_ = 0;
  int64_t step_ = 0;
};

// The other end of a Process, for ours.
void serve(const Options& options) {
  TrainingStep step(find_case(options.worker), options);
  char line[64];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    Json answer;
    if (std::string_view(line) == "step\n") {
      answer["seconds"] = step.run();
      answer["loss"] = step.loss();
    } else if (std::string_view(line) == "ceiling\n") {
      answer["flops"] = step.peak_flops();
    } else {
      answer["bytes"] = step.memory_bytes();
    }
    fmt::print("{}\n", json_line(answer));
    std::fflush(stdout);
  }
}

// A child with a line in for every line out.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
    // Closed in every child that comes later: an open end there would keep this one from seeing ours close.
    int to[2], from[2];
    require(pipe2(to, O_CLOEXEC) == 0 && pipe2(from, O_CLOEXEC) == 0, Code::kResourceExhausted,
            "no pipe to a child process");
    pid_ = fork();
    require(pid_ >= 0, Code::kResourceExhausted, "no child process");
    if (pid_ == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      std::vector<char*> argv;
      for (std::string& each : arguments) argv.push_back(each.data());
      argv.push_back(nullptr);
      execvp(argv[0], argv.data());
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    in_ = fdopen(to[1], "w");
    out_ = fdopen(from[0], "r");
  }
  ~Process() {
    std::fclose(in_);
    std::fclose(out_);
    waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Nothing when the child has ended.
  std::optional<Json> ask(const char* what) {
    if (std::fprintf(in_, "%s\n", what) < 0 || std::fflush(in_) != 0) return std::nullopt;
    char line[1024];
    if (std::fgets(line, sizeof line, out_) == nullptr) return std::nullopt;
    return parse_json(line, "a measuring process");
  }

 private:
  pid_t pid_ = 0;
  FILE *in_ = nullptr, *out_ = nullptr;
};

struct Contender {
  std::string name;
  std::unique_ptr<Process> process;
  std::vector<double> seconds;
  double loss = 0, bytes = 0;

  bool step(bool counts) {
    // Threads that spin a while after their work must not take the other's time.
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    const std::optional<Json> answer = process->ask("step");
    if (!answer) return false;
    if (counts) seconds.push_back(answer->at("seconds").get<double>());
    loss = answer->at("loss").get<double>();
    return true;
  }
};

double fastest(const Contender& c) { return *std::min_element(c.seconds.begin(), c.seconds.end()); }

// Medians say what a machine with other work on it gives, the fastest steps what programs can do.
void report(const Options& options, const Case& c, std::vector<Contender>& contenders, double flops) {
  const auto model = make_model(default_config(c.type, c.sizes, c.vocabulary, c.context), c.name);
  const double tokens = static_cast<double>(c.rows * c.length);
  const double ceiling = flops / model->training_flops_per_token(c.length);
  const auto line = [&](const std::string& name, double value, const std::string& unit, double limit = 0) {
    print_figure({name, value, unit, limit, c.name}, options.json, options.threads);
  };
  for (const Contender& each : contenders) {
    line("train, " + each.name, tokens / median(each.seconds), "tokens/s", ceiling);
    line("train fastest, " + each.name, tokens / fastest(each), "tokens/s", ceiling);
    line("train memory, " + each.name, each.bytes * 1e-6, "MB");
    line("loss, " + each.name, each.loss, "nats");
  }
  if (contenders.size() < 2) return;
  // Of each pair of neighbouring steps: what other programs take away hits both.
  std::vector<double> ratios;
  for (size_t i = 0; i < contenders[0].seconds.size(); ++i)
    ratios.push_back(contenders[1].seconds[i] / contenders[0].seconds[i]);
  line("train, ratio to " + contenders[1].name, median(ratios), "x");
  line("train fastest, ratio to " + contenders[1].name, fastest(contenders[1]) / fastest(contenders[0]), "x");
}

void measure(const Options& options, const Case& c, const std::string& program) {
  std::vector<Contender> contenders;
  const auto start = [&](const std::string& name, std::vector<std::string> arguments) {
    Contender contender{name, std::make_unique<Process>(std::move(arguments)), {}, 0, 0};
    for (int i = 0; i < 2; ++i) {
      if (contender.step(false)) continue;
      fmt::print(stderr, "SKIPPED: {} for {}: the process ended (see above)\n", name, c.name);
      return;
    }
    contenders.push_back(std::move(contender));
  };
  const std::string threads = std::to_string(options.threads);
  start("vertebra", {program, "--worker", c.name, "--threads", threads, "--isa",
                     std::string(isa_name(active_isa())), "--device", options.device});
  require(!contenders.empty(), "our own process ended");
  if (options.peer) {
    Json config = {{"type", c.type},
                   {"sizes", c.sizes},
                   {"vocabulary", c.vocabulary},
                   {"context", c.context},
                   {"rows", c.rows},
                   {"length", c.length},
                   {"bf16", c.compute == DType::kBF16},
                   {"threads", options.threads}};
    const char* named = std::getenv("VERTEBRA_PYTHON");
    const std::string python = named != nullptr ? named : "python3",
                      peers = VERTEBRA_SOURCE_DIR "/bench/peers/";
    const bool gpu = options.device == "pjrt:cuda" || options.device == "pjrt:rocm";
    config["device"] = gpu ? "cuda" : "cpu";  // PyTorch's name for GPUs of both vendors
    if (options.device == "cpu" || gpu) {
      start("torch", {python, peers + "train.py", json_line(config)});
    } else {
      const pjrt::FoundPlugin plugin = find_plugin(options.device);
      config["plugin"] = plugin.file.string();
      config["create_options"] = Json::object();
      for (const auto& option : plugin.vendor->create_options)
        config["create_options"][option.name] = option.value;
      start("jax", {python, peers + "train_jax.py", json_line(config)});
    }
  }
  ThreadTeam team(options.threads);
  const auto ceiling = [&] {
    if (!options.on_accelerator()) return measure_fma_ceiling(c.compute, team);
    const auto answer = contenders[0].process->ask("ceiling");
    return answer ? answer->at("flops").get<double>() : 0.0;
  };
  double flops = ceiling();
  for (int round = 0; round < options.rounds; ++round) {
    for (Contender& each : contenders) {
      // The threads of the one before spin on for a while after their step; they shall not slow down this
      // one.
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      require(each.step(true), "{} ended in the midst of measuring", each.name);
    }
  }
  flops = std::max(flops, ceiling());
  for (Contender& each : contenders) {
    if (const auto answer = each.process->ask("memory")) each.bytes = answer->at("bytes").get<double>();
  }
  report(options, c, contenders, flops);
}

void profile(const Options& options, const Case& c) {
  TrainingStep step(c, options);
  for (int i = 0; i < options.profile_steps; ++i) {
    const double seconds = step.run();
    fmt::print("{} step {}: {:.1f} ms\n", c.name, i, 1e3 * seconds);
  }
  if (const char* path = std::getenv("VERTEBRA_DESCRIBE")) std::ofstream(path) << step.describe();
}

void run(const Options& options) {
  std::signal(SIGPIPE, SIG_IGN);
  if (!options.worker.empty()) {
    serve(options);
    return;
  }
  for (const Case& each : cases()) {
    if (each.name.find(options.only) == std::string::npos) continue;
    // By its whole name any case runs on any device.
    const bool meant = each.accelerator == options.on_accelerator() &&
                       (options.device != "pjrt:cpu" || each.compute == DType::kF32);
    if (!meant && each.name != options.only) continue;
    if (options.profile_steps > 0) {
      profile(options, each);
    } else {
      measure(options, each, "/proc/self/exe");
    }
  }
}

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  using namespace vertebra::bench;
  CLI::App app("Training steps beside PyTorch's or JAX's", "bench_train");
  Options options;
  options.rounds = 7;
  add_common(app, options);
  app.add_flag("!--no-peer", options.peer, "Measure ours only");
  app.add_option("--device", options.device, "cpu or pjrt:NAME")->capture_default_str();
  app.add_option("--profile", options.profile_steps, "Run this many of our steps in this process, for perf");
  app.add_option("--worker", options.worker, "The other end of a measurement: a case's name");
  return bench_main(app, argc, argv, [&] { run(options); });
}
