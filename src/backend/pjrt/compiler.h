// From module text to an executable of the plugin: the verifier, the cache on disk, the plugin's compiler.
#pragma once

#include <memory>
#include <string>

#include "backend/pjrt/device_mesh.h"
#include "backend/pjrt/executable_cache.h"

namespace vertebra::pjrt {

// An executable of the plugin; destroyed with this, before the client.
class LoadedExecutable {
 public:
  LoadedExecutable(std::shared_ptr<Client> client, LoadedExecutableHandle* handle);
  ~LoadedExecutable();
  LoadedExecutable(const LoadedExecutable&) = delete;
  LoadedExecutable& operator=(const LoadedExecutable&) = delete;

  LoadedExecutableHandle* handle() const { return handle_; }
  size_t output_count() const;
  uint64_t temporary_bytes() const;  // 0: the plugin does not say
  // Empty when the plugin cannot.
  std::string serialize() const;
  // What the compiler made of the module, in the plugin's own format ("hlo", "hlo_with_config": protocol
  // buffers). Throws unimplemented when the plugin does not tell.
  struct OptimizedProgram {
    std::string format, code;
  };
  OptimizedProgram optimized_program() const;

 private:
  // Calls `use` with the plugin's description of the executable.
  template <class Use>
  void describe(Use&& use) const;
  std::shared_ptr<Client> client_;
  LoadedExecutableHandle* handle_;
};

class Compiler {
 public:
  Compiler(const DeviceMesh& mesh, std::filesystem::path cache);
  // Throws invalid_argument or unimplemented when the module does not pass the verifier or the plugin's
  // compiler.
  std::unique_ptr<LoadedExecutable> compile(const std::string& module);

 private:
  std::unique_ptr<LoadedExecutable> load_cached(const std::string& key);
  std::unique_ptr<LoadedExecutable> compile_anew(const std::string& module);
  std::shared_ptr<Client> client_;
  ExecutableCache cache_;
  Mesh mesh_;
  std::string options_;
  std::string environment_;  // everything but the module that an executable depends on
};

}  // namespace vertebra::pjrt
