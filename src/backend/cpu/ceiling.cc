#include "backend/cpu/ceiling.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "backend/cpu/kernels/ceiling.h"
#include "base/error.h"

namespace vertebra {
namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::atomic<float> sink;

}  // namespace

double measure_fma_ceiling(DType dtype, ThreadTeam& team, const KernelTable& table) {
  require(dtype == DType::kF32 || dtype == DType::kBF16, Code::kUnimplemented,
          "the multiply-add ceiling is measured for f32 and bf16, not {}", dtype_name(dtype));
  const CeilingKernels& k = *table.ceiling;
  const bool bf16 = dtype == DType::kBF16;
  const auto run = bf16 ? k.multiply_add_bf16 : k.multiply_add_f32;
  const int64_t flops = bf16 ? k.flops_per_round_bf16 : k.flops_per_round_f32;
  constexpr int64_t kRounds = 40000;  // about 0.5 ms
  double best_s = 1e30;
  for (int pass = 0; pass < 40; ++pass) {
    const double start = now_s();
    team.run([&](int) { sink.store(run(kRounds), std::memory_order_relaxed); });
    best_s = std::min(best_s, now_s() - start);
  }
  return static_cast<double>(flops) * kRounds * team.size() / best_s;
}

double measure_int8_ceiling(ThreadTeam& team, const KernelTable& table) {
  const CeilingKernels& k = *table.ceiling;
  constexpr int64_t kRounds = 20000;
  double best_s = 1e30;
  for (int pass = 0; pass < 40; ++pass) {
    const double start = now_s();
    team.run([&](int) {
      sink.store(static_cast<float>(k.multiply_add_int8(kRounds)), std::memory_order_relaxed);
    });
    best_s = std::min(best_s, now_s() - start);
  }
  return static_cast<double>(k.multiply_adds_per_round_int8) * kRounds * team.size() / best_s;
}

double measure_read_bandwidth(ThreadTeam& team, const KernelTable& table, int64_t size_bytes) {
  constexpr int64_t kWhole = int64_t{256} << 20, kChunk = int64_t{1} << 18;
  const int64_t chunks = std::max<int64_t>(1, size_bytes / kChunk), size = chunks * kChunk;
  const std::unique_ptr<void, void (*)(void*)> buffer(std::aligned_alloc(4096, static_cast<size_t>(size)),
                                                      std::free);
  require(buffer != nullptr, Code::kResourceExhausted, "no memory for a buffer of {} bytes to read", size);
  auto* bytes = static_cast<std::byte*>(buffer.get());
  team.parallel_for(chunks, [&](int64_t chunk, int) { std::memset(bytes + chunk * kChunk, 1, kChunk); });
  double best_s = 1e30;
  const int64_t passes = std::clamp<int64_t>(6 * kWhole / size, 6, 60);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const double start = now_s();
    team.parallel_for(chunks, [&](int64_t chunk, int) {
      sink.store(table.ceiling->read(bytes + chunk * kChunk, kChunk), std::memory_order_relaxed);
    });
    best_s = std::min(best_s, now_s() - start);
  }
  return static_cast<double>(size) / best_s;
}

}  // namespace vertebra
