// Generation with the engine: prefill and greedy decoding of a 12M Llama, one request and eight. The ceiling
// of decoding is reading the weights once a step, at the rate the same bytes are read by a plain loop in the
// same run (from the last-level cache where they fit it); that of prefill the multiply-add rate.
//   bench_decode [--json] [--threads N] [--rounds N] [--isa NAME] [--only SUBSTRING] [--device pjrt:NAME]
// With --device, a 1B Llama with bf16 weights on that accelerator; the ceilings are the chip's stated peak
// and memory bandwidth.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "backend/buffer_set.h"
#include "backend/cpu/ceiling.h"
#include "base/error.h"
#include "bench/device.h"
#include "bench/generation.h"
#include "bench/options.h"
#include "engine/engine.h"

namespace vertebra::bench {
namespace {

constexpr int64_t kSmallestVocabulary = 4096, kContext = 1024, kPrompt = 16, kAnswer = 128, kLongPrompt = 512;

struct Options : CommonOptions {
  std::string device = "cpu";
};

// The model of a measurement, and the type of its matrices in memory.
struct Case {
  std::string name;
  Json sizes;
  int64_t vocabulary;
  DType weights, compute;
};

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
  Engine engine(backend, *model, parameters, {.compute = c.compute, .share_prefixes = false});
  // On the CPU matrices are packed in the type that is multiplied.
  const double bytes = weights * dtype_size(backend.host_memory() ? c.compute : c.weights);
  const double reads = backend.host_memory()
                           ? measure_read_bandwidth(team, kernels(), static_cast<int64_t>(bytes))
                           : backend.memory_bandwidth();
  const double flops =
      backend.host_memory() ? measure_fma_ceiling(c.compute, team) : backend.peak_flops(c.compute);
  const auto line = [&](const std::string& name, double value, double ceiling) {
    print_figure({name, value, "tokens/s", ceiling, label}, options.json, options.threads);
  };
  if (!options.json)
    fmt::print("{}: {:.1f} MB of weights, read at {:.1f} GB/s; {:.0f} GFLOP/s\n", label, bytes * 1e-6,
               reads * 1e-9, flops * 1e-9);
  const double prefill_s =
      fastest(engine, requests_of(1, kLongPrompt, 1, kSmallestVocabulary), options.rounds);
  line("prefill 512", kLongPrompt / prefill_s, flops / (2 * weights));
  for (const int count : {1, 8}) {
    // The prompt's own time, measured alone, is not decoding's.
    const double prompt_s =
        fastest(engine, requests_of(count, kPrompt, 1, kSmallestVocabulary), options.rounds);
    const double whole_s =
        fastest(engine, requests_of(count, kPrompt, kAnswer + 1, kSmallestVocabulary), options.rounds);
    const double ceiling = std::min(count * reads / bytes, flops / (2 * weights));
    line(fmt::format("decode 128, {} at once", count), count * kAnswer / (whole_s - prompt_s), ceiling);
  }
}

void run(const Options& options) {
  ThreadTeam team(options.threads);
  const auto backend = open_device(options.device, team);
  if (options.device != "cpu") {
    const Json sizes = {
        {"depth", 16}, {"embedding", 2048}, {"heads", 32}, {"key_value_heads", 8}, {"feed_forward", 8192}};
    measure(options, {"llama-1b-bf16", sizes, 128256, DType::kBF16, DType::kBF16}, *backend, team);
    return;
  }
  const Json sizes = {{"depth", 6}, {"embedding", 384}, {"heads", 6}, {"feed_forward", 1024}};
  for (const DType compute : {DType::kF32, DType::kBF16})
    measure(options, {fmt::format("llama-12m-{}", dtype_name(compute)), sizes, 4096, DType::kF32, compute},
            *backend, team);
}

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  using namespace vertebra::bench;
  CLI::App app("Prefill and greedy decoding as shares of the machine's ceilings", "bench_decode");
  Options options;
  add_common(app, options);
  app.add_option("--device", options.device, "cpu or pjrt:NAME")->capture_default_str();
  return bench_main(app, argc, argv, [&] { run(options); });
}
