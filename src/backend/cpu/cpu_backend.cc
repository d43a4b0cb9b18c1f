#include "backend/cpu/cpu_backend.h"

#include <unistd.h>

#include <fstream>

#include "backend/cpu/ceiling.h"
#include "backend/cpu/cpu_buffer.h"
#include "backend/cpu/cpu_executable.h"
#include "graph/op.h"
#include "transforms/fuse_elementwise.h"
#include "transforms/passes.h"

namespace vertebra {
namespace {

using cpu::CpuBuffer;
using cpu::CpuExecutable;

bool has_kernel(const Node& node) {
  const cpu::KernelFactory factory = cpu::find_kernel_factory(node.op->name);
  return factory != nullptr && factory(node) != nullptr;
}

Graph prepare(const Graph& graph) {
  const Graph merged = fuse(eliminate_common_subexpressions(eliminate_dead_code(graph)));
  const Graph primitive = decompose(merged, [](const Node& node) { return has_kernel(node); });
  const Graph grouped =
      group_linears(eliminate_dead_code(eliminate_common_subexpressions(primitive)), [](const Node& linear) {
        return is_block_quantized(linear.operands[1].dtype()) && has_kernel(linear);
      });
  return eliminate_dead_code(fuse_elementwise(grouped));
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "processor of unknown name";
}

uint64_t memory_bytes() {
  const long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page_size > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_size) : 0;
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options)
      : team_(options.team != nullptr ? *options.team : global_thread_team()) {
    if (options.isa.has_value()) set_isa(*options.isa);
  }

  DeviceInfo device() const override {
    return {"cpu", processor_name(), memory_bytes(),
            fmt::format("{} threads, {} kernels", team_.size(), isa_name(active_isa()))};
  }
  std::unique_ptr<Executable> compile(const Graph& graph) override {
    return std::make_unique<CpuExecutable>(prepare(graph), team_);
  }
  std::unique_ptr<Buffer> allocate(const TensorType& type) override {
    return std::make_unique<CpuBuffer>(type, team_);
  }
  std::unique_ptr<Buffer> upload(const Tensor& host) override {
    auto buffer = std::make_unique<CpuBuffer>(host.type(), team_);
    buffer->copy_from(host);
    return buffer;
  }
  bool host_memory() const override { return true; }
  bool native_bf16() const override {
    return active_isa() == Isa::kAvx512Bf16 || active_isa() == Isa::kNeonBf16;
  }
  double peak_flops(DType dtype) override;

 private:
  ThreadTeam& team_;
  double peak_f32_ = 0, peak_bf16_ = 0;
};

// Measured once per element type: it takes 20 ms.
double CpuBackend::peak_flops(DType dtype) {
  double& peak = dtype == DType::kBF16 ? peak_bf16_ : peak_f32_;
  if (peak == 0) peak = measure_fma_ceiling(dtype == DType::kBF16 ? dtype : DType::kF32, team_);
  return peak;
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace vertebra
