#include "backend/pjrt/compiler.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "backend/pjrt/compile_options.h"
#include "backend/pjrt/verify_stablehlo.h"
#include "base/error.h"
#include "base/log.h"
#include "base/sha256.h"

namespace vertebra::pjrt {

LoadedExecutable::LoadedExecutable(std::shared_ptr<Client> client, LoadedExecutableHandle* handle)
    : client_(std::move(client)), handle_(handle) {}

LoadedExecutable::~LoadedExecutable() {
  client_->plugin().call_quietly(Slot::kLoadedExecutableDestroy, LoadedExecutableArgs{{}, handle_},
                                 "free an executable");
}

template <class Use>
void LoadedExecutable::describe(Use&& use) const {
  const Plugin& plugin = client_->plugin();
  GetExecutableArgs args = {{}, handle_, nullptr};
  plugin.call(Slot::kLoadedExecutableGetExecutable, args, "describe an executable");
  const auto destroy = [&] {
    plugin.call_quietly(Slot::kExecutableDestroy, ExecutableArgs{{}, args.executable}, "free a description");
  };
  try {
    use(plugin, args.executable);
  } catch (...) {
    destroy();
    throw;
  }
  destroy();
}

size_t LoadedExecutable::output_count() const {
  ExecutableNumOutputsArgs args = {};
  describe([&](const Plugin& plugin, ExecutableHandle* executable) {
    args.executable = executable;
    plugin.call(Slot::kExecutableNumOutputs, args, "count an executable's outputs");
  });
  return args.num_outputs;
}

uint64_t LoadedExecutable::temporary_bytes() const {
  CompiledMemoryStatsArgs args = {};
  describe([&](const Plugin& plugin, ExecutableHandle* executable) {
    if (!plugin.has(Slot::kGetCompiledMemoryStats)) return;
    args.executable = executable;
    try {
      plugin.call(Slot::kGetCompiledMemoryStats, args, "read an executable's memory");
    } catch (const Error& error) {  // an answer: the plugin does not know
      log_debug("{}", error.what());
    }
  });
  return static_cast<uint64_t>(std::max<int64_t>(args.temp_bytes, 0));
}

std::string LoadedExecutable::serialize() const {
  std::string out;
  describe([&](const Plugin& plugin, ExecutableHandle* executable) {
    if (!plugin.has(Slot::kExecutableSerialize) || !plugin.has(Slot::kDeserializeAndLoad)) return;
    ExecutableSerializeArgs args = {};
    args.executable = executable;
    try {
      plugin.call(Slot::kExecutableSerialize, args, "serialize an executable");
      out.assign(args.bytes, args.bytes_size);
      if (args.deleter != nullptr) args.deleter(args.serialized);
    } catch (const Error& error) {  // an answer: the plugin cannot, and nothing is cached
      log_debug("{}", error.what());
    }
  });
  return out;
}

LoadedExecutable::OptimizedProgram LoadedExecutable::optimized_program() const {
  OptimizedProgram out;
  describe([&](const Plugin& plugin, ExecutableHandle* executable) {
    Padded<Program> program;
    plugin.set_size(program);
    OptimizedProgramArgs args = {{}, executable, &program.value};
    plugin.call(Slot::kExecutableOptimizedProgram, args, "read the size of the compiled program");
    out.format.assign(program.value.format, program.value.format_size);
    out.code.resize(program.value.code_size);
    program.value.code = out.code.data();
    plugin.call(Slot::kExecutableOptimizedProgram, args, "read the compiled program");
  });
  return out;
}

Compiler::Compiler(const DeviceMesh& mesh, std::filesystem::path cache)
    : client_(mesh.client), cache_(std::move(cache)), mesh_(mesh.mesh) {
  const DeviceDescription& device = client_->devices().at(mesh.devices.at(0));
  options_ = compile_options(mesh.ids(), client_->plugin().vendor().partitioner);
  const char* flags = std::getenv("XLA_FLAGS");
  // The file itself: two versions of a plugin may report the same fingerprint, and one loads the other's
  // executables and computes garbage.
  environment_ = sha256_file(client_->plugin().file()) + "\n" + device.kind + "\n" +
                 client_->platform_version() + "\n" + host_features() + (flags == nullptr ? "" : flags) +
                 "\n" + sha256_hex(options_) + "\n";
}

std::unique_ptr<LoadedExecutable> Compiler::compile(const std::string& module) {
  verify_stablehlo(module, client_->plugin().vendor(), mesh_);
  const std::string key = sha256_hex(environment_ + module);
  if (auto cached = load_cached(key)) return cached;
  std::unique_ptr<LoadedExecutable> out = compile_anew(module);
  if (const std::string bytes = out->serialize(); !bytes.empty()) cache_.store(key, bytes);
  return out;
}

std::unique_ptr<LoadedExecutable> Compiler::load_cached(const std::string& key) {
  const std::optional<std::string> bytes = cache_.load(key);
  if (!bytes) return nullptr;
  DeserializeArgs args = {};
  args.client = client_->handle();
  args.bytes = bytes->data();
  args.bytes_size = bytes->size();
  try {
    client_->plugin().call(Slot::kDeserializeAndLoad, args, "load a cached executable");
  } catch (const Error& error) {  // an answer: there is no usable entry
    log_warning("{}; compiling again", error.what());
    cache_.remove(key);
    return nullptr;
  }
  return std::make_unique<LoadedExecutable>(client_, args.executable);
}

std::unique_ptr<LoadedExecutable> Compiler::compile_anew(const std::string& module) {
  const auto start = std::chrono::steady_clock::now();
  std::string code = module;
  Padded<Program> program;
  client_->plugin().set_size(program);
  program.value.code = code.data();
  program.value.code_size = code.size();
  program.value.format = "mlir";
  program.value.format_size = 4;
  CompileArgs args = {};
  args.client = client_->handle();
  args.program = &program.value;
  args.compile_options = options_.data();
  args.compile_options_size = options_.size();
  const auto lines = std::count(code.begin(), code.end(), '\n');
  log_debug("compiling {} lines of StableHLO for {}", lines, client_->platform_name());
  client_->plugin().call(Slot::kClientCompile, args, "compile the graph");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (seconds.count() > 1)
    log_info("compiled {} lines of StableHLO for {} in {:.1f} s", lines, client_->platform_name(),
             seconds.count());
  return std::make_unique<LoadedExecutable>(client_, args.executable);
}

}  // namespace vertebra::pjrt
