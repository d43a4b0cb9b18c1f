#include "base/large_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "base/error.h"

namespace vertebra {
namespace {

constexpr size_t kAlignment = 64, kHugePage = size_t{2} << 20;
// Smaller blocks fill few pages and are left to the heap.
constexpr size_t kMapped = size_t{1} << 20;

size_t page_size() {
  static const auto size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

size_t round_up(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

// Null when the system has none. Blocks of a huge page and more start at one.
std::byte* map_pages(size_t bytes) {
  const size_t spare = bytes >= kHugePage ? kHugePage : 0;
  void* mapped = mmap(nullptr, bytes + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* start = static_cast<std::byte*>(mapped);
  if (spare == 0) return start;
  const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(start) % kHugePage) % kHugePage;
  if (skip > 0) munmap(start, skip);
  if (spare > skip) munmap(start + skip + bytes, spare - skip);
  start += skip;
  madvise(start, bytes, MADV_HUGEPAGE);  // a wish; without huge pages it fails, and nothing is lost
  return start;
}

}  // namespace

void LargeMemoryDeleter::operator()(std::byte* memory) const {
  if (mapped_bytes > 0) {
    munmap(memory, mapped_bytes);
  } else {
    std::free(memory);
  }
}

LargeMemory allocate_large(size_t bytes, std::string_view what) {
  const bool fits = bytes <= SIZE_MAX / 2;
  const bool mapped = fits && bytes >= kMapped;
  std::byte* memory = nullptr;
  const size_t rounded = fits ? round_up(bytes > 0 ? bytes : 1, mapped ? page_size() : kAlignment) : 0;
  if (fits)
    memory = mapped ? map_pages(rounded) : static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
  require(memory != nullptr, Code::kResourceExhausted, "no memory for {} of {} bytes", what, bytes);
  return LargeMemory(memory, LargeMemoryDeleter{mapped ? rounded : 0});
}

}  // namespace vertebra
