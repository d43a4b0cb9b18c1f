// A loaded PJRT plugin: the library, its function table, its version and attributes. Turns the plugin's
// errors into Error and its missing functions into words. Never unloaded: plugins keep threads that outlive
// their handles.
#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "backend/pjrt/pjrt_structs.h"
#include "backend/pjrt/vendors.h"

namespace vertebra::pjrt {

// Places in the function table.
enum class Slot : int {
  kErrorDestroy = 0,
  kErrorMessage = 1,
  kErrorGetCode = 2,
  kPluginInitialize = 3,
  kPluginAttributes = 4,
  kEventDestroy = 5,
  kEventAwait = 8,
  kClientCreate = 10,
  kClientDestroy = 11,
  kClientPlatformName = 12,
  kClientPlatformVersion = 14,
  kClientAddressableDevices = 16,
  kClientCompile = 20,
  kBufferFromHostBuffer = 22,
  kDescriptionId = 23,
  kDescriptionKind = 26,
  kDeviceGetDescription = 29,
  kDeviceMemoryStats = 34,
  kExecutableDestroy = 40,
  kExecutableNumOutputs = 44,
  kExecutableOptimizedProgram = 48,
  kExecutableSerialize = 49,
  kLoadedExecutableDestroy = 50,
  kLoadedExecutableGetExecutable = 51,
  kLoadedExecutableExecute = 55,
  kDeserializeAndLoad = 56,
  kBufferDestroy = 58,
  kBufferIsDeleted = 68,
  kBufferToHostBuffer = 70,
  kGetCompiledMemoryStats = 96,
};

// A structure with zeros behind it. A plugin that knows a longer one reads the zeros as "not set".
template <class T>
struct Padded {
  T value{};
  std::byte beyond[200]{};
};

class Plugin {
 public:
  // Sets the vendor's environment, opens the library and initializes it. Throws invalid_argument for a file
  // that is no plugin, unimplemented for one too old or of another major version, not_found for no file; the
  // plugin's own errors as they are.
  static std::shared_ptr<Plugin> load(const std::filesystem::path& file, const Vendor& vendor);

  const std::filesystem::path& file() const { return file_; }
  const Vendor& vendor() const { return *vendor_; }
  std::string api_version() const;        // "0.115"
  std::string stablehlo_version() const;  // "1.20.0", or "unknown"
  bool has(Slot slot) const { return address(slot) != nullptr; }

  // Fills in the size, calls, and throws what the plugin reports, prefixed by `what`. Throws unimplemented
  // when the plugin lacks the function.
  template <class Args>
  void call(Slot slot, Args& args, const char* what) const {
    Padded<Args> padded;
    padded.value = args;
    set_size(padded);
    ErrorHandle* error = reinterpret_cast<Function>(require_address(slot, what))(&padded.value);
    args = padded.value;
    if (error != nullptr) raise(error, what);
  }
  // The same for destructors, which cannot throw: errors are logged.
  template <class Args>
  void call_quietly(Slot slot, Args args, const char* what) const noexcept {
    try {
      call(slot, args, what);
    } catch (const std::exception& error) {
      report(error.what());
    }
  }
  template <class T>
  void set_size(Padded<T>& padded) const {
    padded.value.header.struct_size =
        stated_size<T>() + (vendor_->accepts_longer_structs ? sizeof(padded.beyond) : 0);
  }

  // Waits for the event and destroys it; throws what it carries. Null: nothing to wait for.
  void await(EventHandle* event, const char* what) const;

 private:
  using Function = ErrorHandle* (*)(void*);
  Plugin(std::filesystem::path file, const Vendor& vendor, const Api* api);
  void* address(Slot slot) const;  // null when the table has none
  void* require_address(Slot slot, const char* what) const;
  [[noreturn]] void raise(ErrorHandle* error, const char* what) const;
  static void report(const char* message) noexcept;
  void read_attributes();

  std::filesystem::path file_;
  const Vendor* vendor_;
  const Api* api_;
  std::map<std::string, std::string> attributes_;
};

}  // namespace vertebra::pjrt
