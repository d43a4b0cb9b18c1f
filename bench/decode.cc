// Generation with the engine: prefill and greedy decoding of a 12M Llama, one request and eight. The ceiling
// of decoding is reading the weights once a step, at the rate the same bytes are read by a plain loop in the
// same run (from the last-level cache where they fit it); that of prefill the multiply-add rate.
//   bench_decode [--json] [--threads N] [--rounds N] [--isa NAME] [--only SUBSTRING] [--device pjrt:NAME]
// With --device, a 1B Llama with bf16 weights on that accelerator; the ceilings are the chip's stated peak
// and memory bandwidth.
#include <fmt/format.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "backend/buffer_set.h"
#include "backend/cpu/ceiling.h"
#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/kernels/ceiling.h"
#include "backend/pjrt/find_plugins.h"
#include "backend/pjrt/pjrt_backend.h"
#include "base/error.h"
#include "bench/figure.h"
#include "engine/engine.h"

namespace vertebra::bench {
namespace {

constexpr int64_t kSmallestVocabulary = 4096, kContext = 1024, kPrompt = 16, kAnswer = 128, kLongPrompt = 512;

struct Options {
  bool json = false;
  int threads = default_thread_count();
  int rounds = 5;
  std::string only, device = "cpu";
};

// The model of a measurement, and the type of its matrices in memory.
struct Case {
  std::string name;
  Json sizes;
  int64_t vocabulary;
  DType weights, compute;
};

std::atomic<float> sink;

// Bytes per second of reading `size` bytes again and again, on all threads.
double measure_reads(int64_t size, ThreadTeam& team) {
  constexpr int64_t kChunk = int64_t{1} << 18;
  const int64_t chunks = std::max<int64_t>(1, size / kChunk);
  std::vector<std::byte> bytes(static_cast<size_t>(chunks * kChunk + 64), std::byte{1});
  std::byte* start = bytes.data() + (64 - reinterpret_cast<uintptr_t>(bytes.data()) % 64) % 64;
  double best_s = 1e30;
  for (int pass = 0; pass < 30; ++pass) {
    const double begin = now_s();
    team.parallel_for(chunks, [&](int64_t chunk, int) {
      sink.store(kernels().ceiling->read(start + chunk * kChunk, kChunk), std::memory_order_relaxed);
    });
    best_s = std::min(best_s, now_s() - begin);
  }
  return static_cast<double>(chunks * kChunk) / best_s;
}

std::vector<GenerationRequest> requests_of(int count, int64_t prompt, int64_t answer) {
  std::vector<GenerationRequest> out;
  for (int64_t i = 0; i < count; ++i) {
    GenerationRequest request;
    for (int64_t t = 0; t < prompt; ++t)
      request.prompt.push_back(static_cast<int32_t>((t * 37 + i * 101) % kSmallestVocabulary));
    request.max_tokens = answer;
    out.push_back(std::move(request));
  }
  return out;
}

double fastest(Engine& engine, const std::vector<GenerationRequest>& requests, int rounds) {
  double best_s = 1e30;
  for (int round = 0; round < rounds + 1; ++round) {
    const double start = now_s();
    engine.generate(requests);
    if (round > 0) best_s = std::min(best_s, now_s() - start);
  }
  return best_s;
}

void measure(const Options& options, const Case& c, Backend& backend, ThreadTeam& team) {
  const std::string& label = c.name;
  if (label.find(options.only) == std::string::npos) return;
  const auto model = make_model(default_config("llama", c.sizes, c.vocabulary, kContext), label);
  BufferSet parameters;
  double weights = 0;  // elements a step reads
  for (const ParameterSpec& spec : model->parameters()) {
    const Tensor values = initial_value(spec, 1);
    parameters.set(spec.name, backend.upload(spec.shape.rank() > 1 ? values.to(c.weights) : values));
    if (spec.role == Role::kMatrix || spec.name == model->head())
      weights += static_cast<double>(spec.shape.elements());
  }
  Engine engine(backend, *model, parameters, {.compute = c.compute});
  // On the CPU matrices are packed in the type that is multiplied.
  const double bytes = weights * dtype_size(backend.host_memory() ? c.compute : c.weights);
  const double reads =
      backend.host_memory() ? measure_reads(static_cast<int64_t>(bytes), team) : backend.memory_bandwidth();
  const double flops =
      backend.host_memory() ? measure_fma_ceiling(c.compute, team) : backend.peak_flops(c.compute);
  const auto line = [&](const std::string& name, double value, double ceiling) {
    print_figure({name, value, "tokens/s", ceiling, label}, options.json, options.threads);
  };
  if (!options.json)
    fmt::print("{}: {:.1f} MB of weights, read at {:.1f} GB/s; {:.0f} GFLOP/s\n", label, bytes * 1e-6,
               reads * 1e-9, flops * 1e-9);
  const double prefill_s = fastest(engine, requests_of(1, kLongPrompt, 1), options.rounds);
  line("prefill 512", kLongPrompt / prefill_s, flops / (2 * weights));
  for (const int count : {1, 8}) {
    // The prompt's own time, measured alone, is not decoding's.
    const double prompt_s = fastest(engine, requests_of(count, kPrompt, 1), options.rounds);
    const double whole_s = fastest(engine, requests_of(count, kPrompt, kAnswer + 1), options.rounds);
    const double ceiling = std::min(count * reads / bytes, flops / (2 * weights));
    line(fmt::format("decode 128, {} at once", count), count * kAnswer / (whole_s - prompt_s), ceiling);
  }
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
    } else if (flag == "--threads") {
      options.threads = std::atoi(value().c_str());
    } else if (flag == "--rounds") {
      options.rounds = std::max(1, std::atoi(value().c_str()));
    } else if (flag == "--only") {
      options.only = value();
    } else if (flag == "--device") {
      options.device = value();
    } else if (flag == "--isa") {
      const std::string name = value();
      const auto isa = isa_from_name(name);
      require(isa.has_value(), "--isa {} is not known", name);
      set_isa(*isa);
    } else {
      fail(Code::kInvalidArgument,
           "{} is not known: --json, --threads, --rounds, --isa, --only, --device are", flag);
    }
  }
  require(options.threads >= 1, "--threads {}: at least one is needed", options.threads);
  ThreadTeam team(options.threads);
  if (options.device != "cpu") {
    require(options.device.starts_with("pjrt:"), "--device {}: cpu or pjrt:NAME was wanted", options.device);
    const auto backend = make_pjrt_backend(
        {.plugin = pjrt::require_plugin(options.device.substr(5)).file, .device_name = options.device});
    const Json sizes = {
        {"depth", 16}, {"embedding", 2048}, {"heads", 32}, {"key_value_heads", 8}, {"feed_forward", 8192}};
    measure(options, {"llama-1b-bf16", sizes, 128256, DType::kBF16, DType::kBF16}, *backend, team);
    return 0;
  }
  const auto backend = make_cpu_backend({&team, {}});
  const Json sizes = {{"depth", 6}, {"embedding", 384}, {"heads", 6}, {"feed_forward", 1024}};
  for (const DType compute : {DType::kF32, DType::kBF16})
    measure(options, {fmt::format("llama-12m-{}", dtype_name(compute)), sizes, 4096, DType::kF32, compute},
            *backend, team);
  return 0;
}

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  try {
    return vertebra::bench::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_decode: {}\n", error.what());
    return 1;
  }
}
