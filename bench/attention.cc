// The fused kernels as shares of ceilings measured in the same run: attention forward and backward against
// the multiply-add rate (only the products that causality and segments leave are counted), decoding and AdamW
// against the read bandwidth of memory, the fused output head against the multiply-add rate.
//   bench_attention [--json] [--isa NAME] [--threads N] [--rounds N] [--only SUBSTRING]
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/ceiling.h"
#include "backend/cpu/kernel.h"
#include "base/error.h"
#include "base/rng.h"
#include "bench/options.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

using Options = bench::CommonOptions;

// With one thread the processor time of the process, which other programs disturb less than the wall clock.
double now_s(const Options& options) {
  timespec now{};
  clock_gettime(options.threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

Tensor random_tensor(Shape shape, uint64_t stream) {
  Tensor out(DType::kF32, shape);
  const Philox random(1, stream);
  auto data = out.data<float>();
  for (size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<float>(random.uniform(i / 2) * (i % 2 == 0 ? 1 : -1));
  return out;
}

Tensor repeat(Shape shape, const std::vector<int32_t>& pattern) {
  Tensor out(DType::kI32, shape);
  auto data = out.data<int32_t>();
  for (size_t i = 0; i < data.size(); ++i) data[i] = pattern[i % pattern.size()];
  return out;
}

// The fastest run of an op's kernel on these operands, in seconds.
double fastest(const Options& options, std::string_view op, const std::vector<Tensor>& operands,
               const Attrs& attrs, ThreadTeam& team) {
  Graph graph;
  std::vector<Value> values;
  for (size_t i = 0; i < operands.size(); ++i)
    values.push_back(graph.parameter(fmt::format("p{}", i), operands[i].type()));
  const Node& node = *graph.add_node(find_op(op), values, attrs)[0].node;
  const std::unique_ptr<cpu::Kernel> kernel = cpu::find_kernel_factory(op)(node);
  std::vector<Tensor> results;
  std::vector<cpu::TensorRef> in, out;
  for (const Tensor& t : operands) in.push_back({const_cast<void*>(t.raw()), t.type()});
  for (size_t r = 0; r < node.results.size(); ++r) {
    // In place where the kernel can: a cache is not copied at every step.
    int shared = -1;
    for (size_t i = 0; i < operands.size(); ++i)
      if (op == "paged_attention" && r > 0 && kernel->can_share(static_cast<int>(i), static_cast<int>(r)))
        shared = static_cast<int>(i);
    results.push_back(shared >= 0 ? operands[static_cast<size_t>(shared)] : Tensor::zeros(node.results[r]));
    out.push_back({results.back().raw(), node.results[r]});
  }
  Tensor workspace(DType::kU8, Shape{Dim(static_cast<int64_t>(kernel->workspace_bytes(team.size())) + 64)});
  double best = 1e30;
  for (int round = 0; round < options.rounds + 1; ++round) {
    const double start = now_s(options);
    kernel->run({in, out, static_cast<std::byte*>(workspace.raw()), team});
    if (round > 0) best = std::min(best, now_s(options) - start);
  }
  return best;
}

class Report {
 public:
  explicit Report(const Options& options) : options_(options) {}
  bool wanted(const std::string& name) const { return name.find(options_.only) != std::string::npos; }
  void line(const std::string& name, double seconds, double value, double ceiling, const char* unit) const {
    if (options_.json) {
      fmt::print(R"({{"name": "{}", "value": {:.4g}, "unit": "{}", "ceiling": {:.4g}, "share": {:.3f}, )"
                 R"("threads": {}, "isa": "{}"}})"
                 "\n",
                 name, value, unit, ceiling, value / ceiling, options_.threads, isa_name(active_isa()));
    } else {
      fmt::print("{:<44} {:>9.3f} ms {:>8.1f} {:<8} {:>5.1f} % of {:.0f}\n", name, seconds * 1e3, value, unit,
                 100 * value / ceiling, ceiling);
    }
  }

 private:
  const Options& options_;
};

struct AttentionShape {
  int64_t batch, tokens, heads, key_heads, dim, segment;  // segment: tokens of each, 0 for one
};

void bench_training(const Options& options, const Report& report, ThreadTeam& team, double flops) {
  for (const AttentionShape& s : std::vector<AttentionShape>{{8, 128, 12, 12, 32, 0},
                                                             {8, 256, 6, 6, 64, 0},
                                                             {4, 1024, 9, 3, 64, 0},
                                                             {2, 512, 8, 2, 128, 0},
                                                             {8, 208, 6, 6, 32, 26}}) {
    const std::string name =
        fmt::format("B{} T{} H{} K{} D{}{}", s.batch, s.tokens, s.heads, s.key_heads, s.dim,
                    s.segment > 0 ? fmt::format(" in segments of {}", s.segment) : "");
    std::vector<int32_t> ids;
    double pairs = 0;
    for (int64_t t = 0; t < s.tokens; ++t) {
      ids.push_back(static_cast<int32_t>(s.segment > 0 ? t / s.segment : 0));
      pairs += static_cast<double>(s.segment > 0 ? t % s.segment : t) + 1;
    }
    const double products = 2 * pairs * static_cast<double>(s.batch * s.heads * s.dim);
    const Shape q = {s.batch, s.tokens, s.heads, s.dim}, k = {s.batch, s.tokens, s.key_heads, s.dim};
    const Attrs attrs = {{"scale", 0.2}, {"window", int64_t{0}}};
    const Tensor segments = repeat({s.batch, s.tokens}, ids);
    const std::vector<Tensor> operands = {random_tensor(q, 1), random_tensor(k, 2), random_tensor(k, 3),
                                          segments};
    if (report.wanted("attention " + name)) {
      const double seconds = fastest(options, "attention", operands, attrs, team);
      report.line("attention " + name, seconds, 2 * products / seconds * 1e-9, flops * 1e-9, "GFLOP/s");
    }
    const std::vector<Tensor> gradient_operands = {
        operands[0],        operands[1],         operands[2],
        segments,           random_tensor(q, 4), Tensor::zeros({DType::kF32, {s.batch, s.heads, s.tokens}}),
        random_tensor(q, 5)};
    if (report.wanted("attention_grad " + name)) {
      const double seconds = fastest(options, "attention_grad", gradient_operands, attrs, team);
      report.line("attention_grad " + name, seconds, 5 * products / seconds * 1e-9, flops * 1e-9, "GFLOP/s");
    }
  }
}

// One decoding step of `rows` requests with `context` tokens each.
void bench_decode(const Options& options, const Report& report, ThreadTeam& team, double bandwidth) {
  for (const auto& [rows, context, dtype] :
       std::vector<std::tuple<int64_t, int64_t, DType>>{{1, 4096, DType::kF32},
                                                        {1, 4096, DType::kBF16},
                                                        {1, 4096, DType::kF16},
                                                        {1, 4096, DType::kI8},
                                                        {8, 1024, DType::kF32},
                                                        {8, 1024, DType::kI8},
                                                        {1, 256, DType::kF32},
                                                        {1, 256, DType::kI8}}) {
    const int64_t heads = 9, key_heads = 3, dim = 64, page = 64, layers = 8;
    const std::string name =
        fmt::format("paged_attention {} rows, context {}, {}", rows, context, dtype_name(dtype));
    if (!report.wanted(name)) continue;
    // Many times the pages of one step, so that they come from memory as in a model of many layers.
    const int64_t pages_each = context / page, pages = pages_each * rows * layers;
    const Tensor cache = random_tensor({pages, page, key_heads, dim}, 1).to(dtype);
    const Tensor cache2 = cache.clone();
    Tensor table(DType::kI32, {rows, pages_each});
    std::vector<int32_t> requests;
    for (int64_t r = 0; r < rows; ++r) requests.push_back(static_cast<int32_t>(r));
    for (int64_t i = 0; i < rows * pages_each; ++i) table.set(i, static_cast<double>(i * 7 % pages));
    std::vector<Tensor> operands = {random_tensor({rows, heads, dim}, 2),
                                    random_tensor({rows, key_heads, dim}, 3),
                                    random_tensor({rows, key_heads, dim}, 4),
                                    cache,
                                    cache2,
                                    table,
                                    repeat({rows}, requests),
                                    repeat({rows}, {static_cast<int32_t>(context - 1)})};
    if (dtype == DType::kI8) {
      for (const uint64_t stream : {uint64_t{5}, uint64_t{6}})
        operands.push_back(random_tensor({pages, page, key_heads, dim / kCacheBlock}, stream));
    }
    const double seconds =
        fastest(options, "paged_attention", operands, {{"scale", 0.125}, {"window", int64_t{0}}}, team);
    const double element_bytes =
        dtype == DType::kI8 ? 1 + 4.0 / kCacheBlock : static_cast<double>(dtype_size(dtype));
    const double bytes = static_cast<double>(2 * rows * context * key_heads * dim) * element_bytes;
    report.line(name, seconds, bytes / seconds * 1e-9, bandwidth * 1e-9, "GB/s");
  }
}

void bench_loss(const Options& options, const Report& report, ThreadTeam& team) {
  for (const auto& [tokens, width, vocabulary] :
       std::vector<std::array<int64_t, 3>>{{1024, 576, 32000}, {1024, 384, 4096}}) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const std::string name = fmt::format("linear_cross_entropy_both N{} E{} V{} {}", tokens, width,
                                           vocabulary, dtype_name(compute));
      if (!report.wanted(name)) continue;
      const double seconds =
          fastest(options, "linear_cross_entropy_both",
                  {random_tensor({tokens, width}, 1), random_tensor({vocabulary, width}, 2),
                   repeat({tokens}, {5, 700, 31, 4000, 77}), random_tensor({tokens}, 3)},
                  {{"compute", compute}}, team);
      const double flops = 6.0 * static_cast<double>(tokens * width * vocabulary);
      report.line(name, seconds, flops / seconds * 1e-9, measure_fma_ceiling(compute, team) * 1e-9,
                  "GFLOP/s");
    }
  }
}

void bench_rows(const Options& options, const Report& report, ThreadTeam& team, double bandwidth) {
  const Shape big = {4096, 4096};
  if (report.wanted("adamw_update")) {
    const double seconds =
        fastest(options, "adamw_update",
                {random_tensor(big, 1), random_tensor(big, 2), random_tensor(big, 3), random_tensor(big, 4),
                 Tensor::scalar<float>(1e-3f), Tensor::scalar<float>(10), Tensor::scalar<float>(1)},
                {{"beta1", 0.9}, {"beta2", 0.95}, {"epsilon", 1e-8}, {"weight_decay", 0.1}}, team);
    report.line("adamw_update, 4 reads and 3 writes", seconds, 7.0 * 4 * 4096 * 4096 / seconds * 1e-9,
                bandwidth * 1e-9, "GB/s");
  }
  const Shape rows = {2048, 768};
  const Tensor x = random_tensor(rows, 1), weight = random_tensor({768}, 2), dy = random_tensor(rows, 3);
  const Attrs epsilon = {{"epsilon", 1e-5}};
  const double bytes = 4.0 * 2048 * 768;
  const auto line = [&](const char* op, const std::vector<Tensor>& operands, const Attrs& attrs,
                        double passes) {
    if (!report.wanted(op)) return;
    const double seconds = fastest(options, op, operands, attrs, team);
    report.line(fmt::format("{} 2048 x 768", op), seconds, passes * bytes / seconds * 1e-9, bandwidth * 1e-9,
                "GB/s");
  };
  line("rms_norm", {x, weight}, epsilon, 2);
  line("rms_norm_grad", {x, weight, dy}, epsilon, 3);
  line("swiglu", {x, dy}, {}, 3);
  line("swiglu_grad", {x, dy, dy}, {}, 5);
  line("gelu", {x}, {{"tanh_approximation", true}}, 2);
  line("softmax", {x}, {}, 2);
}

void run(const Options& options) {
  ThreadTeam team(options.threads);
  const Report report(options);
  const double flops = measure_fma_ceiling(DType::kF32, team), bandwidth = measure_read_bandwidth(team);
  bench_training(options, report, team, flops);
  bench_decode(options, report, team, bandwidth);
  bench_loss(options, report, team);
  bench_rows(options, report, team, bandwidth);
}

}  // namespace
}  // namespace vertebra

int main(int argc, char** argv) {
  CLI::App app("Fused kernels as shares of the machine's ceilings", "bench_attention");
  vertebra::bench::CommonOptions options;
  options.rounds = 9;
  add_common(app, options);
  return vertebra::bench::bench_main(app, argc, argv, [&] { vertebra::run(options); });
}
