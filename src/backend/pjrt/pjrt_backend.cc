#include "backend/pjrt/pjrt_backend.h"

#include <algorithm>
#include <chrono>

#include "backend/pjrt/client.h"
#include "backend/pjrt/compiler.h"
#include "backend/pjrt/pjrt_buffer.h"
#include "backend/pjrt/pjrt_executable.h"
#include "backend/pjrt/prepare_graph.h"
#include "base/error.h"
#include "ops/ops.h"

namespace vertebra {
namespace {

using pjrt::Client;
using pjrt::Compiler;
using pjrt::DeviceMesh;
using pjrt::PjrtBuffer;

class PjrtBackend final : public Backend {
 public:
  PjrtBackend(std::shared_ptr<const DeviceMesh> mesh, const PjrtBackendOptions& options)
      : mesh_(std::move(mesh)),
        client_(mesh_->client),
        compiler_(std::make_shared<Compiler>(*mesh_, options.cache ? *options.cache : default_cache())),
        name_(options.device_name),
        index_(options.device_index) {}

  DeviceInfo device() const override {
    const pjrt::DeviceDescription& description = client_->devices()[index_];
    const pjrt::Plugin& plugin = client_->plugin();
    return {fmt::format("{}:{}", name_, index_), description.kind, mesh_->memory_bytes,
            fmt::format("{}, PJRT {}, StableHLO {}", plugin.file().string(), plugin.api_version(),
                        plugin.stablehlo_version())};
  }
  std::unique_ptr<Executable> compile(const Graph& graph) override {
    return std::make_unique<pjrt::PjrtExecutable>(
        mesh_, compiler_, pjrt::prepare_graph(graph, client_->plugin().vendor(), mesh_->mesh));
  }
  std::unique_ptr<Buffer> allocate(const TensorType& type) override { return allocate_sharded(type, {}); }
  std::unique_ptr<Buffer> upload(const Tensor& host) override { return upload_sharded(host, {}); }
  Mesh mesh() const override { return mesh_->mesh; }
  std::unique_ptr<Buffer> allocate_sharded(const TensorType& type, const Sharding& sharding) override {
    return std::make_unique<PjrtBuffer>(mesh_, type, sharding);
  }
  std::unique_ptr<Buffer> upload_sharded(const Tensor& host, const Sharding& sharding) override {
    auto buffer = std::make_unique<PjrtBuffer>(mesh_, host.type(), sharding);
    buffer->copy_from(host);
    return buffer;
  }
  bool native_bf16() const override { return client_->plugin().vendor().native_bf16; }
  double peak_flops(DType dtype) override;
  double memory_bandwidth() const override {
    const pjrt::Chip* found = chip();
    return found == nullptr ? 0 : found->bandwidth_bytes_per_second * static_cast<double>(mesh_->size());
  }

 private:
  static std::filesystem::path default_cache() {
    const std::filesystem::path folder = pjrt::cache_folder();
    return folder.empty() ? folder : folder / "executables";
  }
  const pjrt::Chip* chip() const {
    return pjrt::find_chip(client_->plugin().vendor(), client_->devices()[index_].kind);
  }
  double measure_peak(DType dtype);

  std::shared_ptr<const DeviceMesh> mesh_;
  std::shared_ptr<Client> client_;
  std::shared_ptr<Compiler> compiler_;
  std::string name_;
  size_t index_;
  double peak_f32_ = 0, peak_bf16_ = 0;
};

double PjrtBackend::peak_flops(DType dtype) {
  const bool bf16 = dtype == DType::kBF16;
  if (const pjrt::Chip* found = chip()) {
    const double stated = bf16 ? found->bf16_flops : found->f32_flops;
    if (stated > 0) return stated * static_cast<double>(mesh_->size());
  }
  double& peak = bf16 ? peak_bf16_ : peak_f32_;
  if (peak == 0) peak = measure_peak(bf16 ? DType::kBF16 : DType::kF32);
  return peak;
}

// For chips that the table does not have: the best of a few products of 1024 x 1024 matrices, the rows cut
// over the mesh.
double PjrtBackend::measure_peak(DType dtype) {
  constexpr int64_t kSize = 1024;
  const auto devices = static_cast<int64_t>(mesh_->size());
  const int64_t rows = (kSize + devices - 1) / devices * devices;
  const TensorType type = {DType::kF32, {rows, kSize}}, square = {DType::kF32, {kSize, kSize}};
  const Sharding by_rows = {{{kMeshAxes.begin(), kMeshAxes.end()}}};
  Graph graph;
  const Value a = graph.parameter("a", type, by_rows), b = graph.parameter("b", square);
  graph.add_output("c", matmul(a, b, dtype), {}, by_rows);
  const std::unique_ptr<Executable> executable = compile(graph);
  const std::unique_ptr<Buffer> left = upload_sharded(Tensor::zeros(type), by_rows),
                                right = upload(Tensor::zeros(square)),
                                product = allocate_sharded(type, by_rows);
  Buffer* const inputs[] = {left.get(), right.get()};
  Buffer* const outputs[] = {product.get()};
  double best = 1e30;
  for (int i = 0; i < 4; ++i) {
    const auto start = std::chrono::steady_clock::now();
    executable->run(inputs, outputs);
    product->to_host();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return 2.0 * static_cast<double>(rows) * kSize * kSize / best;
}

}  // namespace

std::unique_ptr<Backend> make_pjrt_backend(const PjrtBackendOptions& options) {
  const pjrt::Vendor& vendor =
      options.vendor != nullptr ? *options.vendor : pjrt::vendor_of_file(options.plugin.string());
  DeviceMesh mesh;
  mesh.mesh = options.mesh;
  const auto wanted = static_cast<size_t>(options.mesh.devices());
  mesh.client = std::make_shared<Client>(pjrt::Plugin::load(options.plugin, vendor), options.mesh.devices());
  const size_t found = mesh.client->devices().size();
  require(options.device_index < found, Code::kOutOfRange,
          "device {} of {} was asked for; it has {} (numbered from 0)", options.device_index,
          options.device_name, found);
  require(options.device_index + wanted <= found, Code::kOutOfRange,
          "the mesh ({}) needs {} devices from number {} of {} on, which has {}: make the recipe's [mesh] "
          "smaller",
          options.mesh.to_string(), wanted, options.device_index, options.device_name, found);
  for (size_t i = 0; i < wanted; ++i) mesh.devices.push_back(options.device_index + i);
  const pjrt::DeviceDescription& first = mesh.client->devices()[options.device_index];
  mesh.memory_bytes = first.memory_bytes;
  if (const pjrt::Chip* chip = pjrt::find_chip(vendor, first.kind); chip != nullptr && mesh.memory_bytes == 0)
    mesh.memory_bytes = static_cast<uint64_t>(chip->memory_bytes);
  return std::make_unique<PjrtBackend>(std::make_shared<const DeviceMesh>(std::move(mesh)), options);
}

}  // namespace vertebra
