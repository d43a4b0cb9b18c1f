// Matrix multiplication: our kernels, from plain and from packed weights, interleaved with OpenBLAS and
// oneDNN and with the measurement of the ceilings, medians of the rounds.
//   bench_gemm [--json] [--isa NAME] [--threads N] [--rounds N] [--dtype f32|bf16] [--shape M,N,K[,t]]...
// The ceiling of a shape is the smaller of the multiply-add rate and the memory's rate times its operations a
// byte of B: what M = 1 can reach. "t": B is stored [N, K], as in a torch Linear.
#include "backend/cpu/gemm.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "backend/cpu/ceiling.h"
#include "base/error.h"
#include "bench/figure.h"
#include "bench/options.h"

#if defined(VERTEBRA_OPENBLAS)
#include <cblas-openblas.h>
#endif
#if defined(VERTEBRA_DNNL)
#include <dnnl.hpp>
extern "C" void omp_set_num_threads(int);  // of the OpenMP run time oneDNN brings
#endif

namespace vertebra {
namespace {

using bench::median;
using bench::now_s;

struct Shape {
  int64_t m, n, k;
  bool b_transposed;
};

struct Options : bench::CommonOptions {
  std::vector<Shape> shapes;
  std::vector<DType> dtypes = {DType::kF32, DType::kBF16};
};

struct Operands {
  std::vector<float> a, b, c;
  std::vector<uint16_t> a16, b16;

  explicit Operands(const Shape& s) {
    const auto fill = [](std::vector<float>& x, std::vector<uint16_t>& half, int64_t size, uint32_t state) {
      x.resize(static_cast<size_t>(size));
      half.resize(x.size());
      for (size_t i = 0; i < x.size(); ++i) {
        state = state * 1664525u + 1013904223u;
        x[i] = static_cast<float>(static_cast<int>(state >> 24) - 128) / 128.0f;
        half[i] = float_to_bf16(x[i]);
      }
    };
    fill(a, a16, s.m * s.k, 1);
    fill(b, b16, s.k * s.n, 2);
    c.assign(static_cast<size_t>(s.m * s.n), 0.0f);
  }
};

struct Contender {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;
};

#if defined(VERTEBRA_DNNL)
// A oneDNN matmul; with `packed`, its weights are laid out as it likes best, once.
std::function<void()> dnnl_matmul(const Shape& s, DType dtype, Operands& o, bool packed) {
  using dnnl::memory;
  static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  static dnnl::stream stream(engine);
  const auto type = dtype == DType::kBF16 ? memory::data_type::bf16 : memory::data_type::f32;
  void* a = dtype == DType::kBF16 ? static_cast<void*>(o.a16.data()) : o.a.data();
  void* b = dtype == DType::kBF16 ? static_cast<void*>(o.b16.data()) : o.b.data();
  const memory::desc a_desc({s.m, s.k}, type, memory::format_tag::ab);
  const memory::desc b_desc({s.k, s.n}, type,
                            s.b_transposed ? memory::format_tag::ba : memory::format_tag::ab);
  const memory::desc any({s.k, s.n}, type, memory::format_tag::any);
  const memory::desc c_desc({s.m, s.n}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc primitive_desc(dnnl::matmul::desc(a_desc, packed ? any : b_desc, c_desc),
                                                    engine);
  const dnnl::matmul primitive(primitive_desc);
  memory a_memory(a_desc, engine, a), b_memory(b_desc, engine, b), c_memory(c_desc, engine, o.c.data());
  if (packed && primitive_desc.weights_desc() != b_desc) {
    memory reordered(primitive_desc.weights_desc(), engine);
    dnnl::reorder(b_memory, reordered).execute(stream, b_memory, reordered);
    stream.wait();
    b_memory = reordered;
  }
  return [=]() mutable {
    primitive.execute(stream,
                      {{DNNL_ARG_SRC, a_memory}, {DNNL_ARG_WEIGHTS, b_memory}, {DNNL_ARG_DST, c_memory}});
    stream.wait();
  };
}
#endif

std::vector<Contender> contenders(const Shape& s, DType dtype, Operands& o, PackedMatrix& packed,
                                  std::vector<std::byte>& workspace, ThreadTeam& team) {
  const bool bf16 = dtype == DType::kBF16;
  GemmArgs args;
  args.m = s.m;
  args.n = s.n;
  args.k = s.k;
  args.a = bf16 ? static_cast<const void*>(o.a16.data()) : o.a.data();
  args.a_dtype = dtype;
  args.lda = s.k;
  args.b = bf16 ? static_cast<const void*>(o.b16.data()) : o.b.data();
  args.b_dtype = dtype;
  args.b_transposed = s.b_transposed;
  args.ldb = s.b_transposed ? s.k : s.n;
  args.c = o.c.data();
  args.ldc = s.n;
  pack_b(packed, args.b, dtype, s.k, s.n, args.ldb, s.b_transposed, team);
  workspace.resize(gemm_workspace_bytes(args, team.size()));
  std::vector<Contender> list;
  list.push_back({"vertebra", [=, &workspace, &team] { gemm(args, workspace, team); }, {}});
  GemmArgs with_packed = args;
  with_packed.b_packed = &packed;
  list.push_back({"vertebra packed", [=, &workspace, &team] { gemm(with_packed, workspace, team); }, {}});
#if defined(VERTEBRA_OPENBLAS)
  if (!bf16) {
    list.push_back({"OpenBLAS",
                    [=] {
                      cblas_sgemm(CblasRowMajor, CblasNoTrans, s.b_transposed ? CblasTrans : CblasNoTrans,
                                  static_cast<int>(s.m), static_cast<int>(s.n), static_cast<int>(s.k), 1.0f,
                                  static_cast<const float*>(args.a), static_cast<int>(s.k),
                                  static_cast<const float*>(args.b), static_cast<int>(args.ldb), 0.0f,
                                  static_cast<float*>(args.c), static_cast<int>(s.n));
                    },
                    {}});
  }
#endif
#if defined(VERTEBRA_DNNL)
  list.push_back({"oneDNN", dnnl_matmul(s, dtype, o, false), {}});
  list.push_back({"oneDNN packed", dnnl_matmul(s, dtype, o, true), {}});
#endif
  return list;
}

// What bounds a shape: multiply-adds, or reading B from memory; measured beside the contenders, because the
// clock and the neighbours' traffic change from second to second.
struct Ceiling {
  DType dtype;
  double flops_per_byte;  // of B; 0 when it stays in a cache
  std::vector<double> rates;

  void measure(ThreadTeam& team) {
    const double fma = measure_fma_ceiling(dtype, team);
    rates.push_back(flops_per_byte > 0 ? std::min(fma, measure_read_bandwidth(team) * flops_per_byte) : fma);
  }
};

void measure(std::vector<Contender>& list, double flops, Ceiling& ceiling, int rounds, ThreadTeam& team) {
  for (int round = -1; round < rounds; ++round) {
    if (round <= 0) ceiling.rates.clear();
    ceiling.measure(team);
    // Enough repetitions for 4 ms, at least one.
    const int repeats = static_cast<int>(std::clamp(4e-3 * ceiling.rates.back() / flops, 1.0, 2000.0));
    for (Contender& c : list) {
      // The one before may have left threads spinning (OpenMP does, for milliseconds): let them go to sleep.
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      // Then the own ones wake up, and the scheduler takes some milliseconds to give each a core.
      const double awake = now_s() + 10e-3;
      do c.run();
      while (now_s() < awake);
      const double start = now_s();
      for (int i = 0; i < repeats; ++i) c.run();
      if (round >= 0) c.seconds.push_back((now_s() - start) / repeats);
    }
  }
}

void report(const Options& options, const Shape& s, DType dtype, double ceiling, std::vector<Contender>& list,
            const std::string& device) {
  const double flops = 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
  const std::string name =
      fmt::format("{} {}x{}x{}{}", dtype_name(dtype), s.m, s.n, s.k, s.b_transposed ? "t" : "");
  if (!options.json) fmt::print("{:<24}", name);
  for (Contender& c : list) {
    const double rate = flops / median(c.seconds);
    if (options.json) {
      fmt::print(
          "{{\"name\": \"gemm {} {}\", \"value\": {:.2f}, \"unit\": \"GFLOP/s\", \"ceiling\": {:.2f}, "
          "\"share\": "
          "{:.4f}, \"threads\": {}, \"isa\": \"{}\", \"device\": \"{}\", \"model\": null}}\n",
          name, c.name, rate * 1e-9, ceiling * 1e-9, rate / ceiling, options.threads, isa_name(active_isa()),
          device);
    } else {
      fmt::print("  {} {:.1f} ({:.0f}%)", c.name, rate * 1e-9, 100 * rate / ceiling);
    }
  }
  if (!options.json) fmt::print("\n");
  std::fflush(stdout);
}

Shape parse_shape(const std::string& text) {
  Shape s = {};
  char t = 0;
  const int fields = std::sscanf(text.c_str(), "%ld,%ld,%ld,%c", &s.m, &s.n, &s.k, &t);
  if (fields < 3 || s.m <= 0 || s.n <= 0 || s.k <= 0)
    throw CLI::ValidationError("--shape", text + " is not M,N,K or M,N,K,t");
  s.b_transposed = t == 't';
  return s;
}

void run(const Options& options) {
#if defined(VERTEBRA_OPENBLAS)
  openblas_set_num_threads(options.threads);
#endif
#if defined(VERTEBRA_DNNL)
  omp_set_num_threads(options.threads);
#endif
  ThreadTeam team(options.threads);
  const std::string device = bench::device_name();
  for (const DType dtype : options.dtypes) {
    if (!options.json) {
      fmt::print("{}, {} threads, {}, ceilings: {} {:.1f} GFLOP/s, reads {:.1f} GB/s\n", device,
                 options.threads, isa_name(active_isa()), dtype_name(dtype),
                 measure_fma_ceiling(dtype, team) * 1e-9, measure_read_bandwidth(team) * 1e-9);
#if defined(VERTEBRA_OPENBLAS)
      fmt::print("OpenBLAS {}\n", openblas_get_corename());
#endif
    }
    for (const Shape& s : options.shapes) {
      Operands operands(s);
      PackedMatrix packed;
      std::vector<std::byte> workspace;
      std::vector<Contender> list = contenders(s, dtype, operands, packed, workspace, team);
      const double flops =
          2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
      const double b_bytes = static_cast<double>(s.n) * static_cast<double>(s.k) * dtype_size(dtype);
      Ceiling ceiling = {dtype, b_bytes > 48e6 || s.m == 1 ? flops / b_bytes : 0, {}};
      measure(list, flops, ceiling, options.rounds, team);
      report(options, s, dtype, median(ceiling.rates), list, device);
    }
  }
}

}  // namespace
}  // namespace vertebra

int main(int argc, char** argv) {
  using namespace vertebra;
  CLI::App app("Matrix products beside OpenBLAS and oneDNN", "bench_gemm");
  Options options;
  options.rounds = 7;
  bench::add_json_and_threads(app, options.json, options.threads);
  bench::add_rounds(app, options.rounds);
  bench::add_isa(app);
  app.add_option_function<std::string>(
         "--dtype", [&](const std::string& name) { options.dtypes = {*dtype_from_name(name)}; })
      ->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option_function<std::vector<std::string>>(
      "--shape",
      [&](const std::vector<std::string>& texts) {
        for (const std::string& text : texts) options.shapes.push_back(parse_shape(text));
      },
      "M,N,K or M,N,K,t; may be given several times");
  return bench::bench_main(app, argc, argv, [&] {
    if (options.shapes.empty()) {
      options.shapes = {{512, 512, 512, false},    {1024, 1024, 1024, false}, {2048, 2048, 2048, false},
                        {4096, 4096, 4096, false}, {1, 4096, 4096, true},     {8, 4096, 4096, true},
                        {64, 4096, 4096, true},    {1650, 352, 128, true},    {1650, 128, 352, false},
                        {512, 32000, 576, true}};
    }
    run(options);
  });
}
