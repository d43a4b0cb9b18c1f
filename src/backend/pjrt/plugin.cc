#include "backend/pjrt/plugin.h"

#include <dlfcn.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <mutex>
#include <vector>

#include "base/error.h"
#include "base/log.h"

namespace vertebra::pjrt {
namespace {

// Without these nothing runs. All are older than version 0.40.
constexpr Slot kNeeded[] = {
    Slot::kErrorDestroy,
    Slot::kErrorMessage,
    Slot::kErrorGetCode,
    Slot::kPluginInitialize,
    Slot::kEventDestroy,
    Slot::kEventAwait,
    Slot::kClientCreate,
    Slot::kClientDestroy,
    Slot::kClientPlatformName,
    Slot::kClientAddressableDevices,
    Slot::kClientCompile,
    Slot::kBufferFromHostBuffer,
    Slot::kDescriptionId,
    Slot::kDescriptionKind,
    Slot::kDeviceGetDescription,
    Slot::kExecutableDestroy,
    Slot::kExecutableNumOutputs,
    Slot::kLoadedExecutableDestroy,
    Slot::kLoadedExecutableExecute,
    Slot::kLoadedExecutableGetExecutable,
    Slot::kBufferDestroy,
    Slot::kBufferToHostBuffer,
};

Code code_of(int code) { return code >= 1 && code <= 16 ? static_cast<Code>(code) : Code::kUnknown; }

std::string attribute_text(const NamedValue& value) {
  switch (value.type) {
    case NamedValue::kString:
      return {value.string_value, value.value_size};
    case NamedValue::kInt64:
      return std::to_string(value.int64_value);
    case NamedValue::kInt64List: {
      const std::vector<int64_t> list(value.int64_array_value, value.int64_array_value + value.value_size);
      return fmt::format("{}", fmt::join(list, "."));
    }
    case NamedValue::kFloat:
      return fmt::format("{}", value.float_value);
    case NamedValue::kBool:
      return value.bool_value ? "true" : "false";
  }
  return "";
}

}  // namespace

std::shared_ptr<Plugin> Plugin::load(const std::filesystem::path& file, const Vendor& vendor) {
  static std::mutex mutex;
  static std::map<std::pair<std::filesystem::path, const Vendor*>, std::shared_ptr<Plugin>> loaded;
  const std::lock_guard lock(mutex);
  std::error_code failed;
  const std::filesystem::path path = std::filesystem::canonical(file, failed);
  require(!failed && std::filesystem::is_regular_file(path), Code::kNotFound, "there is no plugin file {}",
          file.string());
  if (const auto it = loaded.find({path, &vendor}); it != loaded.end()) return it->second;

  for (const EnvironmentSetting& setting : vendor.environment)
    setenv(std::string(setting.name).c_str(), std::string(setting.value).c_str(), /*overwrite=*/0);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const std::string why = dlerror();
    fail(Code::kInvalidArgument, "{} cannot be loaded: {}{}", path.string(), why,
         why.find("No such file") == std::string::npos
             ? ""
             : "; it belongs to the vendor's software: install that, or name its folder in LD_LIBRARY_PATH");
  }
  void* symbol = dlsym(library, "GetPjrtApi");
  require(symbol != nullptr, "{} is no PJRT plugin: it has no function GetPjrtApi", path.string());
  const Api* api = reinterpret_cast<const Api* (*)()>(symbol)();
  require(api != nullptr && api->header.struct_size > kFirstSlot, Code::kFailedPrecondition,
          "the plugin {} offers no functions", path.string());
  require(api->version.major_version == 0, Code::kUnimplemented,
          "the plugin {} speaks version {}.{} of the PJRT interface; versions 0.x are supported",
          path.string(), api->version.major_version, api->version.minor_version);
  std::shared_ptr<Plugin> plugin(new Plugin(path, vendor, api));
  for (const Slot slot : kNeeded) plugin->require_address(slot, "load the plugin");
  PluginInitializeArgs args = {};
  plugin->call(Slot::kPluginInitialize, args, "initialize the plugin");
  plugin->read_attributes();
  loaded[{path, &vendor}] = plugin;
  return plugin;
}

Plugin::Plugin(std::filesystem::path file, const Vendor& vendor, const Api* api)
    : file_(std::move(file)), vendor_(&vendor), api_(api) {}

std::string Plugin::api_version() const {
  return fmt::format("{}.{}", api_->version.major_version, api_->version.minor_version);
}

std::string Plugin::stablehlo_version() const {
  const auto it = attributes_.find("stablehlo_current_version");
  return it == attributes_.end() ? "unknown" : it->second;
}

void* Plugin::address(Slot slot) const {
  const size_t offset = kFirstSlot + static_cast<size_t>(slot) * sizeof(void*);
  if (offset + sizeof(void*) > api_->header.struct_size) return nullptr;
  void* out = nullptr;
  std::memcpy(&out, reinterpret_cast<const std::byte*>(api_) + offset, sizeof(out));
  return out;
}

void* Plugin::require_address(Slot slot, const char* what) const {
  void* found = address(slot);
  require(found != nullptr, Code::kUnimplemented,
          "the plugin {} (PJRT {}) is too old: it lacks function {}, needed to {}; take a newer one",
          file_.string(), api_version(), static_cast<int>(slot), what);
  return found;
}

void Plugin::raise(ErrorHandle* error, const char* what) const {
  // These two functions return nothing.
  using VoidFunction = void (*)(void*);
  Padded<ErrorMessageArgs> message;
  message.value.error = error;
  set_size(message);
  reinterpret_cast<VoidFunction>(address(Slot::kErrorMessage))(&message.value);
  std::string text(message.value.message, message.value.message_size);
  Padded<ErrorCodeArgs> code;
  code.value.error = error;
  set_size(code);
  const ErrorHandle* unknown = reinterpret_cast<Function>(address(Slot::kErrorGetCode))(&code.value);
  const int number = unknown == nullptr ? code.value.code : static_cast<int>(Code::kUnknown);
  Padded<ErrorArgs> destroy;
  destroy.value.error = error;
  set_size(destroy);
  reinterpret_cast<VoidFunction>(address(Slot::kErrorDestroy))(&destroy.value);
  throw Error(code_of(number),
              fmt::format("could not {}: {} (plugin {})", what, text, file_.filename().string()));
}

void Plugin::report(const char* message) noexcept {
  try {
    log_warning("{}", message);
  } catch (...) {  // a destructor has nobody to tell
  }
}

void Plugin::read_attributes() {
  if (!has(Slot::kPluginAttributes)) return;
  PluginAttributesArgs args = {};
  try {
    call(Slot::kPluginAttributes, args, "read the plugin's attributes");
  } catch (const Error& error) {  // older plugins have the slot and nothing behind it
    log_debug("{}", error.what());
    return;
  }
  for (size_t i = 0; i < args.num_attributes; ++i) {
    const NamedValue& value = args.attributes[i];
    attributes_[std::string(value.name, value.name_size)] = attribute_text(value);
  }
}

void Plugin::await(EventHandle* event, const char* what) const {
  if (event == nullptr) return;
  EventArgs args = {{}, event};
  const auto destroy = [&] { call_quietly(Slot::kEventDestroy, EventArgs{{}, event}, "destroy an event"); };
  try {
    call(Slot::kEventAwait, args, what);
  } catch (...) {
    destroy();
    throw;
  }
  destroy();
}

}  // namespace vertebra::pjrt
