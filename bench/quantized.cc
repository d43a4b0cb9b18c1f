// Products of block-quantized weights, in the shapes of a 135M and a 1B Llama: many rows as a share of the
// machine's 8-bit multiply-add ceiling, one row and eight as a share of what memory delivers. Both ceilings
// are measured between the rounds, the best of each is taken. Whole models follow, random weights in those
// shapes: a prompt of 512 tokens, 128 tokens decoded.
//   bench_quantized [--json] [--threads N] [--rounds N] [--isa NAME] [--only SUBSTRING]
#include <fmt/format.h>

#include <string>
#include <vector>

#include "backend/buffer_set.h"
#include "backend/cpu/block_matrix.h"
#include "backend/cpu/ceiling.h"
#include "backend/cpu/cpu_backend.h"
#include "base/error.h"
#include "bench/generation.h"
#include "bench/options.h"
#include "engine/engine.h"
#include "ops/ops.h"
#include "tests/tensor/random_blocks.h"

namespace vertebra::bench {
namespace {

using Options = CommonOptions;

struct Layer {
  const char* name;
  int64_t n, k;
};
constexpr Layer kLayers[] = {{"135m qkv", 576, 576},    {"135m gate", 1536, 576}, {"135m down", 576, 1536},
                             {"135m head", 49152, 576}, {"1b qkv", 2048, 2048},   {"1b gate", 8192, 2048},
                             {"1b down", 2048, 8192},   {"1b head", 128256, 2048}};
constexpr DType kTypes[] = {DType::kQ8_0,   DType::kQ4_0, DType::kQ4_1, DType::kQ4_K,
                            DType::kQ6_K,   DType::kQ5_K, DType::kQ5_0, DType::kQ5_1,
                            DType::kIQ4_NL, DType::kQ2_K, DType::kQ3_K, DType::kMXFP4};

// Enough copies of a weight that none is left in a cache when its turn comes again.
constexpr size_t kMostCached = size_t{200} << 20;

struct Ceilings {
  double multiply_adds = 0, reads = 0;
  void measure(ThreadTeam& team) {
    multiply_adds = std::max(multiply_adds, measure_int8_ceiling(team));
    reads = std::max(reads, measure_read_bandwidth(team));
  }
};

void measure(const Options& options, const Layer& layer, DType dtype, int64_t rows, ThreadTeam& team,
             Ceilings& ceilings) {
  const std::string label = fmt::format("{} {} x{}", layer.name, dtype_name(dtype), rows);
  if (label.find(options.only) == std::string::npos || layer.k % block_size(dtype).elements != 0) return;
  const auto backend = make_cpu_backend({&team, {}});
  const TensorType type = {dtype, {layer.n, layer.k}};
  const size_t copies = rows > 8 ? 1 : std::max<size_t>(1, kMostCached / type.size_bytes());
  Graph graph;
  BufferSet buffers;
  const Value x = graph.parameter("x", {DType::kF32, {rows, layer.k}});
  Tensor values(x.type());
  const Philox random(1, "x");
  for (int64_t i = 0; i < values.elements(); ++i) values.set(i, random.normal(static_cast<uint64_t>(i)));
  buffers.set("x", backend->upload(values));
  const Tensor blocks = random_blocks(type, random);
  for (size_t i = 0; i < copies; ++i) {
    const std::string name = fmt::format("w{}", i);
    graph.add_output(fmt::format("y{}", i), linear(x, graph.parameter(name, type)));
    buffers.set(name, backend->upload(blocks));
  }
  BoundExecutable executable(*backend, graph, buffers);
  double best_s = 1e30;
  for (int round = 0; round < options.rounds; ++round) {
    ceilings.measure(team);
    for (int i = 0; i < 3; ++i) {
      const double start = now_s();
      executable.run();
      best_s = std::min(best_s, (now_s() - start) / static_cast<double>(copies));
    }
  }
  if (rows > 8) {
    const double work = static_cast<double>(rows * layer.n * layer.k);
    print_figure({label, work / best_s * 1e-9, "GMAC/s", ceilings.multiply_adds * 1e-9, ""}, options.json,
                 options.threads);
  } else {
    print_figure(
        {label, static_cast<double>(type.size_bytes()) / best_s * 1e-9, "GB/s", ceilings.reads * 1e-9, ""},
        options.json, options.threads);
  }
}

// ---- Whole models --------------------------------------------------------------------------------

struct Architecture {
  const char* name;
  int64_t depth, embedding, heads, key_value_heads, feed_forward, vocabulary;
};
constexpr Architecture kArchitectures[] = {{"135m", 30, 576, 9, 3, 1536, 49152},
                                           {"1b", 16, 2048, 32, 8, 8192, 128256}};
constexpr int64_t kPrompt = 512, kAnswer = 128;

// Prompts and greedy answers of a Llama with a tied head and random weights, all matrices of one type.
void measure_model(const Options& options, const Architecture& a, DType dtype, ThreadTeam& team,
                   Ceilings& ceilings) {
  const std::string label = fmt::format("model {} {}", a.name, dtype_name(dtype));
  if (label.find(options.only) == std::string::npos || a.embedding % block_size(dtype).elements != 0) return;
  const auto backend = make_cpu_backend({&team, {}});
  const Json sizes = {{"depth", a.depth},
                      {"embedding", a.embedding},
                      {"heads", a.heads},
                      {"key_value_heads", a.key_value_heads},
                      {"feed_forward", a.feed_forward}};
  Json config = default_config("llama", sizes, a.vocabulary, 1024);
  config["tie_word_embeddings"] = true;
  const auto model = make_model(config, label);
  BufferSet parameters;
  double weights = 0, bytes = 0, head = 0;
  for (const ParameterSpec& spec : model->parameters()) {
    if (spec.shape.rank() == 1) {
      parameters.set(spec.name, backend->upload(initial_value(spec, 1)));
      continue;
    }
    const TensorType type = {dtype, spec.shape};
    parameters.set(spec.name, backend->upload(random_blocks(type, Philox(1, spec.name))));
    bytes += static_cast<double>(type.size_bytes());
    (spec.name == model->head() ? head : weights) += static_cast<double>(spec.shape.elements());
  }
  Engine engine(*backend, *model, parameters,
                {.max_requests = 1, .tokens_per_step = kPrompt, .share_prefixes = false});
  ceilings.measure(team);
  const double prefill_s = fastest(engine, requests_of(1, kPrompt, 1, a.vocabulary), options.rounds);
  const double decode_s = fastest(engine, requests_of(1, 1, kAnswer + 1, a.vocabulary), options.rounds) -
                          fastest(engine, requests_of(1, 1, 1, a.vocabulary), options.rounds);
  ceilings.measure(team);
  print_figure({"prefill 512", kPrompt / prefill_s, "tokens/s",
                ceilings.multiply_adds / (weights + head / kPrompt), label},
               options.json, options.threads);
  print_figure({"decode 128", kAnswer / decode_s, "tokens/s", ceilings.reads / bytes, label}, options.json,
               options.threads);
}

void run(const Options& options) {
  ThreadTeam team(options.threads);
  Ceilings ceilings;
  for (const DType dtype : kTypes) {
    for (const Layer& layer : kLayers) {
      for (const int64_t rows : {1, 8, 256}) measure(options, layer, dtype, rows, team, ceilings);
    }
  }
  for (const Architecture& architecture : kArchitectures) {
    for (const DType dtype : {DType::kQ4_1, DType::kQ8_0, DType::kQ4_0, DType::kQ4_K})
      measure_model(options, architecture, dtype, team, ceilings);
  }
}

}  // namespace
}  // namespace vertebra::bench

int main(int argc, char** argv) {
  using namespace vertebra::bench;
  CLI::App app("Block-quantized products and models as shares of the machine's ceilings", "bench_quantized");
  CommonOptions options;
  add_common(app, options);
  return bench_main(app, argc, argv, [&] { run(options); });
}
