// Memory for tensors, workspaces and packed matrices. Large blocks come straight from the system, in huge
// pages where it grants them (fewer misses of the address cache in strided reads), and go straight back: no
// gaps in a heap that other allocations keep open (a 124M model lost 300 MB to them).
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace vertebra {

struct LargeMemoryDeleter {
  size_t mapped_bytes = 0;  // 0: from the heap
  void operator()(std::byte* memory) const;
};
using LargeMemory = std::unique_ptr<std::byte, LargeMemoryDeleter>;

// `bytes` rounded up to a multiple of 64, aligned to 64 at least; contents undefined. Throws
// resource_exhausted naming `what`, which starts the message's object: "no memory for WHAT of N bytes".
LargeMemory allocate_large(size_t bytes, std::string_view what);

}  // namespace vertebra
