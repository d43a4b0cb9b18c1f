// The structures of the PJRT C interface that this backend passes, declared anew: what a plugin exports is a
// table of functions that take one structure each, and both only ever grow at their end. Names and order
// follow the interface; sizes are pinned below. Nothing here knows a vendor.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vertebra::pjrt {

// Handles that belong to the plugin.
struct ErrorHandle;
struct EventHandle;
struct ClientHandle;
struct DeviceHandle;
struct DeviceDescriptionHandle;
struct ExecutableHandle;
struct LoadedExecutableHandle;
struct SerializedExecutableHandle;
struct BufferHandle;

// Every structure begins with these two; `struct_size` is the end of the last field that the caller knows.
struct Header {
  size_t struct_size;
  void* extension_start;
};

struct Version {
  Header header;
  int major_version;
  int minor_version;
};

// The table that GetPjrtApi returns: function pointers follow, reached by slot number (slots.h).
struct Api {
  Header header;
  Version version;
};
inline constexpr size_t kFirstSlot = 40;
static_assert(sizeof(Api) == kFirstSlot, "the function pointers of PJRT_Api begin at byte 40");

struct ErrorArgs {  // PJRT_Error_Destroy_Args
  Header header;
  ErrorHandle* error;
};
struct ErrorMessageArgs {
  Header header;
  const ErrorHandle* error;
  const char* message;
  size_t message_size;
};
struct ErrorCodeArgs {
  Header header;
  const ErrorHandle* error;
  int code;
  static constexpr size_t kSize = 28;
};
struct PluginInitializeArgs {
  Header header;
};

struct NamedValue {
  enum Type : int { kString = 0, kInt64, kInt64List, kFloat, kBool };
  Header header;
  const char* name;
  size_t name_size;
  Type type;
  union {
    const char* string_value;
    int64_t int64_value;
    const int64_t* int64_array_value;
    float float_value;
    bool bool_value;
  };
  size_t value_size;
};
struct PluginAttributesArgs {
  Header header;
  const NamedValue* attributes;
  size_t num_attributes;
};

struct EventArgs {  // Destroy, Await, Error
  Header header;
  EventHandle* event;
};

struct ClientCreateArgs {
  Header header;
  const NamedValue* create_options;
  size_t num_options;
  void* kv_get_callback;
  void* kv_get_user_arg;
  void* kv_put_callback;
  void* kv_put_user_arg;
  ClientHandle* client;
  void* kv_try_get_callback;
  void* kv_try_get_user_arg;
};
struct ClientArgs {  // Destroy
  Header header;
  ClientHandle* client;
};
struct ClientTextArgs {  // PlatformName, PlatformVersion
  Header header;
  ClientHandle* client;
  const char* text;
  size_t text_size;
};
struct ClientDevicesArgs {
  Header header;
  ClientHandle* client;
  DeviceHandle* const* devices;
  size_t num_devices;
};
struct Program {
  Header header;
  char* code;
  size_t code_size;
  const char* format;
  size_t format_size;
};
struct CompileArgs {
  Header header;
  ClientHandle* client;
  const Program* program;
  const char* compile_options;
  size_t compile_options_size;
  LoadedExecutableHandle* executable;
};

enum class ElementType : int {
  kInvalid = 0,
  kPred = 1,
  kS8 = 2,
  kS32 = 4,
  kS64 = 5,
  kU8 = 6,
  kU32 = 8,
  kF16 = 10,
  kF32 = 11,
  kF64 = 12,
  kBF16 = 13,
};
enum class HostBufferSemantics : int { kImmutableOnlyDuringCall = 0 };

struct BufferFromHostArgs {
  Header header;
  ClientHandle* client;
  const void* data;
  ElementType type;
  const int64_t* dims;
  size_t num_dims;
  const int64_t* byte_strides;
  size_t num_byte_strides;
  HostBufferSemantics host_buffer_semantics;
  DeviceHandle* device;
  void* memory;
  void* device_layout;
  EventHandle* done_with_host_buffer;
  BufferHandle* buffer;
};
struct MemoryLayout {
  Header header;
  struct Tiled {
    Header header;
    const int64_t* minor_to_major;
    size_t minor_to_major_size;
    const int64_t* tile_dims;
    const size_t* tile_dim_sizes;
    size_t num_tiles;
  } tiled;   // the other member of the interface's union, strides, is smaller
  int type;  // 0: tiled
  static constexpr size_t kSize = 76;
};
struct BufferToHostArgs {
  Header header;
  BufferHandle* source;
  MemoryLayout* host_layout;
  void* destination;
  size_t destination_size;
  EventHandle* event;
};
struct BufferArgs {  // Destroy
  Header header;
  BufferHandle* buffer;
};
struct BufferIsDeletedArgs {
  Header header;
  BufferHandle* buffer;
  bool is_deleted;
  static constexpr size_t kSize = 25;
};

struct DescriptionIdArgs {
  Header header;
  DeviceDescriptionHandle* description;
  int id;
  static constexpr size_t kSize = 28;
};
struct DescriptionTextArgs {  // Kind
  Header header;
  DeviceDescriptionHandle* description;
  const char* text;
  size_t text_size;
};
struct DeviceDescriptionArgs {
  Header header;
  DeviceHandle* device;
  DeviceDescriptionHandle* description;
};
// A count and whether the plugin filled it in.
struct OptionalCount {
  int64_t value;
  bool is_set;
};
struct DeviceMemoryStatsArgs {
  Header header;
  DeviceHandle* device;
  int64_t bytes_in_use;
  OptionalCount peak_bytes_in_use, num_allocs, largest_alloc_size, bytes_limit, bytes_reserved,
      peak_bytes_reserved, bytes_reservable_limit, largest_free_block_bytes, pool_bytes, peak_pool_bytes;
  static constexpr size_t kSize = 185;
};

struct ExecutableArgs {  // Destroy
  Header header;
  ExecutableHandle* executable;
};
struct ExecutableNumOutputsArgs {
  Header header;
  ExecutableHandle* executable;
  size_t num_outputs;
};
struct OptimizedProgramArgs {
  Header header;
  ExecutableHandle* executable;
  Program* program;  // asked for twice: without code for its size, then with memory for it
};
struct ExecutableSerializeArgs {
  Header header;
  const ExecutableHandle* executable;
  const char* bytes;
  size_t bytes_size;
  SerializedExecutableHandle* serialized;
  void (*deleter)(SerializedExecutableHandle*);
};
struct CompiledMemoryStatsArgs {
  Header header;
  ExecutableHandle* executable;
  int64_t generated_code_bytes, argument_bytes, output_bytes, alias_bytes, temp_bytes;
  int64_t host_generated_code_bytes, host_argument_bytes, host_output_bytes, host_alias_bytes,
      host_temp_bytes;
  int64_t peak_bytes;
};
struct LoadedExecutableArgs {  // Destroy
  Header header;
  LoadedExecutableHandle* executable;
};
struct GetExecutableArgs {
  Header header;
  LoadedExecutableHandle* loaded;
  ExecutableHandle* executable;
};
struct ExecuteOptions {
  Header header;
  void* send_callbacks;
  void* recv_callbacks;
  size_t num_send_ops;
  size_t num_recv_ops;
  int launch_id;
  const int64_t* non_donatable_input_indices;
  size_t num_non_donatable_input_indices;
  void* context;
  const char* call_location;
  size_t num_tasks;
  int* task_ids;
  int64_t* incarnation_ids;
};
struct ExecuteArgs {
  Header header;
  LoadedExecutableHandle* executable;
  ExecuteOptions* options;
  BufferHandle* const* const* argument_lists;
  size_t num_devices;
  size_t num_args;
  BufferHandle** const* output_lists;
  EventHandle** device_complete_events;
  DeviceHandle* execute_device;
};
struct DeserializeArgs {
  Header header;
  ClientHandle* client;
  const char* bytes;
  size_t bytes_size;
  LoadedExecutableHandle* executable;
  const char* overridden_compile_options;
  size_t overridden_compile_options_size;
};

// The size to state: the end of the last field, which is sizeof unless padding follows it.
template <class Args>
constexpr size_t stated_size() {
  if constexpr (requires { Args::kSize; }) {
    return Args::kSize;
  } else {
    return sizeof(Args);
  }
}

// Every plugin refuses a structure smaller than the oldest layout it supports: these are the sizes found in
// versions 0.81 to 0.115.
static_assert(stated_size<ErrorArgs>() == 24 && stated_size<ErrorMessageArgs>() == 40);
static_assert(offsetof(ErrorCodeArgs, code) + sizeof(int) == ErrorCodeArgs::kSize);
static_assert(stated_size<PluginInitializeArgs>() == 16 && stated_size<PluginAttributesArgs>() == 32);
static_assert(sizeof(NamedValue) == 56 && offsetof(NamedValue, value_size) == 48);
static_assert(stated_size<EventArgs>() == 24);
static_assert(stated_size<ClientCreateArgs>() == 88 && offsetof(ClientCreateArgs, client) == 64);
static_assert(stated_size<ClientDevicesArgs>() == 40 && stated_size<ClientTextArgs>() == 40);
static_assert(stated_size<Program>() == 48 && stated_size<CompileArgs>() == 56);
static_assert(stated_size<BufferFromHostArgs>() == 120 && offsetof(BufferFromHostArgs, buffer) == 112);
static_assert(offsetof(MemoryLayout, type) + sizeof(int) == MemoryLayout::kSize);
static_assert(stated_size<BufferToHostArgs>() == 56 && stated_size<BufferArgs>() == 24);
static_assert(offsetof(BufferIsDeletedArgs, is_deleted) + sizeof(bool) == BufferIsDeletedArgs::kSize);
static_assert(offsetof(DeviceMemoryStatsArgs, peak_pool_bytes) + sizeof(int64_t) + sizeof(bool) ==
              DeviceMemoryStatsArgs::kSize);
static_assert(stated_size<CompiledMemoryStatsArgs>() == 112);
static_assert(stated_size<OptimizedProgramArgs>() == 32);
static_assert(stated_size<ExecutableSerializeArgs>() == 56 && stated_size<DeserializeArgs>() == 64);
static_assert(stated_size<ExecuteOptions>() == 112 && stated_size<ExecuteArgs>() == 80);

}  // namespace vertebra::pjrt
